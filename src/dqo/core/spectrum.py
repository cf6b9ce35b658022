"""How many different responses a group holds, read off its kernel: Vendi score and mean cosine distance, batched."""

import torch
from torch import Tensor

from dqo.errors import DQOError


def vendi(L: Tensor, q: float = 1.0) -> Tensor:
    """Vendi score of order q: exponential of the Renyi entropy of the eigenvalues of L / trace(L).

    For q = 1 this is exp(-sum lambda log lambda); q = inf is 1/lambda_max; q = 0 counts non-zero eigenvalues. Zero
    rows (empty responses) add zero eigenvalues and nothing to the trace, so they do not count.

    Args:
        L: (..., G, G) positive semi-definite kernel matrix.
        q: order >= 0; small q stresses rare modes, large q common ones.

    Returns:
        (...,) float64, the effective number of different responses: 1 for copies, n for n orthogonal ones, 0 for a
        group without a non-empty response.

    Raises:
        DQOError: q is negative or NaN.

    Source: docs/math.md eq. 6.1 (Friedman and Dieng 2023; Pasarkar and Dieng 2024 for q).
    """
    if not q >= 0:
        raise DQOError(f"The order `q` of a Vendi score must be >= 0, got {q!r}; 1 is the usual one.")
    L = L.to(torch.float64)  # (..., G, G)
    if not L.shape[-1]:
        return L.new_zeros(L.shape[:-2])  # (...,)
    trace = L.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)  # (..., 1)
    empty = trace.squeeze(-1) <= 0  # (...,)
    lam = torch.linalg.eigvalsh(L).clamp_min(0.0) / trace.masked_fill(trace <= 0, 1.0)  # (..., G)
    lam = lam.masked_fill(lam < 1e-12, 0.0)  # (..., G) rounding, which small q would count as a mode
    # Close to 1 the general formula loses its digits to cancellation; its limit is exact to 1e-8 there.
    if abs(q - 1.0) < 1e-8:
        score = torch.exp(-torch.xlogy(lam, lam).sum(-1))  # (...,)
    elif q == float("inf"):
        score = 1.0 / lam.amax(-1).masked_fill(empty, 1.0)  # (...,)
    elif q == 0:
        score = (lam > 0).sum(-1).to(torch.float64)  # (...,)
    else:
        score = torch.exp(torch.logsumexp(q * lam.log(), dim=-1) / (1.0 - q))  # (...,) in logs: lam^q underflows
    return score.masked_fill(empty, 0.0)


def cosine_distance(L: Tensor) -> Tensor:
    """Mean of 1 - cos over the pairs of non-empty responses of a group.

    Args:
        L: (..., G, G) cosine kernel; rows with a zero diagonal are empty and left out.

    Returns:
        (...,) float64 in [0, G/(G-1)]; 0 where one response is non-empty, NaN where none is.

    Source: docs/math.md eq. 6.2.
    """
    L = L.to(torch.float64)  # (..., G, G)
    filled = (L.diagonal(dim1=-2, dim2=-1) > 0).to(L.dtype)  # (..., G)
    pairs = filled.unsqueeze(-1) * filled.unsqueeze(-2)  # (..., G, G)
    pairs = pairs - torch.diag_embed(filled)  # (..., G, G)
    count = pairs.sum((-2, -1))  # (...,)
    distance = ((1.0 - L) * pairs).sum((-2, -1)) / count.clamp_min(1.0)  # (...,)
    return distance.masked_fill(filled.sum(-1) < 1, torch.nan)
