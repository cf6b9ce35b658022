"""Hypervolume at k points: by hand, by counting cells of every choice, and against the usual hypervolume."""

from itertools import combinations

import numpy as np
import pytest

from dqo.errors import DQOError
from dqo.evaluation.frontier import hypervolume_at_k, normalise


def cells_covered(points, side):
    """Share of the side × side cells of the unit square that lie under a point whose coordinates are cell edges."""
    return (
        sum(any(i < x * side and j < y * side for x, y in points) for i in range(side) for j in range(side)) / side**2
    )


def test_by_hand():
    two = [[1.0, 0.25], [0.5, 0.5]]
    assert hypervolume_at_k(two, 2) == pytest.approx(0.25 + 0.125)
    assert hypervolume_at_k(two, 1) == pytest.approx(0.25), "each covers a quarter"
    assert hypervolume_at_k([[0.0, 0.9]], 1) == 0.0, "nothing without quality"
    assert hypervolume_at_k([[1.0, 1.0]], 1) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_mean_over_all_choices_of_k_counted_cell_by_cell(seed):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 21, size=(5, 2)) / 20  # ties and zeros occur
    for k in range(1, 6):
        counted = np.mean([cells_covered(choice, 20) for choice in combinations(points.tolist(), k)])
        assert hypervolume_at_k(points, k) == pytest.approx(counted)


def test_batches_are_their_members_and_order_does_not_matter():
    rng = np.random.default_rng(7)
    batch = rng.random((3, 2, 4, 2))
    for k in (1, 3, 4):
        singles = [[float(hypervolume_at_k(points, k)) for points in row] for row in batch]
        np.testing.assert_allclose(hypervolume_at_k(batch, k), singles)
        np.testing.assert_allclose(hypervolume_at_k(batch[:, :, ::-1], k), singles)


def test_more_points_cover_more_at_all_points_but_not_at_the_same_k():
    good, poor = [[0.8, 0.5], [0.5, 0.8]], [[0.2, 0.2], [0.1, 0.3]]
    assert hypervolume_at_k([*good, *poor], 4) == pytest.approx(hypervolume_at_k(good, 2))
    assert hypervolume_at_k([*good, *poor], 2) < hypervolume_at_k(good, 2)


def test_axes_are_divided_by_their_ranges():
    np.testing.assert_allclose(normalise([0.25, 1.0], [1.0, 10.0], 10), [[0.25, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(normalise(0.5, 0.0, 3), [0.5, 0.0])
    with pytest.raises(DQOError, match=r"qualities in \[0, 1\]"):
        normalise([1.5], [2.0], 10)
    with pytest.raises(DQOError, match="at least 2 responses"):
        normalise([0.5], [1.0], 1)


@pytest.mark.parametrize("k", [0, 3])
def test_k_out_of_range(k):
    with pytest.raises(DQOError, match="needs 1 <= k <= 2"):
        hypervolume_at_k([[0.1, 0.2], [0.2, 0.1]], k)
