"""Uncertainty of a mean over prompts: intervals by resampling prompts, p-values by flipping signs.

Prompts are the unit: the samples of one prompt are not independent of each other, so an interval over all rows would
be too narrow. What the numbers do not hold is the spread over training seeds.
"""

from collections.abc import Iterator, Sequence
from itertools import product
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
    columns: Sequence[Sequence[float]],
    *,
    level: float = 0.95,
    resamples: int = 5000,
    flips: int = 5000,
    seed: int = 0,
) -> list[Shift]:
    """Mean differences of two runs over the prompts they share, with intervals and p-values, for many metrics.

    The intervals are the bootstrap's, narrower than two side by side. The p-value is that of sign flips: were the runs
    alike, each difference could as well be its negative, so it is the share of sign vectors whose total is as far from
    0 as the one seen. Unlike one read off the bootstrap it holds for few prompts too: of P it is 2/2^P at least. All
    columns see the same draws and signs.

    Args:
        columns: For each metric one finite difference a prompt, all of one length P.
        level: Coverage aimed at.
        resamples: How many times the prompts are drawn with replacement.
        flips: How many sign vectors are drawn; where there are no more than that, each is taken once, otherwise the one
            seen counts as one more.
        seed: Seed of generators of its own.

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
    ps = _sign_flips(table, flips, seed)  # (M,)
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


def _sign_flips(table: np.ndarray, flips: int, seed: int) -> np.ndarray:
    """Two-sided p-values of every column of (P, M), the same signs for all of them: (M,)."""
    noise = 1e-12 * np.abs(table).sum(axis=0)  # (M,) equal totals may differ in their last digits
    seen = np.abs(table.sum(axis=0)) - noise  # (M,)
    as_far = sum((np.abs(signs @ table) >= seen).sum(axis=0) for signs in _signs(len(table), flips, seed))  # (M,)
    every = 2 ** len(table)
    return as_far / every if every <= flips else (as_far + 1) / (flips + 1)


def _signs(P: int, flips: int, seed: int) -> Iterator[np.ndarray]:
    """Sign vectors as rows (R', P): each of the 2^P once where they are no more than `flips`, else so many drawn."""
    every = 2**P
    if every <= flips:
        yield np.array(list(product((-1.0, 1.0), repeat=P)))
        return
    rng = np.random.default_rng([seed, 1])  # other draws than those of the prompts
    at_once = max(1, _DRAWS_AT_ONCE // P)
    for first in range(0, flips, at_once):
        yield rng.choice([-1.0, 1.0], size=(min(at_once, flips - first), P))


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
