"""What a response adds to its group's Vendi score: the effective number of answers with it, minus without it."""

import torch
from torch import Tensor

from dqo.core import vendi


def vendi_gain(L: Tensor) -> Tensor:
    """Leave-one-out difference of the Vendi score of order 1; one eigendecomposition a response.

    Negative where a response makes the group less even: a fourth copy beside one outlier lowers the entropy. So,
    unlike the volume's credit, it punishes what is already plentiful. It is left signed; its scale is responses.

    Args:
        L: (..., G, G) positive semi-definite kernel with unit diagonal; a row of zero diagonal is empty or left out.

    Returns:
        (..., G) float64 in effective responses; 0 for empty rows, 1 for a response that is alone.

    Source: docs/signals.md "vendi"; score of Friedman and Dieng 2023, docs/math.md eq. 6.1.
    """
    L = L.double()  # (..., G, G)
    keep = 1.0 - torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)  # (G, G): row i leaves out response i
    without = L.unsqueeze(-3) * keep.unsqueeze(-1) * keep.unsqueeze(-2)  # (..., G, G, G)
    return vendi(L).unsqueeze(-1) - vendi(without)  # (..., G)
