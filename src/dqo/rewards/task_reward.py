"""The quality of a task as a reward function in TRL's convention."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from dqo.records import Prompt
from dqo.rewards.checked import CheckedReward
from dqo.rewards.record_reward import RecordReward, decode_record


class HasQuality(Protocol):
    """What is asked of a task here; see `dqo.tasks.Task`."""

    name: str

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """Quality of each response, None where it cannot be scored."""
        ...


class TaskReward(RecordReward):
    """`task.quality` for `reward_funcs`, under the name "quality".

    The dataset needs a column `record`, see `encode_record`.

    Args:
        task: The task that scores.
        eos_token_ids: Ids one of which ends a completion that was not cut off at the length limit.
    """

    def __init__(self, task: HasQuality, eos_token_ids: Collection[int]):
        super().__init__(CheckedReward(task_quality(task)), eos_token_ids, "quality")
        self.counting = task


def task_quality(task: HasQuality) -> Callable[..., list[float | None]]:
    """`task.quality` as a function of `completions`, `record` and `ended`, named as the task.

    Args:
        task: The task that scores.

    Returns:
        A reward function in TRL's convention.
    """

    def quality(completions: list[str], record: list[str], ended: list[bool], **_: Any) -> list[float | None]:
        return task.quality([decode_record(row) for row in record], completions, ended)

    quality.__name__ = task.name
    return quality
