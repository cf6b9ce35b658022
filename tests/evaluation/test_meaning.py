"""Classes of meaning and what is read off them: by hand, against NoveltyBench's own loop, and their invariants."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqo.errors import DQOError
from dqo.evaluation import (
    distinct_k,
    embedding_classes,
    meaning_classes,
    noveltybench_rating,
    semantic_entropy,
    utility_k,
)


def same_first_letter(pairs):
    return [a[0] == b[0] for a, b in pairs]


def near(pairs):
    """Not transitive: numbers at most 2 apart."""
    return [abs(int(a) - int(b)) <= 2 for a, b in pairs]


def noveltybench_partition(texts, alike):
    """Its loop, written out: each unassigned text opens a class and takes every later one alike to it."""
    labels = [-1] * len(texts)
    classes = 0
    for i in range(len(texts)):
        if labels[i] >= 0:
            continue
        for j in range(i, len(texts)):
            if labels[j] == -1 and (j == i or alike([(texts[i], texts[j])])[0]):
                labels[j] = classes
        classes += 1
    return labels


def test_classes_are_those_of_the_first_member():
    # 3 is near 1 and 5, but 5 is compared with 1 (the first member of 3's class), not with 3
    assert meaning_classes([["1", "3", "5", "4", "7"]], near) == [[0, 0, 1, 1, 1]]


def test_groups_do_not_mix_and_blank_texts_belong_nowhere():
    groups = [["ab", " ", "ac", "b"], [], ["", "\n"], ["b"]]
    assert meaning_classes(groups, same_first_letter) == [[0, -1, 0, 1], [], [-1, -1], [0]]


@given(st.lists(st.lists(st.integers(0, 12).map(str), max_size=9), max_size=4))
def test_lockstep_equals_the_benchmarks_loop_and_asks_no_pair_twice(groups):
    asked = []

    def counting(pairs):
        asked.extend(pairs)
        return near(pairs)

    assert meaning_classes(groups, counting) == [noveltybench_partition(texts, near) for texts in groups]
    assert len(asked) <= sum(len(texts) * (len(texts) - 1) // 2 for texts in groups)


def test_embedding_classes_by_hand():
    rows = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.0, 0.0], [5.0, 0.1]]  # cosines: .8, .6 between 2 and 3
    assert embedding_classes(rows, 0.75) == [0, 0, 1, -1, 0]
    assert embedding_classes(rows, 0.9) == [0, 1, 2, -1, 0]
    assert embedding_classes(torch.tensor(rows), 0.5) == [0, 0, 1, -1, 0], "1 is nearer to 2, but 0 came first"
    noisy = torch.randn(1, 384, generator=torch.Generator().manual_seed(0)).repeat(6, 1)
    assert embedding_classes(noisy * (1 + torch.arange(6)[:, None]), 1.0) == [0] * 6


def test_the_count_is_not_one_less():
    assert distinct_k([0, 0, 0]) == 1
    assert distinct_k([0, 1, 2, 1]) == 3
    assert distinct_k([-1, -1]) == distinct_k([]) == 0


def test_entropy_by_hand():
    assert semantic_entropy([0, 0, 1, 1]) == pytest.approx(math.log(2))
    assert semantic_entropy([0, 1, 2, 3]) == pytest.approx(math.log(4))
    assert semantic_entropy([0, 0, 0, 1]) == pytest.approx(0.5623351446)
    assert semantic_entropy([0, -1, -1, 0]) == 0.0, "blank responses are no meaning"
    assert math.isnan(semantic_entropy([])), "0 says that all mean the same"
    assert math.isnan(semantic_entropy([-1, -1]))


def test_utility_by_hand():
    # Weights 1, 0.8, 0.64 over 2.44; the second repeats the first.
    assert utility_k([0, 0, 1], [8, 10, 4]) == pytest.approx((8 + 0 + 0.64 * 4) / 2.44)
    p, k = 0.8, 10  # the published form of the normalisation, on answers that all differ and are worth 10
    assert utility_k(range(k), [10] * k) == pytest.approx((1 - p) / (1 - p**k) * 10 * sum(p**i for i in range(k)))
    assert utility_k(range(k), [10] * k) == pytest.approx(10.0)
    assert utility_k([0, -1], [3, 9]) == pytest.approx(3 / 1.8), "a blank response is worth nothing"
    assert math.isnan(utility_k([], []))


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=10), st.permutations(range(5)))
def test_names_of_classes_do_not_matter(classes, names):
    renamed = [label if label < 0 else names[label] for label in classes]
    assert distinct_k(renamed) == distinct_k(classes)
    assert semantic_entropy(renamed) == pytest.approx(semantic_entropy(classes), nan_ok=True)
    assert utility_k(renamed, [1.0] * len(classes)) == utility_k(classes, [1.0] * len(classes))
    assert math.isnan(semantic_entropy(classes)) == (distinct_k(classes) == 0)
    assert not semantic_entropy(classes) > math.log(max(1, distinct_k(classes))) + 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: meaning_classes(["a", "b"], near), "one list of responses per prompt, got strings"),
        (lambda: meaning_classes([["a", "b"]], lambda pairs: []), "one answer per pair, got 0 for 1 pairs"),
        (lambda: embedding_classes([[1.0]], 0.0), "above 0 and at most 1, got 0.0"),
        (lambda: utility_k([0, 1], [1.0]), "got 1 for 2"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(DQOError, match=message):
        call()


def test_the_benchmarks_ten_ratings():
    assert [noveltybench_rating(reward) for reward in (-20.0, -7.7, -6.1, -5.9, -5.6, -5.2, -4.9, -4.0, -3.0, 0.0)] == [
        *range(1, 11)
    ]
    assert noveltybench_rating(-6.0) == 3, "a threshold belongs to the lower rating"
