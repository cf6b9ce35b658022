"""Metrics of a small set of groups, worked by hand, and the document they are written into."""

import math
import random
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from dqo.errors import DataError, EncoderError
from dqo.evaluation import among_good, effective_rank, group_log_volume, mean_cosine_distance, measure, vendi_score
from dqo.evaluation.metrics import CLASSED, draw_counts, n_samples, prompt_values, undefined_notes
from dqo.evaluation.run import metrics_document
from dqo.evaluation.statistics import summarize
from dqo.files.records import Group


def group(name, responses, rewards=None, finish=None):
    return Group(name, f"prompt {name}", [], responses, finish or ["eos"] * len(responses), rewards, {})


def defined(value):
    return None if math.isnan(value) else value


FOUR = group("four", ["red", "green", "blue", "cyan"], [0.0, 1.0, 0.25, 0.75], ["eos", "eos", "eos", "length"])
TWINS = group("twins", ["red red", "red red", "green", ""], [1.0, 1.0, 1.0, 0.0])


def test_metrics_by_hand(words, same_words):
    values = prompt_values([FOUR, TWINS], words, equivalence=same_words)
    assert values["quality"] == [0.5, 0.75]
    assert values["max@1"] == [0.5, 0.75]
    assert values["max@2"] == [pytest.approx((3 * 1 + 2 * 0.75 + 1 * 0.25) / 6), 1.0]
    assert values["max@4"] == values["max@k"] == [1.0, 1.0]
    assert values["pass@1"] == [0.5, 0.75]
    assert values["pass@2"] == [pytest.approx(5 / 6), 1.0]
    assert values["pass@4"] == values["pass@k"] == [1.0, 1.0]
    assert values["distinct_1"] == [1.0, 2 / 5]
    assert values["distinct_2"] == [None, 0.5]
    assert values["vendi_1"] == [pytest.approx(4.0), pytest.approx(3 / 2 ** (2 / 3))]
    assert values["vendi_2"] == [pytest.approx(4.0), pytest.approx(9 / 5)]
    assert values["cosine_distance"] == [pytest.approx(1.0), pytest.approx(2 / 3)]
    assert values["log_volume"] == [pytest.approx(4 * math.log(2)), pytest.approx(math.log(3) + math.log(2))]
    assert values["vendi_inf"] == [pytest.approx(4.0), pytest.approx(3 / 2)]
    assert values["effective_rank"][0] == pytest.approx(4.0)
    a = 2**0.5 / (2**0.5 + 1)  # singular values √2 and 1
    assert values["effective_rank"][1] == pytest.approx(a**-a * (1 - a) ** (a - 1))
    assert values["classes"] == [4.0, 2.0]
    assert values["semantic_entropy"] == [pytest.approx(math.log(4)), pytest.approx(math.log(3) - 2 / 3 * math.log(2))]
    weights = [1, 0.8, 0.64, 0.512]
    assert values["utility_k"][0] == pytest.approx((0.8 + 0.25 * 0.64 + 0.75 * 0.512) / sum(weights))
    assert values["utility_k"][1] == pytest.approx((1 + 0.64) / sum(weights))
    assert values["good/classes"] == [2.0, 2.0]
    assert values["good/vendi_1"] == [pytest.approx(2.0), pytest.approx(3 / 2 ** (2 / 3))]
    assert values["words"] == [1.0, 5 / 4]
    assert values["truncated"] == [0.25, 0.0]
    assert values["empty"] == [0.0, 0.25]
    assert values["self_bleu"][0] == 0.0
    assert values["self_bleu"][1] > 60.0, "two of the three non-empty texts are twins"


def test_the_heldout_judge_sees_its_own_space(words, first_letters):
    values = prompt_values([FOUR], words, first_letters)
    assert values["vendi_1"] == [pytest.approx(4.0)]
    assert values["heldout/vendi_1"] == [pytest.approx(2.0)]
    assert {name for name in values if name.startswith("heldout/")} == {
        f"heldout/{name}"
        for name in (
            "cosine_distance", "vendi_1", "vendi_2", "vendi_inf", "effective_rank", "log_volume", "good/vendi_1"
        )
    }  # fmt: skip
    assert values["heldout/good/vendi_1"] == [pytest.approx(1.0)], "of what passes, green and cyan, it knows one word"


