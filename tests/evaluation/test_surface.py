"""EAD, corpus distinct-n, self-ROUGE and compression: by hand, against brute force, and their corners."""

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqo.errors import DQOError, NonFiniteError
from dqo.evaluation import (
    among_good,
    compression_ratio,
    corpus_distinct_n,
    distinct_n,
    effective_rank,
    expectation_adjusted_distinct,
    self_rouge,
    vendi_score,
)


def expected_distinct(vocabulary, draws):
    """Different words among uniform draws, by listing every sequence."""
    sequences = list(itertools.product(range(vocabulary), repeat=draws))
    return Fraction(sum(len(set(sequence)) for sequence in sequences), len(sequences))


@pytest.mark.parametrize(("vocabulary", "text", "different"), [(3, "a b a b", 2), (2, "a a a", 1), (5, "a b c", 3)])
def test_ead_divides_by_what_uniform_draws_would_give(vocabulary, text, different):
    value = different / expected_distinct(vocabulary, len(text.split()))
    assert expectation_adjusted_distinct([text], vocabulary) == pytest.approx(float(value))
    assert expectation_adjusted_distinct(text.split(), vocabulary) == pytest.approx(float(value)), "pooled over texts"


def test_ead_does_not_fall_with_length_as_distinct_does():
    words = torch.randint(0, 500, (4000,), generator=torch.Generator().manual_seed(0)).tolist()
    short, long = ([" ".join(map(str, words[:count]))] for count in (200, 4000))
    assert distinct_n(long, 1) < 0.2 * distinct_n(short, 1)
    assert expectation_adjusted_distinct(long, 500) == pytest.approx(1.0, abs=0.03)
    assert expectation_adjusted_distinct(short, 500) == pytest.approx(1.0, abs=0.08)


def test_ead_corners():
    assert expectation_adjusted_distinct(["", " "], 10) == expectation_adjusted_distinct([], 10) == 0.0
    assert expectation_adjusted_distinct(["a a"], 1) == 1.0
    assert expectation_adjusted_distinct(["a"], 10**15) == pytest.approx(1.0), "no digit lost for a large vocabulary"


def test_corpus_distinct_sees_one_answer_to_every_prompt():
    same, own = [["a b c"], ["a b c"]], [["a b c"], ["d e f"]]
    assert [distinct_n(texts, 2) for texts in same] == [1.0, 1.0]
    assert (corpus_distinct_n(same, 2), corpus_distinct_n(own, 2)) == (0.5, 1.0)
    assert corpus_distinct_n([["a b"], ["b a"]], 2) == 1.0, "no n-gram crosses from one prompt to the next"
    with pytest.raises(DQOError, match="must be a list of strings"):
        corpus_distinct_n(["a b c"], 2)


def test_rouge_by_hand():
    # longest common subsequence "the cat the": 3 of 5 and of 4 words: P = 3/5, R = 3/4, F = 2/3
    assert self_rouge(["the cat is the best", "the cat on the"]) == pytest.approx(2 / 3)
    # the third text shares one word of one with the first (F = 2/6) and none with the second
    assert self_rouge(["the cat is the best", "the cat on the", "best"]) == pytest.approx((2 / 3 + 2 / 6 + 0) / 3)


def test_rouge_corners():
    assert self_rouge(["same words here"] * 4) == pytest.approx(1.0)
    assert self_rouge(["only one"]) == self_rouge([]) == self_rouge(["", " ", "x"]) == 0.0
    assert self_rouge(["a b", "c d"]) == 0.0


@given(st.lists(st.sampled_from(["a b c", "b c d", "x y", "", "a"]), max_size=5), st.randoms(use_true_random=False))
def test_order_does_not_matter_and_blank_texts_add_nothing(texts, random):
    shuffled = random.sample(texts, len(texts))
    assert self_rouge(shuffled) == pytest.approx(self_rouge(texts))
    assert self_rouge([*texts, " "]) == pytest.approx(self_rouge(texts))
    assert expectation_adjusted_distinct(shuffled, 50) == expectation_adjusted_distinct(texts, 50)
    assert 0.0 <= self_rouge(texts) <= 1.0


def test_compression_is_bytes_over_bytes():
    texts = ["the quick brown fox jumps over the lazy dog"] * 20
    assert compression_ratio(texts) > 8
    varied = [" ".join(str(i * j * 7919 % 104729) for j in range(8)) for i in range(20)]
    assert compression_ratio(varied) < 3
    assert compression_ratio(["é"]) == pytest.approx(2 / 22)  # 10 bytes of head, 8 of tail, 4 of content
    assert compression_ratio([]) == compression_ratio(["", ""]) == 0.0


@pytest.mark.parametrize("call", [self_rouge, compression_ratio, lambda texts: expectation_adjusted_distinct(texts, 9)])
def test_a_single_string_is_refused(call):
    with pytest.raises(DQOError, match="must be a list of strings, got the single string 'abc'"):
        call("abc")
    with pytest.raises(DQOError, match="`vocabulary` must be 1 or more, got 0"):
        expectation_adjusted_distinct(["a"], 0)


def test_effective_rank_by_hand_and_beside_vendi():
    assert effective_rank(torch.eye(4)) == pytest.approx(4.0)
    assert effective_rank([[1.0, 2.0]] * 4) == pytest.approx(1.0)
    rows = [[1.0, 0.0]] * 9 + [[0.0, 1.0]]  # singular values 3 and 1: shares 3/4 and 1/4
    assert effective_rank(rows) == pytest.approx(4 / 3**0.75)
    assert vendi_score(rows, 1.0) < effective_rank(rows), "squared values make the rare direction rarer"


def test_effective_rank_against_singular_values_and_its_corners():
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(rows / rows.norm(dim=1, keepdim=True))
    entropy = torch.distributions.Categorical(values / values.sum()).entropy()
    assert effective_rank(rows) == pytest.approx(entropy.exp().item())
    assert effective_rank(rows.flip(0)) == pytest.approx(effective_rank(rows))
    assert effective_rank(torch.cat([rows, torch.zeros(2, 5)])) == pytest.approx(effective_rank(rows))
    assert effective_rank(torch.zeros(3, 5)) == effective_rank([]) == 0.0
    noisy = torch.randn(1, 384, generator=torch.Generator().manual_seed(1)).repeat(8, 1)
    assert effective_rank(noisy * (1 + torch.arange(8)[:, None])) == pytest.approx(1.0, abs=1e-3), "rounding is no rank"
    with pytest.raises(NonFiniteError):
        effective_rank([[1.0, float("nan")]])


def test_different_but_wrong_is_worth_nothing():
    E, rewards = torch.eye(4), [1.0, 0.0, 0.5, 0.49]
    assert among_good(vendi_score, list(E), rewards) == pytest.approx(2.0), "the threshold is inclusive"
    assert among_good(vendi_score, list(E), [0.0] * 4) == 0.0
    assert among_good(len, ["a", "b"], [0.2, 0.9], threshold=0.1) == 2.0
    with pytest.raises(DQOError, match="one number an item, got 3 for 4 items"):
        among_good(vendi_score, list(E), rewards[:3])
