"""Range of the leave-one-out credit, and its two units: nats (the paper's) and a share of the range."""

import math

import torch
from torch import Tensor

from dqo.core.logdet import check_ridge
from dqo.errors import DQOError

CREDIT_SCALES = ("nats", "unit")


def credit_range(n: int, ridge: float = 1.0) -> tuple[float, float]:
    """Tight range of the credit in a group of n unit-diagonal responses.

    Args:
        n: number of non-empty responses, at least 1.
        ridge: regularisation strength > 0.

    Returns:
        (low, high) in nats: low = log((ridge+n)/(ridge+n-1)) is reached by n copies, high = log(1+1/ridge) by a
        response orthogonal to all others. Equal at n = 1. (The paper's lemma states the looser [0, log(1+n)].)

    Raises:
        DQOError: n < 1 or ridge not a finite number above 0.

    Source: docs/math.md eq. 3.4.
    """
    check_ridge(ridge)
    if n < 1:
        raise DQOError(f"The credit's range needs a group of at least 1 non-empty response, got n={n}; skip the group.")
    return math.log1p(1.0 / (ridge + n - 1.0)), math.log1p(1.0 / ridge)


def scale_credit(credit: Tensor, scale: str, *, filled: Tensor, ridge: float = 1.0, weighted: bool = False) -> Tensor:
    """Credit in the asked unit.

    "nats" returns it as it is. "unit" maps the range of a group with n non-empty rows to [0, 1]:
    u = max(0, (c - low)/(high - low)), and u = 1 at n = 1; for the quality-weighted volume, whose low end is 0,
    u = c/high. So one alpha can mean the same at different group sizes. Both keep the order of credits in a group.

    Args:
        credit: (..., G) credits in nats of a unit-diagonal kernel (cosine or gaussian).
        scale: "nats" or "unit".
        filled: (..., G) bool, True where the response is not empty and takes part.
        ridge: the ridge the credit was computed with.
        weighted: True for credits of the quality-weighted volume.

    Returns:
        (..., G) float64; nats, or a share in [0, 1] with 0 for empty rows.

    Raises:
        DQOError: unknown scale.

    Source: docs/math.md eq. 3.5.
    """
    if scale not in CREDIT_SCALES:
        raise DQOError(f"`credit_scale` must be one of {', '.join(CREDIT_SCALES)}, got {scale!r}; choose one of these.")
    credit = credit.to(torch.float64)  # (..., G)
    if scale == "nats":
        return credit
    check_ridge(ridge)
    high = math.log1p(1.0 / ridge)
    if weighted:
        return credit / high
    n = filled.sum(dim=-1, keepdim=True).to(torch.float64)  # (..., 1)
    low = torch.log1p(1.0 / (ridge + n - 1.0).clamp_min(ridge))  # (..., 1)
    spread = (high - low).masked_fill(n <= 1, 1.0)  # (..., 1)
    share = ((credit - low) / spread).clamp_min(0.0)  # (..., G)
    alone = filled & (n == 1)  # (..., G)
    return share.masked_fill(alone, 1.0) * filled
