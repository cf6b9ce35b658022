"""Diversity of words: n-grams, self-BLEU, self-ROUGE and compression, by hand and against the libraries."""

import itertools
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from dqo.errors import DQOError, NonFiniteError
from dqo.evaluation import (
    among_good,
    compression_ratio,
    corpus_distinct_n,
    distinct_n,
    effective_rank,
    self_bleu,
    self_rouge,
    vendi_score,
)

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


# What 13a splits, joins, replaces and leaves, and what makes it look further than the next white space.
TOKENS = ["the", "cat", ",", "sat", "a", "mat.", "dog's", "3.5", "$5", "don't-know", "(", "2-", ".5", "1.", "é", "—",
          "&quot;", "&amp;lt;", "<skipped>", "<skip", "ped>", "x-\ny", "x-\n"]  # fmt: skip


@pytest.mark.parametrize("gap", [" ", "\n", "\t", "\u2028", " \u3000"])
def test_self_bleu_is_sacrebleus_own_of_each_text_against_the_others(gap):
    pick, bleu = random.Random(0), BLEU(effective_order=True)
    for _ in range(80):
        texts = [gap.join(pick.choices(TOKENS, k=pick.randint(1, 12))) for _ in range(pick.randint(2, 6))]
        texts = [text for text in texts if text.strip()]
        scores = [bleu.sentence_score(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)]
        mean = sum(scores) / len(scores) if len(texts) > 1 else math.nan
        assert self_bleu(texts) == pytest.approx(min(100.0, mean), abs=1e-9, nan_ok=True), texts


def test_of_many_copies_and_repeats_each_is_still_judged_by_the_others():
    """Texts that hold an n-gram most often, alone or together, and texts that repeat a word."""
    pick, bleu = random.Random(1), BLEU(effective_order=True)
    texts = [" ".join(pick.choices("ab", k=pick.randint(1, 30))) for _ in range(30)] + ["a a a a a"] * 3 + ["b " * 40]
    scores = [bleu.sentence_score(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)]
    assert self_bleu(texts) == pytest.approx(sum(scores) / len(scores), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 4, 9, 20])
def test_distinct_n_is_the_size_of_the_set_of_ngrams(n):
    """At n = 20 the 60 words make more possible n-grams than a 64-bit number can tell apart."""
    pick = random.Random(n)
    texts = [" ".join(str(pick.randrange(60)) for _ in range(pick.randrange(40))) for _ in range(30)]
    texts += [texts[0], "1 2 " * 30]
    words = [text.split() for text in texts]
    ngrams = [tuple(row[i : i + n]) for row in words for i in range(len(row) - n + 1)]
    assert distinct_n(texts, n) == len(set(ngrams)) / len(ngrams)


def test_self_rouge_is_the_mean_of_rouge_scores_own_pairs():
    pick, scorer = random.Random(2), RougeScorer(["rougeL"])
    words = ["The", "cat", "sat", "on", "a", "mat.", "dog's", "3.5", "naïve", "x-y"]
    for most in (1, 5, 90):
        texts = [" ".join(pick.choices(words, k=pick.randint(1, most))) for _ in range(12)]
        pairs = [scorer.score(a, b)["rougeL"].fmeasure for a, b in itertools.combinations(texts, 2)]
        assert self_rouge(texts) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


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
    assert all(map(math.isnan, map(self_rouge, (["only one"], [], ["", " ", "x"]))))
    assert self_rouge(["a b", "c d"]) == 0.0


@given(st.lists(st.sampled_from(["a b c", "b c d", "x y", "", "a"]), max_size=5), st.randoms(use_true_random=False))
def test_order_does_not_matter_and_blank_texts_add_nothing(texts, random):
    shuffled = random.sample(texts, len(texts))
    assert self_rouge(shuffled) == pytest.approx(self_rouge(texts), nan_ok=True)
    assert self_rouge([*texts, " "]) == pytest.approx(self_rouge(texts), nan_ok=True)
    assert math.isnan(self_rouge(texts)) == (sum(map(bool, texts)) < 2)
    assert not self_rouge(texts) > 1.0


THAI, CHINESE = "แมวตัวหนึ่งนั่งอยู่บนเสื่อสีแดง", "一只猫坐在红色的垫子上。"
RUSSIAN, ARABIC = "кошка сидит на красном коврике", "قطة تجلس على السجادة الحمراء"
FRENCH = "Le chat est assis sur le tapis près de la fenêtre"


@pytest.mark.parametrize("text", [THAI, CHINESE, RUSSIAN, ARABIC, "1. 北京 2. 上海", "2024年", "🎉🎉", "?!", "Αθήνα"])
def test_rouge_says_nothing_of_letters_that_it_drops(text):
    """Ten equal texts would be worth 0: ROUGE sees no word in them."""
    assert math.isnan(self_rouge([text] * 10))
    assert math.isnan(self_rouge(["a red mat", "a red cat", text])), "one that it cannot read makes the mean wrong"


@pytest.mark.parametrize("text", [FRENCH, "Köln", "42", "the city of 北京, or Beijing", "naïve café"])
def test_rouge_reads_what_is_mostly_latin(text):
    assert self_rouge([text] * 3) == pytest.approx(1.0)


@pytest.mark.parametrize("text", [THAI, CHINESE, "东京は日本の首都です", "พอ ดี", "ຂ້ອຍຮັກເຈົ້າ", "ខ្ញុំស្រលាញ់អ្នក", "မင်္ဂလာပါ"])
def test_words_are_not_counted_where_no_space_separates_them(text):
    measures = (lambda texts: distinct_n(texts, 1), self_bleu, lambda texts: corpus_distinct_n([texts], 1))
    assert all(math.isnan(measure([text] * 4)) for measure in measures)
    assert all(math.isnan(measure(["a cat", "a dog", text])) for measure in measures)
    assert corpus_distinct_n([[text] * 4, ["a a"]], 1) == 0.5, "over the prompts that can be read"
    assert compression_ratio([text] * 40) > 8, "bytes need no words"


@pytest.mark.parametrize(
    "text",
    [RUSSIAN, ARABIC, FRENCH, "고양이가 빨간 매트에 앉아 있다", "🎉 🎉", "42", "Beijing is 北京", "猫", "一 只 猫"],
)
def test_words_are_counted_where_spaces_separate_them(text):
    assert distinct_n([text] * 4, 1) == len(set(text.split())) / len(text.split()) / 4
    assert self_bleu([text] * 4) == pytest.approx(100.0)


def test_compression_is_bytes_over_bytes():
    texts = ["the quick brown fox jumps over the lazy dog"] * 20
    assert compression_ratio(texts) > 8
    varied = [" ".join(str(i * j * 7919 % 104729) for j in range(8)) for i in range(20)]
    assert compression_ratio(varied) < 3
    assert compression_ratio(["é", "a"]) == pytest.approx(4 / 24)  # 10 bytes of head, 8 of tail, 6 of content
    assert all(map(math.isnan, map(compression_ratio, ([], ["", ""], ["one alone", " "]))))


@pytest.mark.parametrize("call", [self_rouge, compression_ratio])
def test_a_single_string_is_refused(call):
    with pytest.raises(DQOError, match="must be a list of strings, got the single string 'abc'"):
        call("abc")


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
    assert math.isnan(among_good(self_rouge, ["a b", "c d"], [0.0, 0.0])), "0 would be the most diverse of all"
    with pytest.raises(DQOError, match="one number per item, got 3 for 4 items"):
        among_good(vendi_score, list(E), rewards[:3])
