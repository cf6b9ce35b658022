"""What a user gets who may draw k times: unbiased pass@k and max@k from n >= k samples.

Both average over all subsets of k of the n samples. Drawing k and taking their maximum once, or a bootstrap with
replacement, is noisier or biased.
"""

import math
from collections.abc import Sequence
from typing import Any

from dqo.errors import DQOError, NonFiniteError


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of the n samples, drawn without replacement, hold a correct one: 1 - C(n-c, k)/C(n, k).

    Computed in whole numbers up to the last division: no overflow for large n, no digit of a small probability lost.

    Args:
        n: Samples drawn for the prompt.
        c: How many of them are correct.
        k: Draws granted, 1 <= k <= n.

    Returns:
        A number in [0, 1].

    Raises:
        DQOError: If k > n (there is no unbiased estimate), or a count is out of range.

    Source: Chen et al. 2021 (docs/math.md eq. 7.1); `max_at_k` of 0/1 rewards gives the same number.
    """
    n, c = _count("n", n), _count("c", c)
    k = _check_k(k, n)
    if not 0 <= c <= n:
        raise DQOError(f"pass_at_k needs a number of correct samples from 0 to n, got c={c} with n={n}.")
    few, many = sorted((c, k))  # C(n-c, k)/C(n, k) is symmetric in c and k: take the smaller numbers
    ways = math.comb(n, few)
    return (ways - math.comb(n - many, few)) / ways


def max_at_k(rewards: Sequence[float], k: int) -> float:
    """Expected best reward of k of the n samples: Σ_{i=k..n} C(i-1, k-1)/C(n, k) r_(i), r_(1) <= ... <= r_(n).

    Args:
        rewards: n finite rewards of one prompt's samples, of any sign, as tensor, array or list.
        k: Draws granted, 1 <= k <= n.

    Returns:
        A number between the mean of the rewards (k = 1) and their maximum (k = n).

    Raises:
        DQOError: If k > n (there is no unbiased estimate) or k < 1.
        NonFiniteError: If a reward is NaN or infinite; names its place.

    Source: docs/math.md eq. 7.1.
    """
    values = [float(reward) for reward in rewards]
    for place, value in enumerate(values):
        if not math.isfinite(value):
            raise NonFiniteError(f"max_at_k needs finite rewards, got {value} at place {place}; check the reward.")
    n = len(values)
    k = _check_k(k, n)
    weight, terms = k / n, []
    for i, reward in zip(range(n, k - 1, -1), sorted(values, reverse=True), strict=False):
        terms.append(weight * reward)
        weight *= (i - k) / (i - 1) if i > 1 else 0.0
    return math.fsum(terms)


def _check_k(k: int, n: int) -> int:
    k = _count("k", k)
    if not 1 <= k <= n:
        raise DQOError(
            f"An unbiased estimate needs 1 <= k <= n, got k={k} with n={n} samples; draw at least k samples."
        )
    return k


def _count(name: str, value: Any) -> int:
    if not math.isfinite(value) or int(value) != value:
        raise DQOError(f"`{name}` must be a whole number, got {value}.")
    return int(value)
