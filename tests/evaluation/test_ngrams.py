"""distinct-n and self-BLEU: counted by hand, and the corners where a careless version reports diversity."""

import itertools
import math
import random

import pytest
from sacrebleu.metrics import BLEU

from dqo.errors import DQOError
from dqo.evaluation import distinct_n, self_bleu

TEXTS = ["a b a b", "a b c"]  # unigrams a b a b a b c; bigrams ab ba ab ab bc


@pytest.mark.parametrize(("n", "value"), [(1, 3 / 7), (2, 3 / 5), (3, 3 / 3), (4, 1 / 1)])
def test_distinct_n_by_hand(n, value):
    assert distinct_n(TEXTS, n) == value


def test_ngrams_do_not_cross_texts():
    assert math.isnan(distinct_n(["a", "b", "a", "b"], 2)), "no pair of words at all"
    assert distinct_n(["a b", "b a"], 2) == 1.0


def test_any_white_space_separates_and_case_counts():
    assert distinct_n(["a\tb\n a\u2028b"], 1) == 0.5
    assert distinct_n(["A a"], 1) == 1.0


def test_order_and_empty_texts_do_not_matter():
    texts = ["the cat sat on the mat", "a dog sat", "", "  "]
    values = {(distinct_n(order, 2), round(self_bleu(order), 9)) for order in itertools.permutations(texts)}
    assert values == {(distinct_n(texts[:2], 2), round(self_bleu(texts[:2]), 9))}


def test_copies():
    assert distinct_n(["one two three four"] * 5, 1) == 0.2
    assert self_bleu(["one two three four five"] * 5) == pytest.approx(100.0)
    assert self_bleu(["yes"] * 3) == pytest.approx(100.0), "short texts are judged by the n-grams they have"


def test_self_bleu_of_one_or_no_text_is_undefined():
    assert all(map(math.isnan, map(self_bleu, ([], ["alone here"], ["", "", "alone here"], ["", ""]))))


def test_without_n_words_there_is_no_share_of_different_ngrams():
    """Ten different one-word answers are as different as can be, and ten copies of three words are not."""
    cities = ["Rome", "Oslo", "Lima", "Bonn", "Kyiv", "Riga", "Cairo", "Quito", "Delhi", "Minsk"]
    assert [distinct_n(cities, n) for n in (1, 2, 3, 4)] == pytest.approx([1.0] + 3 * [math.nan], nan_ok=True)
    copies = [distinct_n(["New York City"] * 10, n) for n in (1, 2, 3, 4)]
    assert copies == pytest.approx([0.1, 0.1, 0.1, math.nan], nan_ok=True)
    assert math.isnan(distinct_n([], 1))


def test_self_bleu_by_hand():
    # Each way 5 of 6 unigrams, 3 of 5 bigrams and 1 of 4 trigrams match; of 3 four-grams none, smoothed to 1/2.
    value = self_bleu(["the cat sat on red mats", "the cat sat near red mats"])
    assert value == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25)


def test_self_bleu_is_sacrebleus_own_of_each_text_against_the_others():
    pick = random.Random(0)
    words = [
        "the",
        "cat",
        ",",
        "sat",
        "on",
        "a",
        "mat.",
        "dog's",
        "3.5",
        "$5",
        "don't-know",
        "(",
        "A",
        "&quot;",
    ]
    bleu = BLEU(effective_order=True)
    for _ in range(300):
        texts = [" ".join(pick.choices(words, k=pick.randint(1, 12))) for _ in range(pick.randint(2, 6))]
        scores = [bleu.sentence_score(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)]
        assert self_bleu(texts) == pytest.approx(min(100.0, sum(scores) / len(scores)), abs=1e-9), texts


def test_a_response_is_compared_with_all_the_others_at_once():
    first, second = "one two three four five", "six seven eight nine ten"
    assert self_bleu([first, second]) < 10.0
    both = self_bleu([first, second, first, second])
    assert both == pytest.approx(100.0), "each has its twin among the references"


def test_a_bare_string_is_refused():
    for measure in (self_bleu, lambda texts: distinct_n(texts, 1)):
        with pytest.raises(DQOError, match=r"must be a list of strings, got the single string 'abc'"):
            measure("abc")
    with pytest.raises(DQOError, match=r"`n` of distinct_n must be 1 or more, got 0"):
        distinct_n(["a"], 0)
