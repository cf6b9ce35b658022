"""Embedding and credit of whole groups, in the trainer's process or divided among Ray actors."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError
from torch import Tensor

from dqo.core.groups import by_id, pad_groups
from dqo.diversity.credit import shape_reward
from dqo.embedders import load_embedder
from dqo.errors import DQOError, EncoderError, RewardError
from dqo.integrations.verl.settings import DQOSettings
from dqo.rewards.loading import checked_span, import_function

_START_SECONDS = 300  # to place an actor and start Python, from a network disk at worst


@dataclass(frozen=True)
class Group:
    """The responses of one prompt.

    Attributes:
        texts: G responses, as text.
        rewards: G task rewards.
        keys: G names of the responses, for messages.
    """

    texts: list[str]
    rewards: list[float]
    keys: list[str]


@dataclass(frozen=True)
class ScoredGroup:
    """What is known of a group after embedding; names and units are those of `dqo.diversity.GroupCredit`.

    Attributes:
        shaped: G rewards that are optimised.
        credit: G credits, in the unit of the settings.
        log_volume: nats.
        quality_volume: nats, the part of log_volume that pays size and quality.
        vendi: effective number of different responses.
        cosine_distance: mean over pairs.
    """

    shaped: list[float]
    credit: list[float]
    log_volume: float
    quality_volume: float
    vendi: float
    cosine_distance: float


class GroupScorer:
    """Texts and task rewards of groups -> shaped rewards, all in this process.

    Args:
        settings: the run's settings.
        device: of the encoder; None takes the GPU where there is one.

    Raises:
        EncoderError: no such encoder.
        RecipeError: no such `answer_span`.
    """

    def __init__(self, settings: DQOSettings, device: str | None = "cpu") -> None:
        self._settings = settings
        span = import_function(settings.answer_span, "dqo.answer_span", "response") if settings.answer_span else None
        self._span = checked_span(span)
        self._embed = load_embedder(
            settings.encoder,
            device=device,
            dtype=settings.encoder_dtype,
            batch_size=settings.encoder_batch_size,
        )

    def __call__(self, groups: list[Group]) -> list[ScoredGroup]:
        """Score groups of any sizes.

        Args:
            groups: P groups; sizes may differ.

        Returns:
            P scored groups, in order.

        Raises:
            DQOError: rewards that the combination rule cannot take.
        """
        if not groups:
            return []
        texts = [self._span(text) for group in groups for text in group.texts]
        E = self._embed(texts)  # (N, D)
        rewards = torch.tensor([r for group in groups for r in group.rewards], dtype=torch.float64)  # (N,)
        ends = torch.tensor([len(group.texts) for group in groups]).cumsum(0).tolist()
        rows = [range(end - len(group.texts), end) for group, end in zip(groups, ends, strict=True)]
        padded_E, present = pad_groups(E, rows)  # (P, G, D), (P, G)
        padded_rewards = pad_groups(rewards, rows)[0].masked_fill(~present, torch.nan)  # (P, G), NaN: takes no part
        try:
            shaped, credit = shape_reward(padded_rewards, padded_E, self._settings)  # (P, G)
        except DQOError as error:
            raise self._named(error, groups, E.split([len(group.texts) for group in groups])) from error
        return [
            ScoredGroup(
                shaped=shaped[p, : len(group.texts)].tolist(),
                credit=credit.credit[p, : len(group.texts)].tolist(),
                log_volume=credit.log_volume[p].item(),
                quality_volume=credit.quality_volume[p].item(),
                vendi=credit.vendi[p].item(),
                cosine_distance=credit.cosine_distance[p].item(),
            )
            for p, group in enumerate(groups)
        ]

    def _named(self, error: DQOError, groups: list[Group], E: Sequence[Tensor]) -> DQOError:
        """The error by the prompt it is about: a row of the padded batch means nothing to its reader."""
        for group, rows in zip(groups, E, strict=True):
            try:
                shape_reward(torch.tensor([group.rewards], dtype=torch.float64), rows[None], self._settings)
            except DQOError as found:
                return type(found)(f"of the responses {', '.join(group.keys)}, counted from 0: {found}")
        return error


class ActorScorer:
    """The same over Ray actors: whole groups go out, and only numbers come back.

    A group never straddles actors, so each credit is the one a single process would compute.

    Args:
        settings: the run's settings; `encoder_actors` of them are started, spread over the nodes.

    Raises:
        EncoderError: no such encoder, or actors do not start because no node has what they reserve.
        RecipeError: no such `answer_span`.
    """

    def __init__(self, settings: DQOSettings) -> None:
        actor = ray.remote(_ScorerActor).options(
            num_cpus=settings.encoder_cpus, num_gpus=settings.encoder_gpus, scheduling_strategy="SPREAD"
        )
        self._actors = [actor.remote(settings) for _ in range(settings.encoder_actors)]
        started = [actor.started.remote() for actor in self._actors]
        _, waiting = ray.wait(started, num_returns=len(started), timeout=_START_SECONDS)
        if waiting:
            raise EncoderError(
                f"Expected {len(started)} encoder actors with {settings.encoder_cpus} CPUs and "
                f"{settings.encoder_gpus:g} GPUs each to start in {_START_SECONDS} s, {len(waiting)} did not with "
                f"{ray.available_resources()} free; lower dqo.encoder_actors, dqo.encoder_cpus or dqo.encoder_gpus."
            )
        with own_errors():
            ray.get([actor.load.remote() for actor in self._actors])

    def __call__(self, groups: list[Group]) -> list[ScoredGroup]:
        """Score groups of any sizes; order, arguments and errors are those of GroupScorer."""
        shares = _shares([sum(map(len, group.texts)) for group in groups], len(self._actors))
        with own_errors():
            results = ray.get(
                [
                    actor.score.remote([groups[p] for p in share])
                    for actor, share in zip(self._actors, shares, strict=True)
                ]
            )
        scored: dict[int, ScoredGroup] = {}
        for share, result in zip(shares, results, strict=True):
            scored.update(zip(share, result, strict=True))
        return [scored[p] for p in range(len(groups))]


class _ScorerActor:
    """A GroupScorer in a process of its own."""

    def __init__(self, settings: DQOSettings) -> None:
        self._settings = settings

    def started(self) -> None:
        """Nothing: that it returns says that a node had what the actor reserves."""

    def load(self) -> None:
        """Load the encoder: here and not in __init__, whose errors Ray tells as the death of an actor."""
        torch.set_num_threads(self._settings.encoder_cpus)
        # Without a GPU of its own the encoder must not take memory on one that belongs to verl.
        device = self._settings.encoder_device or (None if self._settings.encoder_gpus else "cpu")
        self._scorer = GroupScorer(self._settings, device)

    def score(self, groups: list[Group]) -> list[ScoredGroup]:
        """See GroupScorer."""
        return self._scorer(groups)


def _shares(sizes: list[int], n: int) -> list[list[int]]:
    """Indices of groups for each of n actors: the longest first, each to the actor with least to do."""
    shares: list[list[int]] = [[] for _ in range(n)]
    load = [0] * n
    for p in sorted(range(len(sizes)), key=lambda p: -sizes[p]):
        least = load.index(min(load))
        shares[least].append(p)
        load[least] += sizes[p] + 1  # an empty group still costs a call
    return shares


# From the rows of a verl batch to groups of responses, and from shaped rewards back to tokens.
#
# A row's key is `{uid}_{session}_{output}`: uid names the prompt, session one response to it, output one of the
# sequences that the response was cut into (one, unless an agent loop returns several). Rows come in any order, groups
# in
# any size, and padding rows are told by their tag.


def group_rows(keys: Sequence[str], tags: Sequence[dict[str, Any]]) -> list[list[list[int]]]:
    """Rows of each session of each prompt, padding left out.

    Args:
        keys: N row keys.
        tags: N row tags.

    Returns:
        P groups of sessions; a session is its rows, the final output last, which is the one that is scored.
    """
    real = [row for row, tag in enumerate(tags) if not tag.get("is_padding", False)]
    parts = {row: keys[row].rsplit("_", 2) for row in real}
    groups = []
    for members in by_id([parts[row][0] for row in real]).values():
        rows = [real[member] for member in members]
        sessions = by_id([parts[row][1] for row in rows]).values()
        groups.append([sorted((rows[i] for i in session), key=lambda row: int(parts[row][2])) for session in sessions])
    return groups


def read_group(sessions: list[list[int]], keys: Sequence[str], texts: Mapping[int, str], scores: list[Tensor]) -> Group:
    """Texts and task rewards of a group's sessions.

    Args:
        sessions: rows of each session, the final output last.
        keys: N row keys, for messages.
        texts: response text of each row.
        scores: N rows of task reward by token, (T_row,).

    Returns:
        The group; a text is that of all rows of the session, a reward the sum over the tokens of its final row.

    Raises:
        RewardError: a reward is NaN or infinite; names the row.
    """
    rewards = [scores[session[-1]].double().sum().item() for session in sessions]
    for session, reward in zip(sessions, rewards, strict=True):
        if not torch.isfinite(torch.tensor(reward)):
            raise RewardError(
                f"Expected a finite task reward for every response, row {keys[session[-1]]} has {reward}, which would "
                "spoil the advantages of its whole group; mend the reward function."
            )
    written = ["\n".join(str(texts[row]) for row in session if texts[row].strip()) for session in sessions]
    return Group(written, rewards, [keys[session[-1]] for session in sessions])


def add_credit(
    scores: list[Tensor],
    masks: list[Tensor],
    groups: list[list[list[int]]],
    found: list[ScoredGroup],
    read: list[Group],
) -> list[Tensor]:
    """Task reward by token with diversity's part on the last token that the policy wrote.

    verl writes a reward on the last token even where it is masked (a response that ends in a tool's output), and GAE
    drops what lies on masked tokens. A row without any token of the policy gets nothing.

    Args:
        scores: N rows of task reward by token, (T_row,).
        masks: N rows, 1 where the policy wrote the token, (T_row,).
        groups: P groups of sessions of rows.
        found: P scored groups.
        read: P groups as they were scored.

    Returns:
        N rows (T_row,) float32; the rows of a session all get the session's part, as verl does with its reward.
    """
    shaped = [row.clone().float() for row in scores]
    for sessions, after, before in zip(groups, found, read, strict=True):
        for session, new, old in zip(sessions, after.shaped, before.rewards, strict=True):
            for row in session:
                written = masks[row].nonzero()
                if len(written):
                    shaped[row][written[-1, 0]] += new - old
    return shaped


# A user's mistake found in a Ray process is told as if it had been found here.


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise a DQOError of another process as itself; Ray's wrapping has a page of traceback for its message."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, DQOError):
            raise error.cause from error
        raise
