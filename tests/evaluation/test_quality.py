"""pass@k, max@k and distinct right answers against the mean over all subsets of k samples."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqo.errors import DQOError, NonFiniteError
from dqo.evaluation import distinct_right_at_k, max_at_k, pass_at_k


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


def test_distinct_right_by_hand():
    answers = ["Rome", "Rome", "Oslo", None]
    assert distinct_right_at_k(answers, 1) == pytest.approx(3 / 4), "the share of right ones"
    assert distinct_right_at_k(answers, 2) == pytest.approx(5 / 6 + 1 / 2), "no Rome in 1 pair of 6, no Oslo in 3"
    assert distinct_right_at_k(answers, 3) == pytest.approx(1 + 3 / 4)
    assert distinct_right_at_k(answers, 4) == 2.0
    assert distinct_right_at_k([None] * 4, 2) == 0.0
    assert distinct_right_at_k(["Rome"] * 4, 2) == 1.0
    assert distinct_right_at_k(["", "", None], 3) == 1.0, "only None is wrong"


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=8), st.data())
def test_distinct_right_is_the_mean_count_over_subsets(answers, data):
    k = data.draw(st.integers(1, len(answers)))
    counts = [len(set(subset) - {None}) for subset in itertools.combinations(answers, k)]
    assert distinct_right_at_k(answers, k) == pytest.approx(sum(counts) / len(counts), abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_distinct_right_is_unbiased_and_does_not_depend_on_n(n):
    """The mean over all outcomes of n draws from a policy, against all outcomes of two draws from it."""
    policy = {"a": 0.5, "b": 0.125, "c": 0.125, None: 0.25}

    def expected(draws, measure):
        outcomes = itertools.product(policy, repeat=draws)
        return math.fsum(math.prod(policy[answer] for answer in drawn) * measure(drawn) for drawn in outcomes)

    truth = expected(2, lambda drawn: len(set(drawn) - {None}))
    assert expected(n, lambda drawn: distinct_right_at_k(drawn, 2)) == pytest.approx(truth, abs=1e-12)
    assert truth == pytest.approx(3 / 4 + 2 * 15 / 64), "1 - (1 - p)^2 of each answer"


@pytest.mark.parametrize("k", [1, 10, 500, 990, 1000])
def test_distinct_right_of_a_thousand_samples(k):
    times = {"a": 1, "b": 9, "c": 490, None: 500}
    answers = [answer for answer, n_c in times.items() for _ in range(n_c)]
    exact = sum(1 - Fraction(math.comb(1000 - times[c], k), math.comb(1000, k)) for c in "abc")
    assert distinct_right_at_k(answers, k) == pytest.approx(float(exact), rel=1e-14)


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
        (lambda: pass_at_k(4, 5, 1), r"correct samples from 0 to n, got n=4, c=5"),
        (lambda: pass_at_k(4, -1, 1), r"correct samples from 0 to n, got n=4, c=-1"),
        (lambda: pass_at_k(4, 1.5, 1), r"whole numbers, .* got n=4, c=1\.5"),
        (lambda: max_at_k([1.0, 2.0], 3), r"got k=3 with n=2 samples"),
        (lambda: max_at_k([], 1), r"got k=1 with n=0 samples"),
        (lambda: distinct_right_at_k([None, None], 3), r"got k=3 with n=2 samples"),
    ],
)
def test_impossible_counts_are_refused(call, message):
    with pytest.raises(DQOError, match=message):
        call()


def test_nan_is_named():
    with pytest.raises(NonFiniteError, match=r"finite rewards, got nan at place 1"):
        max_at_k([0.0, float("nan")], 1)