def test_groups_measured_together_are_groups_measured_alone(words):
    """Of several sizes, some unscored, more than one batch: the numbers of the public functions, in order."""
    pick = random.Random(3)
    colours = [*words.words, "red green", ""]
    groups = []
    for i in range(300):
        texts = pick.choices(colours, k=pick.choice([1, 4, 4, 7]))
        groups.append(group(str(i), texts, None if i % 5 == 0 else [pick.random() for _ in texts]))
    assert {len(g.responses) for g in groups} == {1, 4, 7}
    values = prompt_values(groups, words)
    for i, one in enumerate(groups):
        E = words(one.responses)  # (G, D)
        alone = {
            "vendi_1": vendi_score(E), "vendi_2": vendi_score(E, 2.0), "vendi_inf": vendi_score(E, math.inf),
            "cosine_distance": defined(mean_cosine_distance(E)), "log_volume": group_log_volume(E),
            "effective_rank": effective_rank(E),
            "good/vendi_1": None if one.rewards is None else among_good(vendi_score, list(E), one.rewards),
        }  # fmt: skip
        assert {name: values[name][i] for name in alone} == pytest.approx(alone, abs=1e-9), one


def test_copies_are_embedded_once(words):
    asked = []

    class Counting:
        name = "counting"

        def __call__(self, texts):
            asked.extend(texts)
            return words(texts)

    values = prompt_values([FOUR, TWINS, group("red", ["red"] * 4)], Counting())
    assert sorted(asked) == ["", "blue", "cyan", "green", "red", "red red"]
    assert values["vendi_1"] == [pytest.approx(4.0), pytest.approx(3 / 2 ** (2 / 3)), pytest.approx(1.0)]


def test_diversity_is_that_of_the_answer_span(words):
    padded = group("p", [f"{colour} answer: red" for colour in ("red", "green", "blue", "cyan")])
    assert prompt_values([padded], words)["vendi_1"][0] > 2.0
    values = prompt_values([padded], words, answer_span=lambda text: text.split("answer: ")[1])
    assert values["vendi_1"] == [pytest.approx(1.0)]
    assert values["distinct_1"] == [0.25]
    assert values["words"] == [3.0], "of the whole response"


def test_length_and_emptiness_are_of_whole_responses_and_the_corpus_of_spans(words):
    """Two of the three answers are empty, none of the responses is."""
    spoken = group("p", ["I think: red", "so: ", "well then: "])
    span = lambda text: text.split(": ")[1]  # noqa: E731
    values = prompt_values([spoken], words, answer_span=span)
    assert (values["words"], values["empty"]) == ([(3 + 1 + 2) / 3], [0.0])
    twice = metrics_document([spoken, spoken], values, seed=0, answer_span=span)
    assert twice["corpus"] == {"distinct_1": 0.5, "distinct_2": None, "distinct_3": None, "distinct_4": None}
    assert metrics_document([spoken], values, seed=0)["corpus"]["distinct_1"] == 1.0


def test_the_pass_threshold_is_inclusive(words):
    assert prompt_values([FOUR], words, pass_threshold=0.75)["pass@1"] == [0.5]
    assert prompt_values([FOUR], words, pass_threshold=0.76)["pass@1"] == [0.25]


def test_a_reward_of_the_threshold_passes_though_it_was_float32(words, same_words):
    single = torch.tensor(0.7, dtype=torch.float32).item()
    groups = [group("single", ["red", "green"], [single, 0.0])]
    values = prompt_values(groups, words, pass_threshold=0.7, equivalence=same_words)
    assert (values["pass@1"], values["good/classes"], values["good/vendi_1"]) == ([0.5], [1.0], [pytest.approx(1.0)])


def test_silence_is_not_the_most_diverse_text(words):
    values = prompt_values([group("silent", ["red", "", " "]), group("copies", ["red green"] * 3)], words)
    assert values["self_bleu"] == [None, pytest.approx(100.0)]
    assert values["compression_ratio"][0] is None
    assert summarize(values, seed=0)["self_bleu"]["mean"] == pytest.approx(100.0)


