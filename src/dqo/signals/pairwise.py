"""Mean distance of a response to the others of its group: the foil of the volume, which two tight clusters satisfy."""

import torch
from torch import Tensor


def pairwise_distance(L: Tensor) -> Tensor:
    """Mean of 1 - L_ij over the other non-empty responses j of the group.

    The group's sum is a set function's leave-one-out credit too, that of the mean distance times G/2, so centring
    keeps its gradient. It saturates at two clusters: a third of the same size adds nothing to a member's mean.

    Args:
        L: (..., G, G) kernel with unit diagonal; a row of zero diagonal is empty or left out.

    Returns:
        (..., G) float64 in [0, 2]; 0 for empty rows and for a response that is alone.

    Source: docs/signals.md "pairwise"; the paper argues against it with its city toy.
    """
    L = L.double()  # (..., G, G)
    filled = (L.diagonal(dim1=-2, dim2=-1) > 0).double()  # (..., G)
    others = (filled.sum(-1, keepdim=True) - 1.0).clamp_min(1.0)  # (..., 1)
    distance = (1.0 - L) * filled.unsqueeze(-1) * filled.unsqueeze(-2)  # (..., G, G)
    itself = torch.eye(L.shape[-1], dtype=torch.bool, device=L.device)  # (G, G)
    return distance.masked_fill(itself, 0.0).sum(-1) / others
