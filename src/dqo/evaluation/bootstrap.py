"""Uncertainty of a mean over prompts, by resampling prompts.

Prompts are the unit: the samples of one prompt are not independent of each other, so an interval over all rows would
be too narrow. What the interval does not hold is the spread over training seeds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dqo.errors import DataError, NonFiniteError

_DRAWS_AT_ONCE = 1_000_000  # 16 MB of indices and values


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 5000, seed: int = 0
) -> Interval:
    """Mean of one value a prompt with its percentile bootstrap interval.

    Args:
        values: One finite value a prompt, at least one.
        level: Coverage aimed at, between 0 and 1. Below some 20 prompts the percentile interval is too narrow.
        resamples: How many times the prompts are drawn with replacement.
        seed: Seed of a generator of its own; the same seed gives the same interval.

    Returns:
        Mean, low and high; all equal for one prompt, which says nothing about the spread.

    Raises:
        DataError: If there is no value, or the level is not between 0 and 1.
        NonFiniteError: If a value is NaN or infinite; names its place.
    """
    sample = _finite(values)  # (P,)
    if not 0.0 < level < 1.0:
        raise DataError(f"The confidence `level` must lie between 0 and 1, got {level}; use 0.95.")
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(sample))
    sizes = [min(at_once, resamples - first) for first in range(0, resamples, at_once)]
    means = [sample[rng.integers(len(sample), size=(size, len(sample)))].mean(axis=1) for size in sizes]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sample.mean()), float(low), float(high))


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], *, level: float = 0.95, resamples: int = 5000, seed: int = 0
) -> Interval:
    """Mean of b - a over the prompts two runs share, with its interval; narrower than two intervals side by side.

    Args:
        a: One finite value a prompt of the first run.
        b: The same of the second run, prompts in the same order.
        level: Coverage aimed at.
        resamples: How many times the prompts are drawn with replacement.
        seed: Seed of a generator of its own.

    Returns:
        Mean difference, low and high; positive where b is larger.

    Raises:
        DataError: If the two differ in length, or are empty.
        NonFiniteError: If a value is NaN or infinite; names its place.
    """
    if len(a) != len(b):
        raise DataError(f"A paired comparison needs the same prompts in both runs, got {len(a)} and {len(b)} values.")
    return bootstrap_interval(_finite(b) - _finite(a), level=level, resamples=resamples, seed=seed)


def _finite(values: Sequence[float]) -> np.ndarray:
    sample = np.asarray(values, dtype=np.float64)  # (P,)
    if not len(sample):
        raise DataError("A bootstrap over prompts needs at least one value, got none.")
    bad = ~np.isfinite(sample)  # (P,)
    if bad.any():
        place = int(bad.nonzero()[0][0])
        raise NonFiniteError(f"A bootstrap over prompts needs finite values, got {sample[place]} at place {place}.")
    return sample
