"""Encoders: texts to unit vectors, with no text cut in silence and nothing embedded twice."""

from dqo.embedders.loading import CachedEmbedder, Embedder, OwnEmbedder, chosen_embedder, load_embedder
from dqo.embedders.local import HashedEmbedder, HiddenStateEmbedder, OnnxEmbedder, SentenceEmbedder
from dqo.embedders.served import ServedEmbedder

__all__ = [
    "CachedEmbedder",
    "Embedder",
    "HashedEmbedder",
    "HiddenStateEmbedder",
    "OnnxEmbedder",
    "OwnEmbedder",
    "SentenceEmbedder",
    "ServedEmbedder",
    "chosen_embedder",
    "load_embedder",
]
