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


class Difference(NamedTuple):
    """A mean difference, its confidence interval, and the two-sided p-value of no difference."""

    mean: float
    low: float
    high: float
    p: float


def paired_differences(
    columns: Sequence[Sequence[float]], *, level: float = 0.95, resamples: int = 5000, seed: int = 0
) -> list[Difference]:
    """`paired_bootstrap` for many metrics of the same prompts at once, with p-values.

    All columns see the same draws, so that a column's numbers do not depend on which others are given. The p-value is
    twice the share of resampled means on the far side of 0, not below 2/(resamples + 1).

    Args:
        columns: For each metric one finite difference a prompt, all of one length P.
        level: Coverage aimed at.
        resamples: How many times the prompts are drawn with replacement.
        seed: Seed of a generator of its own.

    Returns:
        One entry a column.

    Raises:
        DataError: If a column has another length than the first, or none at all.
        NonFiniteError: If a value is NaN or infinite; names its place.
    """
    if len({len(column) for column in columns}) > 1:
        raise DataError(f"Columns must have one value a prompt, got lengths {sorted({len(c) for c in columns})}.")
    table = np.stack([_finite(column) for column in columns], axis=1) if columns else np.zeros((1, 0))  # (P, M)
    P = len(table)
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // P)
    sizes = [min(at_once, resamples - first) for first in range(0, resamples, at_once)]
    # How often each prompt is drawn, times the table: one matrix product for all metrics.
    means = np.concatenate([rng.multinomial(P, np.full(P, 1 / P), size=size) @ table / P for size in sizes])  # (R, M)
    lows, highs = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)  # (M,) each
    noise = 1e-12 * np.abs(table).max(axis=0, initial=0.0)  # (M,) a sum of equal terms is not exactly 0
    far = np.minimum((means <= noise).sum(axis=0), (means >= -noise).sum(axis=0))  # (M,)
    ps = np.minimum(1.0, 2 * (far + 1) / (resamples + 1))  # (M,)
    return [Difference(*map(float, row)) for row in zip(table.mean(axis=0), lows, highs, ps, strict=True)]


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for being several: below 0.05, at most 1 in 20 such families holds a false alarm.

    Args:
        ps: The p-values of one family of tests.

    Returns:
        Corrected p-values in the same order, none below its own or above 1.

    Source: Holm 1979.
    """
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = largest
    return corrected


def _finite(values: Sequence[float]) -> np.ndarray:
    sample = np.asarray(values, dtype=np.float64)  # (P,)
    if not len(sample):
        raise DataError("A bootstrap over prompts needs at least one value, got none.")
    bad = ~np.isfinite(sample)  # (P,)
    if bad.any():
        place = int(bad.nonzero()[0][0])
        raise NonFiniteError(f"A bootstrap over prompts needs finite values, got {sample[place]} at place {place}.")
    return sample
