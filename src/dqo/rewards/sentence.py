"""What makes a good sentence, as rewards: the words it was to use, and how fluent it is."""

from collections.abc import Sequence
from typing import Any

from dqo.errors import RewardError
from dqo.models import DEFAULT_POLICY
from dqo.response import completion_text
from dqo.rewards.coverage import coverage
from dqo.rewards.fluency import HIGH, LOW, Fluency


class ConceptReward:
    """Share of the words in `meta.concepts` that a response uses, by lemma; see `dqo.rewards.coverage`."""

    def __init__(self) -> None:
        self.__name__ = "concepts"

    def __call__(
        self, *, prompts: Sequence[Any], completions: Sequence[Any], meta: Sequence[dict[str, Any]], **columns: Any
    ) -> list[float]:
        """N numbers in [0, 1]; RewardError for a row whose `meta` has no concepts."""
        rewards = []
        for row, (completion, fields) in enumerate(zip(completions, meta, strict=True)):
            concepts = fields.get("concepts")
            if not isinstance(concepts, list) or not concepts:
                raise RewardError(
                    f"reward 'concepts': expected a list of words in meta.concepts of row {row}, got {concepts!r}; use "
                    "data of the task commongen, or another reward."
                )
            rewards.append(coverage(completion_text(completion), concepts))
        return rewards


class FluencyReward:
    """Fluency under a frozen language model, between word salad (0) and a person's sentence (1).

    Args:
        model: Name or folder, as for `dqo.models.load_policy`.
        low: Log-probability per word, nats, worth 0.
        high: The one worth 1, above `low`.
    """

    def __init__(self, model: str = DEFAULT_POLICY, low: float = LOW, high: float = HIGH):
        self.__name__ = "fluency"
        self._fluency = Fluency(model, low, high)

    def __call__(self, *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """N numbers in [0, 1]; TRL's arguments, of which the completions are looked at."""
        return self._fluency([completion_text(completion) for completion in completions])
