"""Elliptical bonus of representation-based exploration: how badly the group predicts a response's embedding."""

import torch
from torch import Tensor

from dqo.core.logdet import check_ridge


def elliptical_bonus(L: Tensor, ridge: float = 1.0) -> Tensor:
    """h_i^T (ridge I + sum_j h_j h_j^T)^-1 h_i over the group, the ridge leverage score of response i.

    Computed from inner products, L (L + ridge I)^-1, so it takes any kernel. With the volume's credit c_i of the same
    kernel and ridge it is 1 - exp(-c_i): the same order of responses on a flatter scale.

    Args:
        L: (..., G, G) positive semi-definite kernel; a row of zeros is empty or left out.
        ridge: regularisation strength > 0.

    Returns:
        (..., G) float64 in [0, 1); 0 for empty rows.

    Source: RepExp, arXiv 2510.11686, there with the policy's hidden states as h; docs/math.md eq. 3.3.
    """
    check_ridge(ridge)
    L = L.double()  # (..., G, G)
    A = L + ridge * torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)  # (..., G, G)
    return torch.linalg.solve(A, L).diagonal(dim1=-2, dim2=-1).clamp_min(0.0)  # (..., G)
