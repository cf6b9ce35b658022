"""The toy's claim, by real optimisation: paid for distance a policy ends in two clusters, for volume it spreads."""

import pytest
import torch
import toy_cities

from dqo.core import cosine_kernel, gaussian_kernel
from dqo.core.volume import vendi


@pytest.fixture(scope="module")
def toy():
    return toy_cities


@pytest.fixture(scope="module")
def cities(toy):
    return toy.european_cities(24)


@pytest.fixture(scope="module")
def ends(toy, cities):
    globe = toy.on_the_globe(cities)
    by_distance = toy.optimise(cities, cosine_kernel(globe), "distance")
    by_volume = toy.optimise(cities, gaussian_kernel(globe, toy.SIGMA), "volume")
    return globe, by_distance, by_volume


def test_distance_ends_in_two_clusters_at_the_ends_of_the_map(ends):
    globe, p, _ = ends
    chord = torch.cdist(globe, globe)
    first, second = p.topk(2).indices.tolist()
    assert p[[first, second]].sum() > 0.99
    assert p[first].item() == pytest.approx(0.5, abs=0.01)
    assert chord[first, second] == chord.max(), "the two cities that are farthest from each other"


def test_volume_spreads_over_the_map(toy, ends):
    globe, _, p = ends
    assert toy.effective_number(p) > 10
    assert p.max() < 0.2
    chord = torch.cdist(globe, globe)
    likely = p > 0.02
    reach = chord[:, likely].min(dim=1).values
    assert reach.max() < 0.2, "no city is farther than 1300 km from one the policy recommends"


def test_volume_finds_more_different_cities_by_any_width_of_judge(toy, ends):
    """Vendi at half and at twice the bandwidth that was paid for, so that the judge is not the payer."""
    globe, by_distance, by_volume = ends
    for sigma in (toy.SIGMA / 2, 2 * toy.SIGMA):
        L = gaussian_kernel(globe, sigma)
        score = [vendi(L * p.sqrt() * p.sqrt()[:, None]).item() for p in (by_distance, by_volume)]
        assert score[0] < 2.01
        assert score[1] > 2 * score[0]


def test_numbers_by_hand(toy):
    assert toy.effective_number(torch.tensor([0.25] * 4, dtype=torch.float64)) == pytest.approx(4)
    assert toy.effective_number(torch.tensor([1.0, 0.0])) == pytest.approx(1)
    north_pole = toy.City("", "", 1, 90.0, 0.0)
    null_island = toy.City("", "", 1, 0.0, 0.0)
    expected = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(toy.on_the_globe([north_pole, null_island]), expected)
