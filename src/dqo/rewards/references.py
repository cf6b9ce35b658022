"""How near a response is to texts that people wrote: by its characters, and by its meaning."""

from collections.abc import Sequence
from typing import Any

from dqo.errors import RewardError
from dqo.response import completion_text


def references_of(reward: str, reference: Sequence[str | list[str]]) -> list[list[str]]:
    """The references of N rows as lists.

    Args:
        reward: Name of who asks, for the message.
        reference: One text, or a list of texts that are equally valid, a row.

    Returns:
        N lists of at least one text.

    Raises:
        RewardError: A row without a reference, or with blank ones alone; names it.
    """
    rows = [[texts] if isinstance(texts, str) else list(texts) for texts in reference]
    for row, texts in enumerate(rows):
        if not any(text.strip() for text in texts):
            raise RewardError(
                f"reward {reward!r}: expected at least one text in `reference` of row {row}, got none; use data with "
                "references, or another reward."
            )
    return rows


class ChrfReward:
    """chrF, the F-score of shared character sequences, the best over the references of a row; in TRL's convention.

    sacrebleu's with its defaults: sequences of 1 to 6 characters without blanks, recall twice as heavy as precision
    (Popović 2015, WMT), divided by 100.

    Raises:
        RewardError: When called: a row without a reference.
    """

    def __init__(self) -> None:
        from sacrebleu.metrics import CHRF

        self.__name__ = "chrf"
        self._chrf = CHRF()

    def __call__(
        self,
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        reference: Sequence[str | list[str]],
        **columns: Any,
    ) -> list[float]:
        """N numbers in [0, 1]; 0 for an empty response."""
        return [
            max(self._chrf.sentence_score(completion_text(completion), [text]).score for text in texts) / 100
            for completion, texts in zip(completions, references_of(self.__name__, reference), strict=True)
        ]


class SimilarityReward:
    """Cosine of a response with the nearest reference of its row; in TRL's convention.

    Args:
        encoder: As for `dqo.embedders.load_embedder`. No default: it has to be another than the one that judges
            diversity, in training as in an evaluation.

    Raises:
        EncoderError: No such encoder.
        RewardError: When called: a row without a reference.
    """

    def __init__(self, encoder: str):
        from dqo.embedders import load_embedder

        self.__name__ = "similarity"
        self._embed = load_embedder(encoder)

    def __call__(
        self,
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        reference: Sequence[str | list[str]],
        **columns: Any,
    ) -> list[float]:
        """N numbers in [-1, 1]; 0 for a blank response."""
        rows = references_of(self.__name__, reference)
        texts = [completion_text(completion) for completion in completions]
        distinct = list(dict.fromkeys([*texts, *(text for row in rows for text in row)]))
        place = {text: at for at, text in enumerate(distinct)}
        E = self._embed(distinct)  # (distinct, D) rows of norm 1
        return [
            (E[[place[near] for near in row]] @ E[place[text]]).max().item()
            for text, row in zip(texts, rows, strict=True)
        ]
