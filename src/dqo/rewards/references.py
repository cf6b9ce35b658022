"""How near a response is to texts that people wrote: by its characters, by its words, and by its meaning."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from dqo.diversity.tricks import has_latin_words
from dqo.errors import RewardError
from dqo.models.chat import completion_text

# One text, or a list of texts that are equally valid.
Reference = str | list[str]
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'“‘(]?[A-Z0-9])")


def references_of(reward: str, reference: Sequence[Reference]) -> list[list[str]]:
    """Makes a list of the references of each row; refuses a row with blank ones alone."""
    rows = [[texts] if isinstance(texts, str) else list(texts) for texts in reference]
    for row, texts in enumerate(rows):
        if not any(text.strip() for text in texts):
            expected = f"reward {reward!r}: expected at least one text in `reference` of row {row}"
            raise RewardError(f"{expected}, got none; use data with references, or another reward.")
    return rows


class ChrfReward:
    """chrF, the F-score of shared character sequences, the best over the references of a row; in TRL's convention.

    sacrebleu's with its defaults: sequences of 1 to 6 characters without blanks, recall twice as heavy as precision
    (Popović 2015, WMT), divided by 100. An empty response is worth 0.
    """

    def __init__(self) -> None:
        from sacrebleu.metrics import CHRF

        self.__name__ = "chrf"
        self._chrf = CHRF()

    def __call__(self, *, completions: Sequence[Any], reference: Sequence[Reference], **columns: Any) -> list[float]:
        """Scores N responses; N numbers in [0, 1]."""
        return [
            max(self._chrf.sentence_score(completion_text(completion), [text]).score for text in texts) / 100
            for completion, texts in zip(completions, references_of(self.__name__, reference), strict=True)
        ]


class SimilarityReward:
    """Cosine of a response with the nearest reference of its row; in TRL's convention. A blank response is worth 0.

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

    def __call__(self, *, completions: Sequence[Any], reference: Sequence[Reference], **columns: Any) -> list[float]:
        """Scores N responses; N numbers in [-1, 1]."""
        rows = references_of(self.__name__, reference)
        texts = [completion_text(completion) for completion in completions]
        E = self._embed([*texts, *(text for row in rows for text in row)])  # (N + references, D) rows of norm 1
        own, *near = E.split([len(texts), *map(len, rows)])
        return [(those @ this).max().item() for this, those in zip(own, near, strict=True)]


class RougeReward:
    """F1 of one ROUGE measure, the best over the references of a row; a reward in TRL's convention.

    Words are stemmed (Porter) as published scores are. rougeLsum compares sentence by sentence: references are read as
    one sentence per line, responses are cut at sentence ends. Only letters a to z and digits count, as in rouge-score:
    text in another script has no words. References that they do not carry are left out.

    Args:
        measure: "rouge1", "rouge2", "rougeL" or "rougeLsum".

    Raises:
        RewardError: When called: a row without a reference, or with references in other scripts only.
    """

    def __init__(self, measure: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL"):
        from rouge_score.rouge_scorer import RougeScorer

        self.__name__ = measure
        self._scorer = RougeScorer([measure], use_stemmer=True)

    def __call__(self, *, completions: Sequence[Any], reference: Sequence[Reference], **columns: Any) -> list[float]:
        """Scores N responses; N numbers in [0, 1]."""
        given = references_of(self.__name__, reference)
        references = [[text for text in texts if has_latin_words(text)] for texts in given]
        for row, texts in enumerate(references):
            if not texts:  # every response would be worth 0, or all that shares a digit worth 1
                expected = f"reward {self.__name__!r}: expected a `reference` of letters a to z in row {row}"
                raise RewardError(f"{expected}, got {given[row][0][:40]!r}; use `chrf` or `similarity`.")
        return [
            self._best(completion_text(completion), texts)
            for completion, texts in zip(completions, references, strict=True)
        ]

    def _best(self, response: str, references: Sequence[str]) -> float:
        if self.__name__ == "rougeLsum":
            response = _SENTENCE_END.sub("\n", response.strip())
        return self._scorer.score_multi(references, response)[self.__name__].fmeasure
