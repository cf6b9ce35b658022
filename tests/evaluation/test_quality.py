"""pass@k and max@k against the mean over all subsets of k samples, which is what they estimate."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqo.errors import DQOError, NonFiniteError
from dqo.evaluation import max_at_k, pass_at_k


def over_subsets(values, k):
    subsets = list(itertools.combinations(values, k))
    return sum(max(subset) for subset in subsets) / len(subsets)


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        correct = [1] * c + [0] * (n - c)
        assert pass_at_k(n, c, k) == pytest.approx(over_subsets(correct, k), abs=1e-14)
        assert max_at_k(correct, k) == pytest.approx(pass_at_k(n, c, k), abs=1e-14)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8), st.data())
def test_max_at_k_is_the_mean_maximum_over_subsets(rewards, data):
    k = data.draw(st.integers(1, len(rewards)))
    assert max_at_k(rewards, k) == pytest.approx(over_subsets(rewards, k), abs=1e-9)


def test_ends():
    rewards = [0.25, -3.0, 0.5, 0.5]
    assert max_at_k(rewards, 1) == pytest.approx(sum(rewards) / 4)
    assert max_at_k(rewards, 4) == 0.5
    assert pass_at_k(10, 10, 1) == 1.0
    assert pass_at_k(10, 0, 10) == 0.0
    assert pass_at_k(10, 1, 10) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(1000, 3, 500), (10_000, 7, 9_000), (1_000_000, 1, 1), (5000, 2500, 2)])
def test_large_counts_stay_exact(n, c, k):
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k)) if n < 100_000 else Fraction(k, n)
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-12)


def test_a_vanishing_probability_keeps_its_digits():
    assert pass_at_k(10**15, 1, 3) == pytest.approx(3e-15, rel=1e-12)


def test_max_at_k_of_many_samples():
    n = 4000
    expected = sum(Fraction(math.comb(i - 1, 99), math.comb(n, 100)) * i for i in range(100, n + 1))
    assert max_at_k(range(1, n + 1), 100) == pytest.approx(float(expected), rel=1e-12)


def test_arrays_tensors_and_whole_floats_are_taken():
    assert max_at_k(np.array([1.0, 2.0]), 1) == max_at_k(torch.tensor([1.0, 2.0]), 1) == max_at_k([1, 2], 1) == 1.5
    assert pass_at_k(np.int64(4), 2.0, torch.tensor(1)) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k(4, 2, 5), r"unbiased estimate needs 1 <= k <= n, got k=5 with n=4 samples; draw at least k"),
        (lambda: pass_at_k(4, 2, 0), r"needs 1 <= k <= n, got k=0"),
        (lambda: pass_at_k(4, 5, 1), r"correct samples from 0 to n, got c=5 with n=4"),
        (lambda: pass_at_k(4, -1, 1), r"correct samples from 0 to n, got c=-1"),
        (lambda: pass_at_k(4, 1.5, 1), r"`c` must be a whole number, got 1\.5"),
        (lambda: max_at_k([1.0, 2.0], 3), r"got k=3 with n=2 samples"),
        (lambda: max_at_k([], 1), r"got k=1 with n=0 samples"),
    ],
)
def test_impossible_counts_are_refused(call, message):
    with pytest.raises(DQOError, match=message):
        call()


def test_nan_is_named():
    with pytest.raises(NonFiniteError, match=r"finite rewards, got nan at place 1"):
        max_at_k([0.0, float("nan")], 1)
