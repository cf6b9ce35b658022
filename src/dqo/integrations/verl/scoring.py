"""Divides the groups of a batch among Ray actors, which embed them and give their credits."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray
import torch
from ray.exceptions import RayTaskError

from dqo.errors import DQOError, EncoderError
from dqo.integrations.groups import Group, GroupScorer, ScoredGroup
from dqo.integrations.verl.settings import DQOSettings

_MOST_ACTORS = 8  # unless somebody asks for more: each holds an encoder
_START_SECONDS = 300  # to place an actor and start Python, from a network disk at worst


class ActorScorer:
    """Does the same on Ray actors: whole groups go out, and only numbers come back.

    Args:
        settings: The run's settings; the actors that they ask for are spread over the nodes.

    Raises:
        EncoderError: No such encoder, or actors do not start because no node has what they reserve.
        RecipeError: No such `answer_span`.
    """

    def __init__(self, settings: DQOSettings) -> None:
        actor = ray.remote(_ScorerActor).options(
            num_cpus=settings.encoder_cpus, num_gpus=settings.encoder_gpus, scheduling_strategy="SPREAD"
        )
        self._actors = [actor.remote() for _ in range(actors_for(settings))]
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

    def __call__(self, groups: list[Group], alpha: float | None = None) -> list[ScoredGroup]:
        """Scores groups; order and errors are those of GroupScorer."""
        # A group never straddles actors, so each credit is the one that a single process would compute.
        n, scored = len(self._actors), [None] * len(groups)
        calls = [actor.score.remote(groups[first::n], alpha) for first, actor in enumerate(self._actors)]
        with own_errors():
            for first, result in enumerate(ray.get(calls)):
                scored[first::n] = result
        return scored


def actors_for(settings: DQOSettings) -> int:
    """Returns how many actors to start: what is asked for, else half of what Ray has free now, for verl starts more."""
    if settings.encoder_actors is not None:
        return settings.encoder_actors
    free = ray.available_resources()
    reserved = {"CPU": settings.encoder_cpus, "GPU": settings.encoder_gpus}
    room = min(free.get(name, 0) / each for name, each in reserved.items() if each > 0)
    return max(1, min(int(room / 2), _MOST_ACTORS))


class _ScorerActor:
    """A GroupScorer in a process of its own."""

    # Not in __init__: Ray reports an error there as the death of the actor.
    def load(self, settings: DQOSettings) -> None:
        torch.set_num_threads(settings.encoder_cpus)
        # Without a GPU of its own the encoder must not take memory on one that belongs to verl.
        device = settings.encoder_device or (None if settings.encoder_gpus else "cpu")
        self._scorer = GroupScorer(settings.group_settings(), device)

    def score(self, groups: list[Group], alpha: float | None) -> list[ScoredGroup]:
        return self._scorer(groups, alpha)


@contextmanager
def own_errors() -> Iterator[None]:
    """Raises a DQOError of another process as itself; Ray's wrapping has a page of traceback for its message."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, DQOError):
            raise error.cause from error
        raise
