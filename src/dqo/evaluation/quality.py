"""Quality of responses: unbiased pass@k, max@k and distinct right answers, scoring, and the text that is judged."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from dqo.core import reaches
from dqo.errors import DQOError, NonFiniteError
from dqo.files.records import Group, Prompt
from dqo.models.chat import DEFAULT_MARKERS, Response, TraceMarkers, joined
from dqo.rewards.calling import CheckedReward, reward_records

Reward = Callable[..., Any]
Item = TypeVar("Item")
_GROUPS_AT_ONCE = 16


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of the n samples, drawn without replacement, hold a correct one: 1 - C(n-c, k)/C(n, k).

    Args:
        n: Samples drawn for the prompt.
        c: How many of them are correct.
        k: Draws granted, 1 <= k <= n.

    Returns:
        A number in [0, 1].

    Raises:
        DQOError: If k > n (there is no unbiased estimate), or a count is out of range.
    """
    _check_draws(k, n)
    if any(int(count) != count for count in (n, c, k)) or not 0 <= c <= n:
        raise DQOError(f"pass_at_k needs whole numbers, and c correct samples from 0 to n, got n={n}, c={c}, k={k}.")
    n, c, k = int(n), int(c), int(k)
    # Chen et al. 2021 (docs/math.md eq. 7.1); `max_at_k` of 0/1 rewards gives the same number.
    # In whole numbers up to the last division: no overflow for large n, no digit of a small probability lost.
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
        DQOError: If k is out of range, or a reward is not finite.
    """
    values = [float(reward) for reward in rewards]
    for place, value in enumerate(values):
        if not math.isfinite(value):
            raise NonFiniteError(f"max_at_k needs finite rewards, got {value} at place {place}; check the reward.")
    n = len(values)
    _check_draws(k, n)
    weight, terms = k / n, []
    for i, reward in zip(range(n, k - 1, -1), sorted(values, reverse=True), strict=False):
        terms.append(weight * reward)
        weight *= (i - k) / (i - 1) if i > 1 else 0.0
    return math.fsum(terms)


def distinct_right_at_k(answers: Sequence[Hashable | None], k: int) -> float:
    """Expected number of distinct right answers among k of the n samples: Σ_c 1 - C(n-n_c, k)/C(n, k), n_c of answer c.

    Args:
        answers: One per sample of a prompt: equal for the same right answer, None where it is wrong.
        k: Draws granted, 1 <= k <= n.

    Returns:
        A number from 0 to k; of k = 1 the share of right samples, of k = n the number of distinct right answers.

    Raises:
        DQOError: If k is out of range.
    """
    n = len(answers)
    _check_draws(k, n)
    # By linearity: answer c is among the k draws with its own pass@k (docs/math.md eq. 7.3).
    times = Counter(answer for answer in answers if answer is not None)
    return math.fsum(pass_at_k(n, n_c, k) for n_c in times.values())


def _check_draws(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise DQOError(
            f"An unbiased estimate needs 1 <= k <= n, got k={k} with n={n} samples; draw at least k samples."
        )


def among_good(
    measure: Callable[[list[Item]], float], items: Sequence[Item], rewards: Sequence[float], threshold: float = 0.5
) -> float:
    """Measures the diversity of the items whose reward reaches the threshold: different but wrong is worth nothing.

    Args:
        measure: Any measure of this package that takes a group, such as `vendi_score`.
        items: One per response: texts, rows of embeddings or classes.
        rewards: One per response.
        threshold: Least reward of a good response; the ranking of models can flip with it, so report it.

    Returns:
        The measure of the good items; of none, 0 of what counts and NaN of the rest.

    Raises:
        DQOError: If there is not one reward per item.
    """
    if len(items) != len(rewards):
        raise DQOError(f"`rewards` must be one number per item, got {len(rewards)} for {len(items)} items.")
    good = [item for item, passed in zip(items, passes(rewards, threshold), strict=True) if passed]
    return float(measure(good))


def passes(rewards: Sequence[float], threshold: float) -> list[bool]:
    """Which rewards reach the pass threshold, by the rule of the gate of training: rounding fails nobody."""
    return reaches(torch.tensor(rewards, dtype=torch.float64), threshold).tolist()


def scored(groups: Sequence[Group], reward: Reward) -> list[Group]:
    """Scores whole groups by a function in TRL's convention; one response without a score leaves its group without.

    The function gets lists of N entries as keywords: `prompts` (str), `completions` (str), `reference`, `meta`,
    `record` (the prompt as in training) and `ended` (bool), and returns N numbers or None.
    """
    checked, found = CheckedReward(reward), []
    for first in tqdm(range(0, len(groups), _GROUPS_AT_ONCE), desc=f"scoring ({checked.__name__})", unit="batch"):
        batch = judged(groups[first : first + _GROUPS_AT_ONCE])
        records = [Prompt(g.id, g.prompt, g.reference, g.meta) for g in batch for _ in g.responses]
        texts = [response for group in batch for response in group.responses]
        # Of an end that is not known the better is taken: a note says so.
        ended = [finish in ("eos", "unknown") for group in batch for finish in group.finish]
        numbers = iter(reward_records(checked, records, texts, ended))
        for group in batch:
            rewards = [next(numbers) for _ in group.responses]
            found.append(replace(group, rewards=None if None in rewards else rewards))
    return found


def check_scoring(prompt: Prompt, reward: Reward) -> None:
    """Scores made-up responses to a prompt, so that a reward which lacks something says so before any sampling."""
    # Two, because a judge of whole groups compares.
    reward_records(CheckedReward(reward), [prompt] * 2, [Response("Hello!"), Response("Good day!")], [True] * 2)


def judged(
    groups: Sequence[Group], markers: TraceMarkers = DEFAULT_MARKERS, sampling: Mapping[str, Any] | None = None
) -> list[Group]:
    """Removes reasoning traces: every response becomes a `Response`; those that are one already stay.

    `sampling` is the content of sampling.json. Where it does not say whether prompts open a trace, that is inferred.
    """
    known = sampling or {}
    # Where a prompt opens the trace, a response that was cut off within it shows no marker at all.
    opened = known.get("prompt_opens_trace")
    if known.get("form", "plain") != "plain":
        opened = False  # several responses per call are read from what stood after the trace
    elif opened is None:
        opened = _prompts_seem_to_open(groups, markers)

    def read(group: Group) -> Group:
        in_trace = opened or (not known.get("chat_template") and markers.opened_by(group.prompt))
        texts = group.responses
        read = [t if isinstance(t, Response) else joined([t], [markers.cut(t, in_trace)]) for t in texts]
        return replace(group, responses=read)

    return list(map(read, groups))


def trace_notes(groups: Sequence[Group]) -> list[str]:
    """Says how many responses had a trace, in one sentence or none; groups as `judged` returns them."""
    found = [(response.traced, response.unclosed) for group in groups for response in group.responses]
    traced, unclosed = (sum(column) / len(found) for column in zip(*found, strict=True))
    note = (
        f"{traced:.1%} of {len(found)} responses have a reasoning trace, which is neither judged nor measured; "
        f"{unclosed:.1%} never close it, so that they hold no answer."
    )
    return [note] if traced else []


def _prompts_seem_to_open(groups: Sequence[Group], markers: TraceMarkers) -> bool:
    """Whether most responses that ended by themselves hold a closing marker that nothing opened."""
    ended = [
        text
        for group in groups
        for text, finish in zip(group.responses, group.finish, strict=True)
        if finish in ("eos", "unknown") and not isinstance(text, Response)
    ]
    return sum(markers.cut(text).from_prompt for text in ended) > len(ended) / 2
