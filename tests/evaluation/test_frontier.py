"""Front and hypervolume, by hand and by counting cells."""

import pytest

from dqo.errors import DQOError
from dqo.evaluation import hypervolume, pareto_front


def test_front_by_hand():
    points = [(0.9, 1.0), (0.5, 4.0), (0.5, 3.0), (0.9, 1.0), (0.2, 3.9), (0.1, 5.0)]
    assert pareto_front(points) == [0, 1, 3, 5]
    assert pareto_front([]) == []
    assert pareto_front([(1.0, 1.0)]) == [0]


def test_volume_by_hand():
    assert hypervolume([(2.0, 3.0)], (0.0, 1.0)) == pytest.approx(4.0)
    assert hypervolume([(2.0, 1.0), (1.0, 2.0)], (0.0, 0.0)) == pytest.approx(3.0)
    assert hypervolume([(-1.0, 9.0)], (0.0, 0.0)) == 0.0, "worse than the reference in one coordinate"
    assert hypervolume([], (0.0, 0.0)) == 0.0


def test_volume_counts_the_cells_under_the_front():
    points = [(7, 2), (5, 5), (2, 8), (6, 3), (1, 1), (5, 4)]
    cells = sum(any(x < a and y < b for a, b in points) for x in range(1, 10) for y in range(1, 10))
    assert hypervolume(points, (1, 1)) == pytest.approx(cells)
    cells = sum(
        any(x < a and y < b and z < c for a, b, c in [(3, 2, 1), (1, 3, 3), (2, 2, 2)])
        for x in range(4) for y in range(4) for z in range(4)
    )  # fmt: skip
    assert hypervolume([(3, 2, 1), (1, 3, 3), (2, 2, 2)], (0, 0, 0)) == pytest.approx(cells)


@pytest.mark.parametrize("points", [[(1.0, 2.0), (1.0,)], [(1.0, float("nan"))], [(float("inf"), 1.0)]])
def test_bad_points_are_refused(points):
    with pytest.raises(DQOError, match="finite coordinates each, got"):
        hypervolume(points, (0.0, 0.0))
