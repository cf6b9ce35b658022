"""Texts of any length through an encoder that reads a limited number of tokens.

An encoder given a longer text cuts it and says nothing, so two answers that differ near the end would count as one.
Here a longer text is halved, at white space where there is some, until each piece fits.
"""

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dqo.errors import EncoderError


def embed_in_chunks(
    texts: list[str],
    *,
    name: str,
    dimension: int,
    batch_size: int,
    limit: float,
    count_tokens: Callable[[list[str]], list[int]],
    encode: Callable[[list[str]], Tensor],
) -> Tensor:
    """Unit embedding of each text: that of its pieces, averaged by their token counts and normalised again.

    Pieces are encoded in order of length, so that a batch holds little padding. A text of no tokens gets a zero row.

    Args:
        texts: N texts.
        name: The encoder's, for errors.
        dimension: D.
        batch_size: Most pieces encoded at once.
        limit: Most tokens a piece may have, special tokens not counted; `math.inf` for no limit.
        count_tokens: Tokens of each text, special tokens not counted.
        encode: Pieces -> (B, D) of any float dtype and device.

    Returns:
        (N, D) float32 on the CPU, rows of norm 1 or 0.

    Raises:
        EncoderError: `encode` returned another shape, NaN or infinity; names the row.
    """
    pieces = sorted(split_texts(texts, limit, count_tokens), key=lambda piece: piece[2])
    total = torch.zeros(len(texts), dimension)  # (N, D)
    for start in range(0, len(pieces), batch_size):
        rows, batch, counts = zip(*pieces[start : start + batch_size], strict=True)
        vectors = encode(list(batch)).detach().to("cpu", torch.float32)  # (B, D)
        if vectors.shape != (len(batch), dimension):
            raise EncoderError(
                f"encoder {name!r} should return one vector of width {dimension} a text, but returned shape "
                f"{tuple(vectors.shape)} for {len(batch)} texts, the first of them row {rows[0]}; use another encoder."
            )
        bad = ~vectors.isfinite().all(1)  # (B,)
        if bad.any():
            row = rows[int(bad.nonzero()[0])]
            raise EncoderError(
                f"encoder {name!r} should return finite numbers, but returned NaN or infinity for row {row} "
                f"({texts[row][:40]!r}); use dtype float32 or another encoder."
            )
        weights = torch.tensor(counts, dtype=torch.float32).unsqueeze(1)  # (B, 1)
        total.index_add_(0, torch.tensor(rows), normalize(vectors) * weights)
    return normalize(total)  # (N, D)


def split_texts(
    texts: list[str], limit: float, count_tokens: Callable[[list[str]], list[int]]
) -> list[tuple[int, str, int]]:
    """Every text as pieces of at most `limit` tokens; nothing is lost, and a text of no tokens has no piece.

    A piece is counted again after each cut, because a cut inside a word changes its tokens.

    Args:
        texts: N texts.
        limit: Most tokens of a piece, at least 1.
        count_tokens: Tokens of each text.

    Returns:
        (row, piece, tokens), the pieces of a row in reading order.
    """
    fitting: list[tuple[int, int, str, int]] = []
    waiting = [(row, 0, text) for row, text in enumerate(texts) if text.strip()]
    while waiting:
        longer = []
        counts = count_tokens([text for _, _, text in waiting])
        for (row, offset, text), count in zip(waiting, counts, strict=True):
            if count > limit and len(text) > 1:
                cut = _middle(text)
                longer += [(row, offset, text[:cut]), (row, offset + cut, text[cut:])]
            elif count:
                fitting.append((row, offset, text, count))
        waiting = longer
    return [(row, text, count) for row, _, text, count in sorted(fitting)]


def check_batch_size(batch_size: int) -> int:
    """The batch size itself; EncoderError unless it is a whole number of at least 1."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise EncoderError(f"`batch_size` of an encoder must be a whole number of at least 1, got {batch_size!r}.")
    return batch_size


def token_limit(reads: float | None, special: int) -> float:
    """Tokens left for the text in an encoder that reads `reads` of them (None: any number), `special` taken off."""
    return math.inf if reads is None or math.isinf(reads) else max(1, int(reads) - special)


def _middle(text: str) -> int:
    """Where to halve a text of two characters or more: the last white space of its second quarter, or the middle."""
    middle = len(text) // 2
    space = max(text.rfind(blank, 0, middle + 1) for blank in " \n\t")
    return space if space > middle // 2 else middle


# A word that an encoder's vocabulary cannot spell becomes its unknown token, and all such words are alike to it.
#
# all-MiniLM-L6-v2 and paraphrase-MiniLM-L3-v2 read so: emoji, most scripts without spaces, and words of more than 100
# characters. Two texts of nothing else have cosine 1 whatever they say, under the held-out encoder too.

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
