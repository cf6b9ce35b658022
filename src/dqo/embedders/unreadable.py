"""A word that an encoder's vocabulary cannot spell becomes its unknown token, and all such words are alike to it.

all-MiniLM-L6-v2 and paraphrase-MiniLM-L3-v2 read so: emoji, most scripts without spaces, and words of more than 100
characters. Two texts of nothing else have cosine 1 whatever they say, under the held-out encoder too.
"""

import warnings
from collections.abc import Sequence

_MUCH = 0.2  # share of a batch's tokens from which similarities say little


class UnreadableText:
    """Watches the tokens of an encoder's batches and warns once where it cannot read much of one.

    Args:
        name: the encoder's, for the warning.
        unknown: id of its unknown token; None for a tokenizer that spells everything.
    """

    def __init__(self, name: str, unknown: int | None) -> None:
        self._name, self._unknown = name, unknown

    def watch(self, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
        """Count unknown tokens.

        Args:
            texts: B texts.
            rows: B lists of their tokens.
        """
        if self._unknown is None:
            return
        counts = [list(row).count(self._unknown) for row in rows]  # B
        total = sum(map(len, rows))
        if sum(counts) <= _MUCH * total:
            return
        self._unknown = None
        text = texts[counts.index(max(counts))]
        warnings.warn(
            f"encoder {self._name!r} cannot read {sum(counts) / total:.0%} of the words of a batch, for instance of "
            f"{text[:60]!r}, and takes texts of such words for the same; 'multilingual' reads most languages.",
            stacklevel=2,
        )
