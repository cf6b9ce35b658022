"""ROUGE of a response against its references: how many of their words, pairs or word sequences it shares."""

import re
from collections.abc import Sequence
from typing import Any

from dqo.errors import RecipeError, RewardError
from dqo.language import has_latin_words
from dqo.registry import choices
from dqo.response import completion_text
from dqo.rewards.references import references_of

MEASURES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'“‘(]?[A-Z0-9])")


class RougeReward:
    """F1 of one ROUGE measure, the best over the references of a row; a reward in TRL's convention.

    Words are stemmed (Porter) as published scores are. rougeLsum compares sentence by sentence: references are read as
    one sentence a line, responses are cut at sentence ends. Only letters a to z and digits count, as in rouge-score:
    text in another script has no words. References that they do not carry are left out.

    Args:
        measure: "rouge1", "rouge2", "rougeL" or "rougeLsum".

    Raises:
        RecipeError: Another measure.
        RewardError: When called: a row without a reference, or with references in other scripts only.
    """

    def __init__(self, measure: str = "rougeL"):
        from rouge_score.rouge_scorer import RougeScorer

        if measure not in MEASURES:
            raise RecipeError(f"measure: expected {choices(measure, MEASURES)}, got {measure!r}.")
        self.__name__ = measure
        self._scorer = RougeScorer([measure], use_stemmer=True)

    def __call__(
        self,
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        reference: Sequence[str | list[str]],
        **columns: Any,
    ) -> list[float]:
        """N numbers in [0, 1].

        Args:
            prompts: Not looked at.
            completions: Strings, or lists of chat messages.
            reference: One text, or a list of texts that are equally valid, a row.
            **columns: Whatever else TRL passes.

        Returns:
            The F1 of each response; 0 for an empty one.
        """
        given = references_of(self.__name__, reference)
        references = [[text for text in texts if has_latin_words(text)] for texts in given]
        for row, texts in enumerate(references):
            if not texts:  # every response would be worth 0, or all that shares a digit worth 1
                raise RewardError(
                    f"reward {self.__name__!r}: expected a `reference` of letters a to z in row {row}, the only ones "
                    f"ROUGE reads, got {given[row][0][:40]!r}; use `chrf` or `similarity`."
                )
        return [
            self._best(completion_text(completion), texts)
            for completion, texts in zip(completions, references, strict=True)
        ]

    def _best(self, response: str, references: Sequence[str]) -> float:
        if self.__name__ == "rougeLsum":
            response = _SENTENCE_END.sub("\n", response.strip())
        return self._scorer.score_multi(references, response)[self.__name__].fmeasure
