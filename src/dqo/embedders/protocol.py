"""What an embedder is."""

from typing import Protocol

from torch import Tensor


class Embedder(Protocol):
    """Texts to vectors: the one view of meaning that the diversity of a group is measured in.

    Attributes:
        name: Goes into logs and metrics.json.
        dimension: D.
    """

    name: str
    dimension: int

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, D) float32 on the CPU: a row of norm 1 for each text, a zero row for a blank one."""
        ...
