"""Embeddings from hashed words and letters: no weights, no download, the same on every machine."""

from collections import Counter
from functools import lru_cache
from hashlib import shake_256
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dqo.errors import EncoderError


class HashedEmbedder:
    """Sum of one pseudo-random direction for each word, word pair and letter triple: texts that share these are near.

    Made for tests and dry runs. It knows no meaning: a paraphrase in other words is far away.

    Attributes:
        name: "hashed:<dimension>".
        dimension: D.
    """

    def __init__(self, dimension: int = 256) -> None:
        """Nothing is loaded.

        Args:
            dimension: D, at least 8; at 256 unrelated sentences have a cosine of about 0 ± 0.1.

        Raises:
            EncoderError: A dimension below 8.
        """
        if dimension < 8:
            raise EncoderError(f"the hashed encoder needs a dimension of at least 8, got {dimension}; use 'hashed:64'.")
        self.name = f"hashed:{dimension}"
        self.dimension = dimension

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, D) float32 rows of norm 1; a zero row where a text is blank."""
        total = torch.zeros(len(texts), self.dimension)  # (N, D)
        for row, text in enumerate(texts):
            times = Counter(features(text))
            if times:
                directions = torch.stack([direction(feature, self.dimension) for feature in times])  # (features, D)
                total[row] = torch.tensor(list(times.values()), dtype=torch.float32) @ directions
        return normalize(total)


def features(text: str) -> list[str]:
    """Words, pairs of neighbouring words, and letter triples of each word, in lower case; none for a blank text."""
    words = text.lower().split()
    pairs = [f"{left} {right}" for left, right in pairwise(words)]
    triples = [padded[i : i + 3] for padded in (f"^{word}$" for word in words) for i in range(len(padded) - 2)]
    return words + pairs + triples


@lru_cache(maxsize=20_000)
def direction(feature: str, dimension: int) -> Tensor:
    """(D,) pseudo-random numbers around 0, a function of the text alone (`hash` would change with each process)."""
    digest = shake_256(feature.encode("utf-8", "replace")).digest(dimension)
    return torch.frombuffer(bytearray(digest), dtype=torch.uint8) - 127.5