def test_unscored_groups_are_left_out_of_quality_alone(words):
    unscored = group("unscored", ["red", "green", "blue", "cyan"])
    values = prompt_values([FOUR, unscored, TWINS], words)
    assert values["quality"] == [0.5, None, 0.75]
    assert values["pass@k"] == [1.0, None, 1.0]
    assert values["utility_k"][1] is values["good/classes"][1] is values["good/vendi_1"][1] is None
    summary = summarize(values, seed=0)
    assert summary["quality"]["mean"] == 0.625
    assert summary["vendi_1"]["mean"] == pytest.approx((4 + 4 + 3 / 2 ** (2 / 3)) / 3)
    assert summarize(prompt_values([unscored], words), seed=0)["quality"] is None


def test_the_document_has_the_promised_entries(words, same_words):
    groups = [FOUR, TWINS, group("words", ["red green blue cyan pink"] * 4)]
    document = metrics_document(groups, prompt_values(groups, words, equivalence=same_words), seed=3, encoder="words")
    assert {key: document[key] for key in ("n_prompts", "n_samples", "n_scored", "encoder", "seed")} == {
        "n_prompts": 3, "n_samples": 4, "n_scored": 2, "encoder": "words", "seed": 3,
    }  # fmt: skip
    promised = (
        "quality max@k pass@k distinct_1 distinct_2 distinct_3 distinct_4 self_bleu cosine_distance vendi_1 vendi_2"
    )
    assert {*promised.split(), "log_volume"} <= set(document["metrics"])
    for name, interval in document["metrics"].items():
        assert set(interval) == {"mean", "low", "high"}, name
        assert interval["low"] <= interval["mean"] <= interval["high"], name


def test_what_is_undefined_is_null_and_the_mean_is_over_the_rest(words, same_words):
    """One-word answers have no pair of words, one text has no other, silence has no distance."""
    groups = [
        group("single words", ["red", "green", "blue"]),
        group("pairs", ["red green"] * 3),
        group("nearly silent", ["red", "", " "]),
        group("silent", ["", " ", ""]),
        group("unread", ["一只猫坐在红色的垫子上。"] * 3),
    ]
    values = prompt_values(groups, words, words, equivalence=same_words)
    assert values["distinct_1"] == [1.0, pytest.approx(1 / 3), 1.0, None, None]
    assert values["distinct_2"] == [None, pytest.approx(1 / 3), None, None, None]
    assert values["distinct_3"] == [None] * 5
    assert values["self_bleu"] == [0.0, pytest.approx(100.0), None, None, None]
    assert [value is None for value in values["compression_ratio"]] == [False, False, True, True, False]
    assert values["words"] == [1.0, 2.0, 1 / 3, 0.0, None]
    distances = [pytest.approx(1.0), pytest.approx(0.0), 0.0, None, None]
    assert values["cosine_distance"] == distances, "no word of the encoder in the last"
    assert values["semantic_entropy"] == [pytest.approx(math.log(3)), 0.0, 0.0, None, 0.0]
    assert values["vendi_1"][3] == values["classes"][3] == values["log_volume"][3] == 0.0, "nothing said, none differs"
    assert values["empty"] == [0.0, 0.0, pytest.approx(2 / 3), 1.0, 0.0]
    document = metrics_document(groups, values, seed=0)
    assert document["metrics"]["distinct_2"]["mean"] == pytest.approx(1 / 3)
    assert document["metrics"]["distinct_3"] is None
    assert document["corpus"] == {
        "distinct_1": 3 / 10, "distinct_2": pytest.approx(1 / 3), "distinct_3": None, "distinct_4": None
    }  # fmt: skip
    notes = undefined_notes(groups, values)
    no_words = "no response has n words, or white space does not separate the words of some response"
    assert f"distinct_1 is over 3 of 5 prompts; in the others {no_words}." in notes
    assert f"distinct_2 is over 1 of 5 prompts; in the others {no_words}." in notes
    assert f"distinct_3, distinct_4 are null: {no_words}." in notes
    assert (
        "words is over 4 of 5 prompts; in the other white space does not separate the words of some response." in notes
    )
    both = (
        "cosine_distance, heldout/cosine_distance are over 3 of 5 prompts; in the others the encoder finds no text in"
    )
    assert any(note.startswith(both) for note in notes)
    assert not any(note.startswith("quality") for note in notes), "what lacks rewards is said by whoever knows why"


