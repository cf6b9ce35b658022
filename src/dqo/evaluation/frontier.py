"""Runs as points of quality and diversity: which of them no other beats, and how much a set of them covers."""

import math
from collections.abc import Sequence

import numpy as np

from dqo.errors import DQOError

Points = Sequence[Sequence[float]]


def pareto_front(points: Points) -> list[int]:
    """Places of the points that no other point beats: none is as good in everything and better in something.

    Args:
        points: One point a run, every coordinate the larger the better.

    Returns:
        Places in ascending order; equal points are all kept.

    Raises:
        DQOError: If the points differ in length or one is not finite.

    Source: moocore's `is_nondominated`.
    """
    import moocore

    rows = _rows(points)
    if not rows:
        return []
    kept = moocore.is_nondominated(rows, maximise=True, keep_weakly=True)
    return [place for place, keep in enumerate(kept) if keep]


def hypervolume(points: Points, reference: Sequence[float]) -> float:
    """Area (volume) between a reference point and the front of the points: what a set of runs covers together.

    Depends on the scale of the coordinates and on the reference: fix both before the runs are made, and divide each
    coordinate by its range.

    Args:
        points: One point a run, every coordinate the larger the better.
        reference: The worst corner; points that do not beat it in every coordinate add nothing.

    Returns:
        A number of 0 or more, in the product of the coordinates' units.

    Raises:
        DQOError: If the points and the reference differ in length or a coordinate is not finite.

    Source: Zitzler and Thiele 1998; computed by moocore.
    """
    import moocore

    rows = _rows([*points, reference])[:-1]
    better = [row for row in rows if all(value > low for value, low in zip(row, reference, strict=True))]
    return float(moocore.hypervolume(better, ref=list(reference), maximise=True)) if better else 0.0


def _rows(points: Points) -> list[list[float]]:
    rows = [[float(value) for value in point] for point in points]
    for place, row in enumerate(rows):
        if len(row) != len(rows[0]) or not all(abs(value) < float("inf") for value in row):
            raise DQOError(f"Points must have {len(rows[0])} finite coordinates each, got {row} at place {place}.")
    return rows


# How much of the quality-diversity plane a set of points covers, at a number of points that is the same for all.
#
# The hypervolume grows with the number of points, so a method tried at six alphas beats one tried at two without being
# better. Here it is taken at k points: the mean over all choices of k of a method's points, as pass@k is over samples.


def hypervolume_at_k(points: np.ndarray, k: int) -> np.ndarray:
    """Expected area covered by k of K points, drawn without replacement, above the reference (0, 0).

    A place of the plane is covered by a draw unless all k points come from the K − c that do not cover it, so the
    expected area is the integral of 1 − C(K−c, k)/C(K, k) over the plane, c the number of points that cover the place.
    c is constant on the cells of the grid through the points' coordinates, which makes the integral a sum. At k = K it
    is the hypervolume of all points (Zitzler and Thiele 1998).

    Args:
        points: (..., K, 2) coordinates in [0, 1], the larger the better.
        k: Points granted, 1 <= k <= K.

    Returns:
        (...,) areas in [0, 1].

    Raises:
        DQOError: If k is out of range or a coordinate is not in [0, 1].
    """
    points = np.asarray(points, dtype=np.float64)  # (..., K, 2)
    total = points.shape[-2]
    if not 1 <= k <= total:
        raise DQOError(f"A hypervolume at k points needs 1 <= k <= {total}, the points there are, got k={k}.")
    if not ((points >= 0) & (points <= 1)).all():
        raise DQOError("A hypervolume needs coordinates in [0, 1]; normalise the points by their axes first.")
    x, y = points[..., 0], points[..., 1]  # (..., K)
    right, top = np.sort(x, axis=-1), np.sort(y, axis=-1)  # (..., K) far edges of the grid's cells
    width = np.diff(right, axis=-1, prepend=0.0)  # (..., K)
    height = np.diff(top, axis=-1, prepend=0.0)  # (..., K)
    reaches_x = x[..., None, :] >= right[..., :, None]  # (..., K, K) column, point
    reaches_y = y[..., None, :] >= top[..., :, None]  # (..., K, K) row, point
    covering = reaches_x.astype(np.int64) @ np.swapaxes(reaches_y, -1, -2).astype(np.int64)  # (..., K, K) columns, rows
    missed = np.array([math.comb(total - c, k) for c in range(total + 1)], dtype=np.float64) / math.comb(total, k)
    covered = 1.0 - missed[covering]  # (..., K, K)
    return np.einsum("...i,...ij,...j->...", width, covered, height)


def normalise(quality: np.ndarray, vendi: np.ndarray, n_samples: int) -> np.ndarray:
    """Points of the plane with quality 0 and Vendi 1 at the origin.

    Args:
        quality: (...,) in [0, 1].
        vendi: (...,) Vendi scores of `n_samples` responses, in [0, n_samples]; below 1 (nothing but empty responses)
            counts as 1.
        n_samples: At least 2; the upper end of the Vendi axis, 10 where ten responses are drawn.

    Returns:
        (..., 2) coordinates in [0, 1].

    Raises:
        DQOError: If there is one sample a prompt, or a quality outside [0, 1].
    """
    quality, vendi = np.asarray(quality, dtype=np.float64), np.asarray(vendi, dtype=np.float64)  # (...,)
    if n_samples < 2:
        raise DQOError("A quality-diversity front needs at least 2 responses a prompt, got 1; raise evaluation.n.")
    if not ((quality >= 0) & (quality <= 1)).all():
        raise DQOError("A quality-diversity front needs qualities in [0, 1]; map the reward to that range.")
    return np.stack([quality, np.clip((vendi - 1.0) / (n_samples - 1.0), 0.0, 1.0)], axis=-1)
