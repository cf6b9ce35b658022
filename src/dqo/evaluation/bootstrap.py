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


def bootstrap_intervals(
    columns: Sequence[Sequence[float]], *, level: float = 0.95, resamples: int = 5000, seed: int = 0
) -> list[Interval]:
    """Means over prompts with their percentile bootstrap intervals, for many metrics of the same prompts.

    All columns see the same draws, so that a column's numbers do not depend on which others are given.

    Args:
        columns: For each metric one finite value a prompt, all of one length P.
        level: Coverage aimed at, between 0 and 1. Below some 20 prompts the percentile interval is too narrow.
        resamples: How many times the prompts are drawn with replacement.
        seed: Seed of a generator of its own; the same seed gives the same intervals.

    Returns:
        Mean, low and high of each column; all equal for one prompt, which says nothing about the spread.

    Raises:
        DataError: If a column has no value or another length than the first, or the level is not between 0 and 1.
        NonFiniteError: If a value is NaN or infinite; names its place.
    """
    table = _table(columns)  # (P, M)
    if not 0.0 < level < 1.0:
        raise DataError(f"The confidence `level` must lie between 0 and 1, got {level}; use 0.95.")
    lows, highs = np.quantile(_means(table, resamples, seed), [(1 - level) / 2, (1 + level) / 2], axis=0)  # (M,) each
    # The mean of equal values, such as 0.1, may come out of two sums that differ in the last digit.
    centres = table.mean(axis=0)  # (M,)
    rows = zip(centres, np.minimum(lows, centres), np.maximum(highs, centres), strict=True)
    return [Interval(*map(float, row)) for row in rows]


class Shift(NamedTuple):
    """A mean difference, its confidence interval, and the two-sided p-value of no difference."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap_differences(
    columns: Sequence[Sequence[float]], *, level: float = 0.95, resamples: int = 5000, seed: int = 0
) -> list[Shift]:
    """Mean differences of two runs over the prompts they share, with intervals and p-values, for many metrics.

    Narrower than two intervals side by side. All columns see the same draws, as above. The p-value is twice the share
    of resampled means on the far side of 0, not below 2/(resamples + 1).

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
    if not columns:
        return []
    table = _table(columns)  # (P, M)
    means = _means(table, resamples, seed)  # (R, M)
    lows, highs = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)  # (M,) each
    noise = 1e-12 * np.abs(table).max(axis=0, initial=0.0)  # (M,) a sum of equal terms is not exactly 0
    far = np.minimum((means <= noise).sum(axis=0), (means >= -noise).sum(axis=0))  # (M,)
    ps = np.minimum(1.0, 2 * (far + 1) / (resamples + 1))  # (M,)
    return [Shift(*map(float, row)) for row in zip(table.mean(axis=0), lows, highs, ps, strict=True)]


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


def _means(table: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of every column over prompts drawn with replacement, the same draws for all of them: (R, M)."""
    P = len(table)
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // P)
    means = []
    for first in range(0, resamples, at_once):
        size = min(at_once, resamples - first)
        drawn = rng.integers(P, size=(size, P)) + P * np.arange(size)[:, None]  # (R', P)
        # How often each prompt is drawn, times the table: one matrix product for all metrics.
        often = np.bincount(drawn.ravel(), minlength=size * P).reshape(size, P)  # (R', P)
        means.append(often.astype(np.float64) @ table / P)
    return np.concatenate(means)


def _table(columns: Sequence[Sequence[float]]) -> np.ndarray:
    if len({len(column) for column in columns}) > 1:
        raise DataError(f"Columns must have one value a prompt, got lengths {sorted({len(c) for c in columns})}.")
    return np.stack([_finite(column) for column in columns], axis=1)


def _finite(values: Sequence[float]) -> np.ndarray:
    sample = np.asarray(values, dtype=np.float64)  # (P,)
    if not len(sample):
        raise DataError("A bootstrap over prompts needs at least one value, got none.")
    bad = ~np.isfinite(sample)  # (P,)
    if bad.any():
        place = int(bad.nonzero()[0][0])
        raise NonFiniteError(f"A bootstrap over prompts needs finite values, got {sample[place]} at place {place}.")
    return sample