def test_a_measure_of_ones_own_may_be_undefined(words):
    values = prompt_values([FOUR, TWINS], words, measures={"own": lambda texts: math.nan if "" in texts else 2.0})
    assert values["own"] == [2.0, None]
    assert summarize(values, seed=0)["own"]["mean"] == 2.0
    assert "own is over 1 of 2 prompts; in the other it is not a number." in undefined_notes([FOUR, TWINS], values)


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_classes_by_a_threshold_need_one_that_was_measured_for_the_encoder(words, name):
    values = prompt_values([FOUR], words)
    assert [values[metric] for metric in CLASSED] == [[None]] * 4
    words.name = f"{name}?pooling=cls"
    assert prompt_values([FOUR], words)["classes"] == [None], "another pooling is another encoder"
    words.name = name
    values = prompt_values([FOUR], words)
    assert values["classes"] == [4.0]
    assert None not in [values[metric][0] for metric in CLASSED]


def test_a_judge_of_meaning_takes_the_place_of_the_threshold(words):
    class Judge:
        name = "all alike"

        def __call__(self, pairs):
            return [True for _ in pairs]

    values = prompt_values([FOUR, TWINS], words, equivalence=Judge())
    assert values["classes"] == [1.0, 1.0]
    assert values["semantic_entropy"] == [0.0, 0.0]
    assert values["vendi_1"][0] == pytest.approx(4.0), "the encoder still measures the rest"


@pytest.mark.parametrize(
    ("n", "draws"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (10, [1, 2, 5, 10]), (64, [1, 2, 5, 10, 20, 50, 64])]
)
def test_draw_counts(n, draws):
    assert draw_counts(n) == draws


def test_uneven_groups_use_the_k_that_all_of_them_have(words):
    groups = [FOUR, group("three", ["red", "red", "red"], [1.0, 0.0, 0.0])]
    values = prompt_values(groups, words)
    assert n_samples(groups) == 3
    assert values["pass@3"] == values["pass@k"] == [1.0, 1.0]
    assert values["pass@k"] != values["pass@2"]
    assert "pass@4" not in values


def test_many_texts_are_embedded_in_order(words):
    """More than one call's worth: rows must come back to their own groups."""
    groups = [group(str(i), ["red", "red"] if i % 3 else ["red", "green"]) for i in range(400)]
    values = prompt_values(groups, words)
    assert values["vendi_1"] == [pytest.approx(1.0 if i % 3 else 2.0) for i in range(400)]


class Broken:
    name = "broken"

    def __init__(self, rows):
        self.rows = rows

    def __call__(self, texts):
        return self.rows


def test_a_broken_encoder_is_named():
    with pytest.raises(EncoderError, match="must return finite vectors, got NaN or infinity for prompt 'four'"):
        prompt_values([FOUR], Broken(torch.full((4, 2), float("nan"))))


def test_no_group_is_refused(words):
    with pytest.raises(DataError, match=r"need at least one group of responses, got none"):
        prompt_values([], words)


RESPONSES = {"p": ["red", "blue"]}


@pytest.mark.parametrize(
    "half", [Decimal("0.5"), Fraction(1, 2), np.float32(0.5), np.array(0.5), torch.tensor(0.5)], ids=str
)
def test_every_kind_of_number_is_a_reward(half):
    assert measure(RESPONSES, {"p": [half, True]}, encoder="hashed")["quality"]["mean"] == 0.75


@pytest.mark.parametrize("wrong", [float("nan"), Decimal("NaN"), Fraction(10**400), "1", np.ones(1), 1j])
def test_what_is_no_number_is_refused(wrong):
    with pytest.raises(DataError, match="Expected 2 rewards for prompt 'p', one number or None per response"):
        measure(RESPONSES, {"p": [wrong, 1.0]}, encoder="hashed")
