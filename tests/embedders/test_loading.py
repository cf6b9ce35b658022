"""What wraps an encoder: the cache of texts, and a user's function through reward, settings and loader."""

import numpy as np
import pytest
import torch

from dqo import DQOConfig
from dqo.embedders import CachedEmbedder, OwnEmbedder
from dqo.errors import EncoderError, RecipeError
from dqo.rewards.diversity import DiversityReward

ROWS = {"a": [1, 0], "b": [0, 1]}


@pytest.mark.parametrize("make", [np.array, list, torch.tensor])
def test_arrays_lists_and_tensors_give_the_same_credit(make):
    reward = DiversityReward(3, encoder=lambda texts: make([ROWS[text] for text in texts]))
    credit = reward(prompts=["p"] * 3, completions=["a", "a", "b"])
    assert credit == pytest.approx([np.log(3 / 2), np.log(3 / 2), np.log(2)])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            [[1.0, 0.0]],
            r"one row of numbers per text, got a list .* shape \(1, 2\) for 3 texts; return a \(N, D\)",
        ),
        (np.ones(3), r"got a ndarray that makes a tensor of shape \(3,\) for 3 texts"),
        (None, r"encoder 'own' to return one row of numbers per text, got a NoneType"),
    ],
)
def test_what_is_no_embedding_names_the_encoder(found, message):
    def own(texts):
        return found

    with pytest.raises(EncoderError, match=message):
        DiversityReward(3, encoder=own)(prompts=["p"] * 3, completions=["a", "a", "b"])


def test_what_cannot_be_called_is_told_when_it_is_given(tmp_path):
    with pytest.raises(EncoderError, match=r"a function .* as encoder, got a NoneType; pass one, or what"):
        DiversityReward(3, encoder=None)
    with pytest.raises(EncoderError, match="got a str; pass one, or what `load_embedder` returns"):
        OwnEmbedder("hashed")
    with pytest.raises(RecipeError, match="`encoder` must be text, got <"):
        DQOConfig(str(tmp_path), encoder=OwnEmbedder(ROWS.get), use_cpu=True)


def test_a_model_of_sentence_transformers_is_called_by_its_method():
    model = torch.nn.Linear(2, 2)
    model.encode = lambda texts: np.array([ROWS[text] for text in texts])
    assert OwnEmbedder(model)(["a", "b"]).tolist() == [[1, 0], [0, 1]]


class Counting:
    """Embeds a text as (its length, 1) and remembers what it was asked for."""

    name = "counting"
    dimension = 2

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked.append(list(texts))
        return torch.tensor([[float(len(text)), 1.0] for text in texts])


def test_only_new_distinct_texts_are_embedded_and_order_is_kept():
    inner = Counting()
    cached = CachedEmbedder(inner)
    assert cached(["bb", "a", "bb"]).tolist() == [[2, 1], [1, 1], [2, 1]]
    assert cached(["ccc", "a", "bb"]).tolist() == [[3, 1], [1, 1], [2, 1]]
    assert inner.asked == [["bb", "a"], ["ccc"]]
    assert (cached.name, cached.dimension) == ("counting", 2)


def test_nothing_new_asks_nothing():
    inner = Counting()
    cached = CachedEmbedder(inner)
    assert cached([]).shape == (0, 2)
    assert inner.asked == []


def test_the_text_not_used_for_longest_is_forgotten():
    inner = Counting()
    cached = CachedEmbedder(inner, capacity=2)
    cached(["a", "bb"])
    cached(["a"])
    cached(["ccc"])  # drops "bb", not "a"
    cached(["a"])
    cached(["bb"])
    assert inner.asked == [["a", "bb"], ["ccc"], ["bb"]]


def test_a_call_larger_than_the_cache_is_answered_whole():
    texts = ["a" * n for n in range(1, 8)]
    assert CachedEmbedder(Counting(), capacity=3)(texts)[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_writing_into_an_answer_does_not_reach_the_cache():
    cached = CachedEmbedder(Counting())
    cached(["a"]).zero_()
    assert cached(["a"]).tolist() == [[1, 1]]
