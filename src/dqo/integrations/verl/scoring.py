"""Embedding and credit of whole groups, in the trainer's process or divided among Ray actors."""

from collections.abc import Callable
from dataclasses import dataclass

import ray
import torch

from dqo.core.groups import pad_groups
from dqo.diversity import shape_reward
from dqo.embedders import load_embedder
from dqo.errors import EncoderError
from dqo.integrations.verl.remote_errors import own_errors
from dqo.integrations.verl.settings import DQOSettings
from dqo.rewards.imported import import_function

_START_SECONDS = 300  # to place an actor and load an encoder, from a network disk at worst


@dataclass(frozen=True)
class Group:
    """The responses of one prompt.

    Attributes:
        texts: G responses, as text.
        rewards: G task rewards.
    """

    texts: list[str]
    rewards: list[float]


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

    Raises:
        EncoderError: no such encoder.
        RecipeError: no such `answer_span`.
    """

    def __init__(self, settings: DQOSettings) -> None:
        self._settings = settings
        self._span = (
            import_function(settings.answer_span, "dqo.answer_span", "response") if settings.answer_span else None
        )
        self._embed = load_embedder(
            settings.encoder,
            # Without a GPU of its own the encoder must not take memory on one that belongs to verl.
            device=settings.encoder_device or (None if settings.encoder_gpus else "cpu"),
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
        texts = [text if self._span is None else self._span(text) for group in groups for text in group.texts]
        E = self._embed(texts)  # (N, D)
        rewards = torch.tensor([r for group in groups for r in group.rewards], dtype=torch.float64)  # (N,)
        ends = torch.tensor([len(group.texts) for group in groups]).cumsum(0).tolist()
        rows = [range(end - len(group.texts), end) for group, end in zip(groups, ends, strict=True)]
        padded_E, present = pad_groups(E, rows)  # (P, G, D), (P, G)
        padded_rewards = pad_groups(rewards, rows)[0].masked_fill(~present, torch.nan)  # (P, G), NaN: takes no part
        shaped, credit = shape_reward(padded_rewards, padded_E, self._settings)  # (P, G)
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
        started = [actor.load.remote() for actor in self._actors]
        done, waiting = ray.wait(started, num_returns=len(started), timeout=_START_SECONDS)
        with own_errors():
            ray.get(done)
        if waiting:
            raise EncoderError(
                f"Expected {len(started)} encoder actors with {settings.encoder_cpus} CPUs and "
                f"{settings.encoder_gpus:g} GPUs each to start in {_START_SECONDS} s, {len(waiting)} did not with "
                f"{ray.available_resources()} free; lower dqo.encoder_actors, dqo.encoder_cpus or dqo.encoder_gpus."
            )

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

    def load(self) -> None:
        """Load the encoder: here and not in __init__, whose errors Ray tells as the death of an actor."""
        torch.set_num_threads(self._settings.encoder_cpus)
        self._scorer = GroupScorer(self._settings)

    def score(self, groups: list[Group]) -> list[ScoredGroup]:
        """See GroupScorer."""
        return self._scorer(groups)


def make_scorer(settings: DQOSettings) -> Callable[[list[Group]], list[ScoredGroup]]:
    """The scorer that the settings ask for, with its encoder loaded."""
    return ActorScorer(settings) if settings.encoder_actors else GroupScorer(settings)


def _shares(sizes: list[int], n: int) -> list[list[int]]:
    """Indices of groups for each of n actors: the longest first, each to the actor with least to do."""
    shares: list[list[int]] = [[] for _ in range(n)]
    load = [0] * n
    for p in sorted(range(len(sizes)), key=lambda p: -sizes[p]):
        least = load.index(min(load))
        shares[least].append(p)
        load[least] += sizes[p] + 1  # an empty group still costs a call
    return shares
