import torch

from dqo.embedders import CachedEmbedder


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
