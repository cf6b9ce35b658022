"""Which runs no other run beats in both quality and diversity."""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float] | None]) -> list[int]:
    """Places of the points that no other point dominates, larger being better in both coordinates.

    A point dominates another when it is at least as good in both and better in one; equal points stay together.

    Args:
        points: (x, y) of each run; None where it has no value.

    Returns:
        Indices of the front, by growing x.
    """
    known = [(index, point) for index, point in enumerate(points) if point is not None]
    front = [
        (point[0], index)
        for index, point in known
        if not any(other != point and other[0] >= point[0] and other[1] >= point[1] for _, other in known)
    ]
    return [index for _, index in sorted(front)]
