"""Encoders: texts to unit vectors, with no text cut in silence and nothing embedded twice."""

from dqo.embedders.cache import CachedEmbedder
from dqo.embedders.hashed import HashedEmbedder
from dqo.embedders.hidden_states import HiddenStateEmbedder
from dqo.embedders.loading import load_embedder
from dqo.embedders.onnx import OnnxEmbedder
from dqo.embedders.own import OwnEmbedder, chosen_embedder
from dqo.embedders.protocol import Embedder
from dqo.embedders.sentence import SentenceEmbedder
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
