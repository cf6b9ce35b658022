"""Remember embeddings: in a collapsed group, and when the same responses are logged, texts repeat."""

from collections import OrderedDict

import torch
from torch import Tensor

from dqo.embedders.protocol import Embedder
from dqo.errors import EncoderError


class CachedEmbedder:
    """An embedder that embeds each distinct text once, and forgets the texts that were not asked for longest.

    Attributes:
        name: That of the wrapped embedder.
        dimension: D of the wrapped embedder.
        notes: What a reader of its numbers should know, sentences; none where the wrapped embedder has none.
        vocabulary: Digest of the tokens the wrapped embedder reads; None where it is not known.
    """

    def __init__(self, embedder: Embedder, capacity: int = 16_384) -> None:
        """Wrap an embedder.

        Args:
            embedder: The one that does the work.
            capacity: Most texts remembered, at least 1; a text costs its own bytes and 4 D bytes.

        Raises:
            EncoderError: A capacity below 1.
        """
        if capacity < 1:
            raise EncoderError(f"an embedding cache needs a capacity of at least 1 text, got {capacity}.")
        self.name = embedder.name
        self.dimension = embedder.dimension
        self.vocabulary: str | None = getattr(embedder, "vocabulary", None)
        self._embedder = embedder
        self._capacity = capacity
        self._rows: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def notes(self) -> list[str]:
        """Those of the wrapped embedder, which may find more as it works."""
        return getattr(self._embedder, "notes", [])

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, D) rows in the order of the texts, a fresh tensor each time."""
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new:
            # Each row is its own copy, so that forgetting a text frees its memory.
            self._rows.update(zip(new, (row.clone() for row in self._embedder(new)), strict=True))
        rows = torch.zeros(len(texts), self.dimension)  # (N, D)
        for i, text in enumerate(texts):
            self._rows.move_to_end(text)
            rows[i] = self._rows[text]
        while len(self._rows) > self._capacity:
            self._rows.popitem(last=False)
        return rows
