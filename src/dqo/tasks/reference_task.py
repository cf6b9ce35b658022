"""Tasks whose quality is closeness to what a person wrote, where no reward model is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from dqo.errors import DataError
from dqo.records import Prompt
from dqo.rewards.rouge import RougeReward
from dqo.tasks.dataset_task import DatasetTask


@dataclass(kw_only=True)
class ReferenceTask(DatasetTask):
    """Quality is ROUGE against the reference, 0 for a response that was cut off.

    It needs no model and no network, and it is a poor judge of open questions, where many good answers share few words
    with the one reference: give the recipe a reward model or a judge under `rewards` wherever one is at hand.

    Attributes:
        measure: "rouge1", "rouge2", "rougeL" or "rougeLsum".
    """

    measure: str = "rougeL"

    max_completion_length: ClassVar[int] = 256
    _rouge: RougeReward = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rouge = RougeReward(self.measure)

    def check(self, prompt: Prompt) -> None:
        """Refuse a row without a reference."""
        if not prompt.reference or not "".join(prompt.reference).strip():
            raise DataError(
                f"prompt {prompt.id!r}: the task {self.name!r} needs a text in `reference`, got {prompt.reference!r}; "
                "mend the row."
            )

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """ROUGE of each of the N rows that ended by itself, in [0, 1]; 0 for the others."""
        scores = self._rouge(
            prompts=[prompt.prompt for prompt in prompts],
            completions=responses,
            reference=[prompt.reference for prompt in prompts],
        )
        return [score if end else 0.0 for score, end in zip(scores, ended, strict=True)]
