"""Vendi score, mean distance and volume: published reference values, identities and what must not matter."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqo.errors import DQOError, NonFiniteError
from dqo.evaluation import group_log_volume, mean_cosine_distance, vendi_score


def uniform(cosine, n=4):
    """n unit vectors with the same cosine between any two."""
    gram = torch.full((n, n), cosine, dtype=torch.float64)
    return torch.linalg.cholesky(gram + (1 - cosine) * torch.eye(n))


COPIES = torch.tensor([[0.6, 0.8]] * 4)
PAIRS = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("rows", "vendi", "volume", "distance"),
    [
        (COPIES, 1.000, 1.609, 0.0),
        (PAIRS, 2.000, 2.197, 0.667),
        (torch.eye(4), 4.000, 2.773, 1.0),
        (uniform(0.9), 1.417, 1.833, 0.1),
        (uniform(0.5), 2.926, 2.469, 0.5),
    ],
)
def test_reference_values(rows, vendi, volume, distance):
    assert vendi_score(rows) == pytest.approx(vendi, abs=5e-4)
    assert group_log_volume(rows) == pytest.approx(volume, abs=5e-4)
    assert mean_cosine_distance(rows) == pytest.approx(distance, abs=5e-4)


@pytest.mark.parametrize("q", [0.0, 0.3, 1.0, 1.0 + 1e-12, 2.0, 50.0, 5000.0, math.inf])
def test_every_order_counts_equal_modes(q):
    assert vendi_score(COPIES, q) == pytest.approx(1.0, abs=1e-6)
    assert vendi_score(PAIRS, q) == pytest.approx(2.0, abs=1e-6)
    assert vendi_score(np.eye(7), q) == pytest.approx(7.0, abs=1e-6)


def test_orders_of_an_unequal_spectrum_by_hand():
    rows = [[1.0, 0.0]] * 3 + [[0.0, 1.0]]  # eigenvalues 3/4 and 1/4
    assert vendi_score(rows, 0) == pytest.approx(2.0)
    assert vendi_score(rows, 1) == pytest.approx(4 / 3**0.75)
    assert vendi_score(rows, 2) == pytest.approx(1.6)  # 1 / (9/16 + 1/16)
    assert vendi_score(rows, 0.5) == pytest.approx((math.sqrt(3) / 2 + 1 / 2) ** 2)
    assert vendi_score(rows, math.inf) == pytest.approx(4 / 3)


def test_a_large_order_approaches_the_limit_instead_of_overflowing():
    rows = uniform(0.5, 6)
    assert vendi_score(rows, 2000.0) == pytest.approx(vendi_score(rows, math.inf), rel=1e-2)


def test_the_order_one_is_no_step():
    rows = uniform(0.3, 5)
    for step in (1e-3, 1e-5, 1e-7, 1e-9, 1e-12, 1e-15):
        for near in (1.0 - step, 1.0 + step):
            assert vendi_score(rows, near) == pytest.approx(vendi_score(rows, 1.0), rel=step + 1e-7)


unit = st.integers(0, 2**31).map(
    lambda seed: torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
)


@settings(max_examples=40, deadline=None)
@given(unit, st.permutations(range(6)))
def test_what_must_not_matter(rows, order):
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    lengths = torch.rand(6, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64) + 0.1
    for measure in (vendi_score, mean_cosine_distance, group_log_volume, lambda E: vendi_score(E, 2.0)):
        value = measure(rows)
        assert measure(rows[list(order)]) == pytest.approx(value, abs=1e-9)
        assert measure(rows @ rotation) == pytest.approx(value, abs=1e-9)
        assert measure(rows * lengths) == pytest.approx(value, abs=1e-9)
        assert measure(torch.cat([rows, torch.zeros(3, 5)])) == pytest.approx(value, abs=1e-9), (
            "empty texts add nothing"
        )
        assert measure(rows.tolist()) == measure(rows.numpy()) == measure(list(rows)) == value


@settings(max_examples=40, deadline=None)
@given(unit)
def test_vendi_is_between_one_and_g_and_falls_with_the_order(rows):
    scores = [vendi_score(rows, q) for q in (0.0, 0.5, 1.0, 2.0, 7.0, math.inf)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] >= 1.0 - 1e-9
    assert scores[0] <= 6.0 + 1e-9
    assert vendi_score(torch.cat([rows, rows])) == pytest.approx(vendi_score(rows)), "doubling every response adds none"


def test_one_none_and_only_empty_responses():
    one, empty = [[3.0, 4.0]], torch.zeros(4, 8)
    assert (vendi_score(one), mean_cosine_distance(one)) == (pytest.approx(1.0), 0.0)
    assert group_log_volume(one) == pytest.approx(math.log(2.0))
    for nothing in (empty, torch.zeros(0, 8), []):
        assert (vendi_score(nothing), group_log_volume(nothing)) == (0.0, 0.0), "no response, none that differs"
        assert math.isnan(mean_cosine_distance(nothing)), "0 is the distance of copies"


def test_float32_noise_in_copies_is_not_a_mode():
    row = torch.randn(1, 384, generator=torch.Generator().manual_seed(0))
    noisy = row * (1 + 1e-7 * torch.randn(8, 384, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(noisy[0], noisy[1])
    assert vendi_score(noisy, 0.0) == 1.0
    assert vendi_score(noisy, 0.1) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("measure", [vendi_score, mean_cosine_distance, group_log_volume])
def test_bad_embeddings_are_refused(measure):
    rows = torch.eye(3)
    rows[2, 1] = float("nan")
    with pytest.raises(NonFiniteError, match=r"row \[2\] of shape \(3, 3\) holds NaN or infinity"):
        measure(rows)
    with pytest.raises(DQOError, match=r"must have shape \(G, D\), got \(2, 3, 3\)"):
        measure(torch.zeros(2, 3, 3))
    with pytest.raises(DQOError, match=r"must be G rows of D numbers each"):
        measure([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("q", [-1.0, float("nan")])
def test_a_bad_order_is_refused(q):
    with pytest.raises(DQOError, match=r"order `q` of a Vendi score must be >= 0"):
        vendi_score(torch.eye(3), q)


def test_the_measures_import_no_host_and_no_plots():
    probe = "import sys, dqo.evaluation; print(*[m for m in ('transformers', 'matplotlib', 'trl') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split() == []
    )
