"""Pass@k training: the advantage of a response is what it does to the chance that k draws hold a right one."""

import torch
from torch import Tensor

from dqo.errors import DQOError


def pass_at_k_advantage(correct: Tensor, scored: Tensor, k: int) -> Tensor:
    """Advantages for the objective pass@k, from all subsets of k of the n scored responses of each group.

    With N- wrong of n: R = 1 - C(N-, k)/C(n, k), sigma = sqrt(R (1 - R)), a right response gets (1 - R)/sigma, a
    wrong one (1 - R - C(N- - 1, k - 1)/C(n - 1, k - 1))/sigma. A group with R = 0 or 1 gets 0: once k draws are sure
    to hold a right answer, there is nothing to learn from it.

    Args:
        correct: (..., G) bool.
        scored: (..., G) bool, True where the response could be judged.
        k: draws, at least 1.

    Returns:
        (..., G) float64; 0 for unscored responses and for groups of fewer than k scored ones.

    Raises:
        DQOError: k < 1.

    Source: arXiv 2508.10751, equations of the analytical derivation; docs/signals.md "pass_at_k".
    """
    if k < 1:
        raise DQOError(f"`pass_k` must be at least 1, got {k!r}; it is the number of draws of pass@k.")
    n = scored.sum(-1, keepdim=True).double()  # (..., 1)
    wrong = (scored & ~correct).sum(-1, keepdim=True).double()  # (..., 1)
    fail = _ratio(wrong, n, k)  # (..., 1) probability that k of the n hold no right one
    fail_beside = _ratio(wrong - 1.0, n - 1.0, k - 1)  # (..., 1) the same for the k - 1 beside a wrong one
    sigma = (fail * (1.0 - fail)).sqrt()  # (..., 1)
    advantage = torch.where(correct, fail, fail - fail_beside) / torch.where(sigma > 0, sigma, 1.0)  # (..., G)
    return advantage.masked_fill(~scored | (sigma <= 0) | (n < k), 0.0)


def _ratio(m: Tensor, n: Tensor, k: int) -> Tensor:
    """C(m, k) / C(n, k) as a product of k fractions; 0 where m < k."""
    ratio = torch.ones_like(n)  # (..., 1)
    for j in range(k):
        ratio = ratio * ((m - j).clamp_min(0.0) / (n - j).clamp_min(1.0))
    return ratio
