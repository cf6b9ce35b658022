"""Runs as points of quality and diversity: which of them no other beats, and how much a set of them covers."""

from collections.abc import Sequence

from dqo.errors import DQOError

Points = Sequence[Sequence[float]]


def pareto_front(points: Points) -> list[int]:
    """Places of the points that no other point beats: none is as good in everything and better in something.

    Args:
        points: One point per run, every coordinate the larger the better.

    Returns:
        Places in ascending order; equal points are all kept.

    Raises:
        DQOError: If the points differ in length or one is not finite.
    """
    import moocore

    rows = _rows(points)
    if not rows:
        return []
    kept = moocore.is_nondominated(rows, maximise=True, keep_weakly=True)
    return [place for place, keep in enumerate(kept) if keep]


def hypervolume(points: Points, reference: Sequence[float]) -> float:
    """Area (volume) between a reference point and the front of the points: what a set of runs covers together.

    It depends on the scale of the coordinates and on the reference: fix both before the runs are made.

    Args:
        points: One point per run, every coordinate the larger the better.
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
