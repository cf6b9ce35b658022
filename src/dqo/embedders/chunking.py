"""Texts of any length through an encoder that reads a limited number of tokens.

An encoder given a longer text cuts it and says nothing, so two answers that differ near the end would count as one.
Here a longer text is halved, at white space where there is some, until each piece fits.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dqo.errors import EncoderError

# Share of a batch's unknown tokens from which similarities say little.
_MUCH = 0.2


class ChunkedEmbedder:
    """Base of the encoders: cuts texts into pieces that fit, and averages the pieces by their token counts.

    A subclass says how to encode pieces.

    Attributes:
        name: What the user called it.
        dimension: D.
        batch_size: Most pieces encoded at once.
        vocabulary: Digest of its tokens; None where it is not known.

    Args:
        name: See above.
        dimension: D.
        batch_size: At least 1.
        reads: Tokens that the encoder reads; None for any number.
        tokenizer: Of transformers; None where tokens are the words between white space.
        prompt: What stands before every text, and takes its share of what is read, as special tokens do.

    Raises:
        EncoderError: A batch size below 1, or no token left for the text.
    """

    vocabulary: str | None = None
    # Id of the token that stands for what the vocabulary cannot spell; None once the user was warned.
    _unknown: int | None = None

    def __init__(
        self, name: str, dimension: int, batch_size: int, reads: float | None, tokenizer: Any = None, prompt: str = ""
    ) -> None:
        if batch_size < 1:
            raise EncoderError(f"`batch_size` of an encoder must be a whole number of at least 1, got {batch_size!r}.")
        self.name, self.dimension, self.batch_size, self._prompt = name, dimension, batch_size, prompt
        self._tokenizer, fixed = tokenizer, 0
        if tokenizer is not None:
            fixed = tokenizer.num_special_tokens_to_add() + len(self._ids([prompt])[0])
            # All tokens, whatever their order, tell one vocabulary from another.
            tokens = "\n".join(sorted(tokenizer.get_vocab()))
            self.vocabulary = hashlib.sha256(tokens.encode("utf-8", "surrogatepass")).hexdigest()
            self._unknown = tokenizer.unk_token_id
        self._limit = math.inf if reads is None else reads - fixed
        if self._limit < 1:
            raise EncoderError(
                f"encoder {name!r}: expected a prompt that leaves room for a text in the {reads} tokens it reads, got "
                f"one that takes {fixed}; shorten it."
            )

    def __call__(self, texts: list[str]) -> Tensor:
        """Embeds N texts: (N, D) float32 on the CPU, rows of norm 1, a zero row where a text has no tokens."""
        # In order of length, so that a batch holds little padding.
        pieces = sorted(split_texts(texts, self._limit, self._count), key=lambda piece: piece[2])
        total = torch.zeros(len(texts), self.dimension)  # (N, D)
        for start in range(0, len(pieces), self.batch_size):
            rows, batch, counts = zip(*pieces[start : start + self.batch_size], strict=True)
            vectors = self._encode(list(batch)).detach().to("cpu", torch.float32)  # (B, D)
            sound = vectors.isfinite().all(1)  # (B,)
            if not sound.all():
                row = rows[int((~sound).nonzero()[0])]
                raise EncoderError(
                    f"encoder {self.name!r} should return finite numbers, but returned NaN or infinity for row {row} "
                    f"({texts[row][:40]!r}); use dtype float32 or another encoder."
                )
            weights = torch.tensor(counts, dtype=torch.float32).unsqueeze(1)  # (B, 1)
            total.index_add_(0, torch.tensor(rows), normalize(vectors) * weights)
        return normalize(total)  # (N, D)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]

    def _count(self, texts: list[str]) -> list[int]:
        """Tokens of each text, special tokens not counted."""
        if self._tokenizer is None:
            return [len(text.split()) for text in texts]
        rows = self._ids(texts)
        self._warn_of_unknown(texts, rows)
        return [len(row) for row in rows]

    def _encode(self, pieces: list[str]) -> Tensor:
        """(B, D) of any float dtype and device."""
        raise NotImplementedError

    def _warn_of_unknown(self, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
        """Warns once where the encoder cannot read much of a batch, given the tokens of its texts."""
        # all-MiniLM-L6-v2 and its siblings spell no emoji, few scripts without spaces and no word of more than 100
        # characters. Two texts of nothing else have cosine 1 whatever they say.
        counts = [list(row).count(self._unknown) for row in rows]  # B
        total = sum(map(len, rows))
        if self._unknown is None or sum(counts) <= _MUCH * total:
            return
        self._unknown = None
        text = texts[counts.index(max(counts))]
        warnings.warn(
            f"encoder {self.name!r} cannot read {sum(counts) / total:.0%} of the words of a batch, for instance of "
            f"{text[:60]!r}, and takes texts of such words for the same; 'multilingual' reads most languages.",
            stacklevel=2,
        )


def split_texts(
    texts: list[str], limit: float, count_tokens: Callable[[list[str]], list[int]]
) -> list[tuple[int, str, int]]:
    """Splits texts into pieces of at most `limit` tokens: (row, piece, tokens), those of a row in reading order.

    Nothing is lost, and a text of no tokens has no piece.
    """
    pieces = [(row, text) for row, text in enumerate(texts) if text.strip()]
    while True:
        # Counted again after each cut, because a cut inside a word changes its tokens.
        counts = count_tokens([text for _, text in pieces])
        shorter = []
        for (row, text), count in zip(pieces, counts, strict=True):
            shorter += [(row, part) for part in (_halves(text) if count > limit else [text])]
        if len(shorter) == len(pieces):
            return [(row, text, count) for (row, text), count in zip(pieces, counts, strict=True) if count]
        pieces = shorter


def _halves(text: str) -> list[str]:
    """Cuts a text at the last white space of its second quarter, or in the middle; a single character stays."""
    middle = len(text) // 2
    space = max(text.rfind(blank, 0, middle + 1) for blank in " \n\t")
    cut = space if space > middle // 2 else middle
    return [part for part in (text[:cut], text[cut:]) if part]


def mean_states(states: Tensor, mask: Tensor) -> Tensor:
    """Averages token states, (B, T, D) of any float dtype, where the (B, T) mask is 1: (B, D) float32."""
    weights = mask.unsqueeze(-1).float()  # (B, T, 1)
    return (states.float() * weights).sum(1) / weights.sum(1)
