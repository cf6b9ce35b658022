"""What a user gets who may draw k times: unbiased pass@k and max@k from n >= k samples.

Both average over all subsets of k of the n samples. Drawing k and taking their maximum once, or a bootstrap with
replacement, is noisier or biased.
"""

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from tqdm.auto import tqdm

from dqo.core import reaches
from dqo.errors import DQOError, NonFiniteError
from dqo.files.records import Group, Prompt
from dqo.models.response import DEFAULT_MARKERS, Response, TraceMarkers, joined
from dqo.rewards import CheckedReward
from dqo.rewards.calling import encode_record, task_quality


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of the n samples, drawn without replacement, hold a correct one: 1 - C(n-c, k)/C(n, k).

    Computed in whole numbers up to the last division: no overflow for large n, no digit of a small probability lost.

    Args:
        n: Samples drawn for the prompt.
        c: How many of them are correct.
        k: Draws granted, 1 <= k <= n.

    Returns:
        A number in [0, 1].

    Raises:
        DQOError: If k > n (there is no unbiased estimate), or a count is out of range.

    Source: Chen et al. 2021 (docs/math.md eq. 7.1); `max_at_k` of 0/1 rewards gives the same number.
    """
    n, c = _count("n", n), _count("c", c)
    k = _check_k(k, n)
    if not 0 <= c <= n:
        raise DQOError(f"pass_at_k needs a number of correct samples from 0 to n, got c={c} with n={n}.")
    few, many = sorted((c, k))  # C(n-c, k)/C(n, k) is symmetric in c and k: take the smaller numbers
    ways = math.comb(n, few)
    return (ways - math.comb(n - many, few)) / ways


def max_at_k(rewards: Sequence[float], k: int) -> float:
    """Expected best reward of k of the n samples: Σ_{i=k..n} C(i-1, k-1)/C(n, k) r_(i), r_(1) <= ... <= r_(n).

    Args:
        rewards: n finite rewards of one prompt's samples, of any sign, as tensor, array or list.
        k: Draws granted, 1 <= k <= n.

    Returns:
        A number between the mean of the rewards (k = 1) and their maximum (k = n).

    Raises:
        DQOError: If k > n (there is no unbiased estimate) or k < 1.
        NonFiniteError: If a reward is NaN or infinite; names its place.

    Source: docs/math.md eq. 7.1.
    """
    values = [float(reward) for reward in rewards]
    for place, value in enumerate(values):
        if not math.isfinite(value):
            raise NonFiniteError(f"max_at_k needs finite rewards, got {value} at place {place}; check the reward.")
    n = len(values)
    k = _check_k(k, n)
    weight, terms = k / n, []
    for i, reward in zip(range(n, k - 1, -1), sorted(values, reverse=True), strict=False):
        terms.append(weight * reward)
        weight *= (i - k) / (i - 1) if i > 1 else 0.0
    return math.fsum(terms)


def _check_k(k: int, n: int) -> int:
    k = _count("k", k)
    if not 1 <= k <= n:
        raise DQOError(
            f"An unbiased estimate needs 1 <= k <= n, got k={k} with n={n} samples; draw at least k samples."
        )
    return k


def _count(name: str, value: Any) -> int:
    if not math.isfinite(value) or int(value) != value:
        raise DQOError(f"`{name}` must be a whole number, got {value}.")
    return int(value)


# Quality of every response of every group, from a task or from a reward function.

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


# Responses of groups as they are judged: without reasoning traces, which the files keep as they were sampled.


def judged(
    groups: Sequence[Group], markers: TraceMarkers = DEFAULT_MARKERS, sampling: Mapping[str, Any] | None = None
) -> list[Group]:
    """The groups with every response as a `Response`; those that are one already stay as they are.

    Where a prompt opens the trace, a response that was cut off within it shows no marker at all. Who sampled here knows
    whether prompts do (`prompt_opens_trace` in sampling.json). Of other responses it is inferred: they do where most
    responses that ended by themselves hold a closing marker that nothing opened.

    Args:
        groups: As they were sampled.
        markers: Of reasoning traces.
        sampling: The content of sampling.json; None where it is not known.

    Returns:
        The same groups with the text that is judged.
    """
    known = sampling or {}
    if str(known.get("form", "plain")) != "plain":  # several responses a call, read from what stood after the trace
        opened = False
    else:
        opened = known.get("prompt_opens_trace")
        opened = _inferred(groups, markers) if opened is None else opened
    return [
        replace(group, responses=[_read(text, markers, opened or _opens(group, markers, known))
                                  for text in group.responses])
        for group in groups
    ]  # fmt: skip


def trace_notes(groups: Sequence[Group]) -> list[str]:
    """How many responses had a trace, for the notes of an evaluation.

    Args:
        groups: As `judged` returns them.

    Returns:
        One sentence or none.
    """
    responses = [response for group in groups for response in group.responses]
    traced = sum(response.traced for response in responses)
    unclosed = sum(response.unclosed for response in responses)
    if not traced:
        return []
    return [
        f"{traced / len(responses):.1%} of {len(responses)} responses have a reasoning trace, which is neither judged "
        f"nor measured; {unclosed / len(responses):.1%} never close it, so that they hold no answer."
    ]


def _read(text: str, markers: TraceMarkers, opened: bool) -> Response:
    return text if isinstance(text, Response) else joined([text], [markers.cut(text, opened)])


def _opens(group: Group, markers: TraceMarkers, sampling: Mapping[str, Any]) -> bool:
    """Whether a prompt that is no chat message ends with an opening marker."""
    return not sampling.get("chat_template") and markers.opened_by(group.prompt)


def _inferred(groups: Sequence[Group], markers: TraceMarkers) -> bool:
    ended = [
        text
        for group in groups
        for text, finish in zip(group.responses, group.finish, strict=True)
        if finish == "eos" and not isinstance(text, Response)
    ]
    return sum(markers.cut(text).from_prompt for text in ended) > len(ended) / 2


# Diversity among good answers only: different but wrong is worth nothing.

Item = TypeVar("Item")


def among_good(
    measure: Callable[[list[Item]], float], items: Sequence[Item], rewards: Sequence[float], threshold: float = 0.5
) -> float:
    """A measure of diversity of the items whose reward reaches the threshold.

    The ranking of models can flip with the threshold; report it.

    Args:
        measure: Any measure of this package that takes a group, such as `vendi_score`.
        items: One a response: texts, rows of embeddings or classes.
        rewards: One a response.
        threshold: Least reward of a good response; 0.5 divides 0/1 rewards.

    Returns:
        The measure of the good items; of none what the measure says of an empty list: 0 of what counts, else NaN.

    Raises:
        DQOError: If there is not one reward an item.

    Source: effective semantic diversity, Shypula et al. 2025.
    """
    if len(items) != len(rewards):
        raise DQOError(f"`rewards` must be one number an item, got {len(rewards)} for {len(items)} items.")
    good = [item for item, passed in zip(items, passes(rewards, threshold), strict=True) if passed]
    return float(measure(good))


def passes(rewards: Sequence[float], threshold: float) -> list[bool]:
    """Which rewards reach the pass threshold, by the rule that the gate of training has: rounding fails nobody.

    Args:
        rewards: One a response.
        threshold: Least reward of a good response.

    Returns:
        One a response.
    """
    return reaches(torch.tensor(rewards, dtype=torch.float64), threshold).tolist()
