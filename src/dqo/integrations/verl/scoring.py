"""Embeds whole groups and gives their credits, in the trainer's process or divided among Ray actors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
import torch
from ray.exceptions import RayTaskError
from torch import Tensor

from dqo.diversity.credit import Evidence, shape_reward
from dqo.diversity.set_functions import set_credit
from dqo.embedders import load_embedder
from dqo.errors import DQOError, EncoderError
from dqo.integrations.verl.settings import DQOSettings
from dqo.rewards.loading import checked_span, import_function

# What is logged of a group; names and units are those of `dqo.diversity.credit.GroupCredit`.
NUMBERS = ("log_volume", "quality_volume", "vendi", "cosine_distance")
_START_SECONDS = 300  # to place an actor and start Python, from a network disk at worst


@dataclass(frozen=True)
class Group:
    """The responses of one prompt.

    Attributes:
        texts: G responses, as text.
        rewards: G task rewards.
        keys: G names of the responses, for messages.
        prompt: What was asked, as the policy read it.
    """

    texts: list[str]
    rewards: list[float]
    keys: list[str]
    prompt: str = ""


@dataclass(frozen=True)
class ScoredGroup:
    """A group after embedding.

    Attributes:
        shaped: G rewards that are optimised.
        credit: G credits, in the unit of the settings.
        numbers: `NUMBERS` by name.
    """

    shaped: list[float]
    credit: list[float]
    numbers: dict[str, float]


class GroupScorer:
    """Turns texts and task rewards of groups into shaped rewards, all in this process.

    Args:
        settings: The run's settings.
        device: Of the encoder; None takes the GPU where there is one.

    Raises:
        EncoderError: No such encoder.
        RecipeError: No such `answer_span`.
    """

    def __init__(self, settings: DQOSettings, device: str | None = "cpu") -> None:
        self._settings = settings
        span = settings.answer_span
        self._span = checked_span(import_function(span, "dqo.answer_span", "response") if span else None)
        named = settings.set_function
        self._worth = import_function(named, "dqo.set_function", "prompt, answers, rewards") if named else None
        self._embed = load_embedder(
            settings.encoder,
            device=device,
            dtype=settings.encoder_dtype,
            batch_size=settings.encoder_batch_size,
        )

    def __call__(self, groups: list[Group]) -> list[ScoredGroup]:
        """Scores P groups of any sizes, in order."""
        if not groups:
            return []
        answers = [[self._span(text) for text in group.texts] for group in groups]  # P times G
        E = self._embed([answer for group in answers for answer in group])  # (N, D)
        parts = E.split([len(group.texts) for group in groups])  # P times (G, D)
        return [self._score(*group) for group in zip(groups, answers, parts, strict=True)]

    def _score(self, group: Group, answers: list[str], E: Tensor) -> ScoredGroup:
        rewards, spec = torch.tensor([group.rewards], dtype=torch.float64), self._settings  # (1, G)
        evidence = Evidence()
        try:
            if self._worth is not None:
                takes_part = spec.passes(rewards) & torch.tensor([[bool(answer.strip()) for answer in answers]])
                asked = [group.prompt], [answers], rewards, takes_part
                evidence = Evidence(marginal=set_credit(self._worth, spec.set_function, *asked).to(E.device))
            shaped, credit = shape_reward(rewards, E[None], spec, evidence)  # (1, G)
        except DQOError as error:
            # The mathematics counts rows; the user knows responses.
            raise type(error)(f"of the responses {', '.join(group.keys)}, counted from 0: {error}") from error
        numbers = {name: getattr(credit, name)[0].item() for name in NUMBERS}
        return ScoredGroup(shaped[0].tolist(), credit.credit[0].tolist(), numbers)


class ActorScorer:
    """Does the same on Ray actors: whole groups go out, and only numbers come back.

    Args:
        settings: The run's settings; `encoder_actors` of them are started, spread over the nodes.

    Raises:
        EncoderError: No such encoder, or actors do not start because no node has what they reserve.
        RecipeError: No such `answer_span`.
    """

    def __init__(self, settings: DQOSettings) -> None:
        actor = ray.remote(_ScorerActor).options(
            num_cpus=settings.encoder_cpus, num_gpus=settings.encoder_gpus, scheduling_strategy="SPREAD"
        )
        self._actors = [actor.remote() for _ in range(settings.encoder_actors)]
        started = [actor.__ray_ready__.remote() for actor in self._actors]
        _, waiting = ray.wait(started, num_returns=len(started), timeout=_START_SECONDS)
        # Without a limit, Ray waits for ever for a node that has what an actor reserves.
        if waiting:
            raise EncoderError(
                f"Expected {len(started)} encoder actors with {settings.encoder_cpus} CPUs and "
                f"{settings.encoder_gpus:g} GPUs each to start in {_START_SECONDS} s, {len(waiting)} did not with "
                f"{ray.available_resources()} free; lower dqo.encoder_actors, dqo.encoder_cpus or dqo.encoder_gpus."
            )
        with own_errors():
            ray.get([actor.load.remote(settings) for actor in self._actors])

    def __call__(self, groups: list[Group]) -> list[ScoredGroup]:
        """Scores groups; order and errors are those of GroupScorer."""
        # A group never straddles actors, so each credit is the one that a single process would compute.
        n, scored = len(self._actors), [None] * len(groups)
        calls = [actor.score.remote(groups[first::n]) for first, actor in enumerate(self._actors)]
        with own_errors():
            for first, result in enumerate(ray.get(calls)):
                scored[first::n] = result
        return scored


class _ScorerActor:
    """A GroupScorer in a process of its own."""

    # Not in __init__: Ray reports an error there as the death of the actor.
    def load(self, settings: DQOSettings) -> None:
        torch.set_num_threads(settings.encoder_cpus)
        # Without a GPU of its own the encoder must not take memory on one that belongs to verl.
        device = settings.encoder_device or (None if settings.encoder_gpus else "cpu")
        self._scorer = GroupScorer(settings, device)

    def score(self, groups: list[Group]) -> list[ScoredGroup]:
        return self._scorer(groups)


@contextmanager
def own_errors() -> Iterator[None]:
    """Raises a DQOError of another process as itself; Ray's wrapping has a page of traceback for its message."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, DQOError):
            raise error.cause from error
        raise
