"""Is a difference between two runs more than the luck of which prompts were asked: paired bootstrap of many metrics.

The same resampled prompts serve every metric, so one matrix product gives all of them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 5000
_WEIGHTS_AT_ONCE = 4_000_000  # 32 MB


class Difference(NamedTuple):
    """Mean of run - baseline over shared prompts, its 95 % interval, and the two-sided bootstrap p, raw and by Holm."""

    mean: float
    low: float
    high: float
    p: float
    holm: float
    prompts: int


def paired_differences(
    baseline: Mapping[str, Mapping[str, float | None]],
    run: Mapping[str, Mapping[str, float | None]],
    metrics: Sequence[str],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare two runs prompt by prompt.

    Prompts are resampled with replacement, 5,000 times. p is twice the smaller share of resampled means on one side of
    0, counted with one more on both ends, so that it is never 0; Holm's step-down over the metrics given here keeps
    the chance of any false "significant" below the level, whatever their correlation.

    Args:
        baseline: Prompt id -> metric -> value; None where a prompt has none.
        run: The same of the other run.
        metrics: Which to compare.
        level: Coverage of the interval.
        seed: Of the resampling.

    Returns:
        Metric -> difference; metrics without a value for at least two shared prompts are left out.
    """
    shared = [key for key in baseline if key in run]
    pairs = {m: [(baseline[key].get(m), run[key].get(m)) for key in shared] for m in metrics}
    rows = {m: [np.nan if None in pair else pair[1] - pair[0] for pair in column] for m, column in pairs.items()}
    rows = {m: column for m, column in rows.items() if np.isfinite(column).sum() >= 2}
    if not rows:
        return {}
    D = np.array(list(rows.values()), dtype=np.float64).T  # (P, M)
    known = np.isfinite(D)  # (P, M)
    means = _resampled_means(np.where(known, D, 0.0), known, seed)  # (R, M)
    tails = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)  # (2, M)
    # Rounding must not decide on which side of 0 the mean of zeros lies.
    tiny = 1e-12 * np.abs(np.where(known, D, 0.0)).max(axis=0)  # (M,)
    below, above = (means <= tiny).sum(axis=0), (means >= -tiny).sum(axis=0)  # (M,)
    p = np.minimum(1.0, 2 * (np.minimum(below, above) + 1) / (len(means) + 1))  # (M,)
    centre = np.nansum(np.where(known, D, 0.0), axis=0) / known.sum(axis=0)  # (M,)
    table = zip(centre, *tails, p, holm(p), known.sum(axis=0), strict=True)
    return {m: Difference(*map(float, row[:5]), int(row[5])) for m, row in zip(rows, table, strict=True)}


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's adjusted p values: compare with the level as they are.

    Args:
        p: One raw p value a test.

    Returns:
        (M,) in the same order: running maximum over sorted tests of p times the number of tests still open, at most 1.
    """
    p = np.asarray(p, dtype=np.float64)  # (M,)
    order = p.argsort()
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))  # (M,)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, steps)
    return adjusted


def _resampled_means(D: np.ndarray, known: np.ndarray, seed: int) -> np.ndarray:
    """Means over the known prompts of every resample: (R, M)."""
    P = len(D)
    rng = np.random.default_rng(seed)
    at_once = max(1, _WEIGHTS_AT_ONCE // P)
    parts = []
    for first in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - first)
        drawn = rng.integers(P, size=(size, P)) + P * np.arange(size)[:, None]  # (R', P)
        W = np.bincount(drawn.ravel(), minlength=size * P).reshape(size, P).astype(np.float64)  # (R', P)
        with np.errstate(invalid="ignore"):
            parts.append((W @ D) / (W @ known.astype(np.float64)))
    return np.concatenate(parts)
