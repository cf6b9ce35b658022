"""An embedder that can be checked by hand: one axis a word, so texts without a common word are orthogonal."""

import pytest
import torch


class WordEmbedder:
    """Unit vectors of word counts over the words it was given."""

    def __init__(self, name, words):
        self.name, self.words = name, words.split()
        self.dimension = len(self.words)

    def __call__(self, texts):
        counts = torch.tensor([[float(text.split().count(word)) for word in self.words] for text in texts])
        return counts / counts.norm(dim=1, keepdim=True).clamp_min(1e-12)


@pytest.fixture
def words():
    return WordEmbedder("words", "red green blue cyan pink")


@pytest.fixture
def first_letters():
    """A coarser judge: it knows two words only."""
    return WordEmbedder("coarse", "red green")


class SameWords:
    """Two responses mean the same where they are of the same words."""

    name = "same words"

    def __call__(self, pairs):
        return [sorted(a.split()) == sorted(b.split()) for a, b in pairs]


@pytest.fixture
def same_words():
    return SameWords()
