"""Quality of every response of every group, from a task or from a reward function."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from dqo.evaluation.traces import judged
from dqo.records import Group, Prompt
from dqo.rewards import CheckedReward
from dqo.rewards.record_reward import encode_record
from dqo.rewards.task_reward import task_quality

if TYPE_CHECKING:
    from dqo.tasks import Task

Reward = Callable[..., Any]
_GROUPS_A_CALL = 16


def score_with_task(groups: Sequence[Group], task: "Task") -> list[Group]:
    """The groups with `rewards` from `task.quality`, which also sees whether a response ended by itself.

    Args:
        groups: Groups of any sizes.
        task: What the prompts belong to.

    Returns:
        The same groups; rewards are None for a group in which any response could not be scored.

    Raises:
        RewardError: If the task raised, or returned another count than asked for or something that is not a number.
    """
    return _scored(groups, task_quality(task))


def score_with_reward(groups: Sequence[Group], reward: Reward) -> list[Group]:
    """The groups with `rewards` from a function in TRL's convention, called with whole groups.

    Args:
        groups: Groups of any sizes.
        reward: Called with lists of N entries as keywords: `prompts` (str), `completions` (str), `reference`, `meta`,
            `record` (the prompt as in training) and `ended` (bool). Returns N numbers, or None where it cannot score.

    Returns:
        The same groups; rewards are None for a group in which any response could not be scored.

    Raises:
        RewardError: If the function raised, or returned another count than asked for or something that is not a number.
    """
    return _scored(groups, reward)


def check_scoring(prompt: Prompt, reward: Reward) -> None:
    """Score a made-up response, so that a reward which lacks something says so before anything is sampled.

    Args:
        prompt: One of the data.
        reward: As for `score_with_reward`.

    Raises:
        DQOError: Whatever the reward has to say.
    """
    group = Group(prompt.id, prompt.prompt, prompt.reference, ["Hello!"], ["eos"], None, prompt.meta)
    _rewards([group], CheckedReward(reward))


def _scored(groups: Sequence[Group], reward: Reward) -> list[Group]:
    checked = CheckedReward(reward)
    scored = []
    for first in tqdm(range(0, len(groups), _GROUPS_A_CALL), desc=f"scoring ({checked.__name__})", unit="batch"):
        batch = groups[first : first + _GROUPS_A_CALL]
        numbers = iter(_rewards(batch, checked))
        for group in batch:
            rewards = [next(numbers) for _ in group.responses]
            scored.append(replace(group, rewards=None if None in rewards else rewards))
    return scored


def _rewards(groups: Sequence[Group], checked: CheckedReward) -> list[float | None]:
    """One number a response, group after group."""
    rows = [group for group in groups for _ in group.responses]
    values = checked(
        prompts=[group.prompt for group in rows],
        completions=[response for group in judged(groups) for response in group.responses],
        reference=[group.reference for group in rows],
        meta=[group.meta for group in rows],
        record=[encode_record(Prompt(group.id, group.prompt, group.reference, group.meta)) for group in rows],
        ended=[finish == "eos" for group in groups for finish in group.finish],
    )
    return asyncio.run(values) if inspect.iscoroutine(values) else values
