"""Settings of DQO in a verl run: the section `dqo` at the root of verl's configuration, written `+dqo.alpha=0.5`."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from dqo.diversity.settings import DiversitySpec, EncoderFields
from dqo.diversity.signals import SIGNALS
from dqo.embedders.naming import with_whole_path
from dqo.errors import RecipeError
from dqo.models.chat import TraceMarkers
from dqo.settings.checking import check, model_of, setting

_NO_GROUP_MEAN = ("gae", "reinforce_plus_plus")
BASE_MODES = {"dqo_sync": "sync", "dqo_colocate_async": "colocate_async"}

logger = logging.getLogger(__name__)


@dataclass
class DQOSettings(EncoderFields, DiversitySpec):
    """What diversity means (the fields of DiversitySpec), what measures it, and which processes do."""

    encoder_actors: Annotated[int, Field(ge=0)] = setting(
        1, "Ray actors among which the groups of a batch are divided; 0 embeds in the trainer's process."
    )
    encoder_cpus: Annotated[int, Field(ge=1)] = setting(1, "Processors reserved for each actor, and its threads.")
    encoder_gpus: Annotated[float, Field(ge=0)] = setting(
        0.0,
        "GPUs, or a part of one, reserved for each actor; they must lie outside the trainer.n_gpus_per_node * "
        "trainer.nnodes that verl takes whole.",
    )
    answer_span: str | None = setting(
        None,
        "'pkg.module.function' or 'path/to/file.py:function', response text -> the text that is embedded; the whole "
        "text where not given.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        TraceMarkers.parse(self.trace_markers)
        if self.encoder_gpus > 0 and self.encoder_actors == 0:
            raise RecipeError(
                f"dqo.encoder_gpus: expected 0 where dqo.encoder_actors=0, got {self.encoder_gpus:g}, which no process "
                "would use; set dqo.encoder_actors=1."
            )
        if self.encoder_cpus > 1 and self.encoder_actors == 0:
            raise RecipeError(
                f"dqo.encoder_cpus: expected 1 where dqo.encoder_actors=0, got {self.encoder_cpus}, which nothing "
                "would reserve; set dqo.encoder_actors=1."
            )


def read_settings(config: DictConfig) -> DQOSettings:
    """The section `dqo`, checked by itself and against the rest of the run; cheap, so it runs before anything starts.

    Args:
        config: verl's whole configuration. `trainer.v1.trainer_mode` may already be verl's own name of the mode.

    Returns:
        The settings.

    Raises:
        RecipeError: a key that does not exist, a value of the wrong type, verl's deprecated trainer, a signal that
            would do nothing there, or a group too small for the credit to act.
        DQOError: a setting of the mathematics out of range.
    """
    section = config.get("dqo") or OmegaConf.create()
    if not isinstance(section, DictConfig):
        raise RecipeError(
            f"dqo: expected settings such as +dqo.alpha=0.5, got {section!r}; name the setting after a dot."
        )
    section = OmegaConf.to_container(section, resolve=True)
    check(model_of(DQOSettings), section, "dqo")
    settings = DQOSettings(**section)
    if settings.diversity not in reachable_signals() or settings.needs:
        raise RecipeError(
            f"dqo.diversity: expected one of {', '.join(reachable_signals())} without `same_answer`, got "
            f"{settings.diversity!r}, which reads or changes what stays verl's; choose one of these."
        )
    _check_group_size(settings, config)
    if not config.trainer.use_v1:
        raise RecipeError(
            "trainer.use_v1: expected true, got false, verl's deprecated trainer, in which DQO has no place; remove it."
        )
    return settings


def reachable_signals() -> list[str]:
    """Signals that rewards and embeddings of a batch suffice for; likelihoods, advantages and the loss stay verl's."""
    return [name for name, row in SIGNALS.items() if (row.acts_on_reward or row.place == "none") and not row.needs]


def base_mode(config: DictConfig) -> str:
    """The name that verl itself has for the trainer mode that a run asks for by ours.

    Args:
        config: verl's whole configuration.

    Returns:
        "sync" or "colocate_async".

    Raises:
        RecipeError: any other mode, which would train without diversity and say nothing.
    """
    mode = config.trainer.v1.trainer_mode
    if mode not in BASE_MODES:
        raise RecipeError(
            f"trainer.v1.trainer_mode: expected one of {', '.join(BASE_MODES)}, got {mode!r}, which would train "
            "without diversity; add trainer.v1.trainer_mode=dqo_sync."
        )
    return BASE_MODES[mode]


def _check_group_size(settings: DQOSettings, config: DictConfig) -> None:
    """Two responses have equal credits, which a group mean cancels; one response has nobody to differ from."""
    n, estimator = config.actor_rollout_ref.rollout.n, config.algorithm.adv_estimator
    least = 2 if estimator in _NO_GROUP_MEAN else 3
    if settings.signal.acts_on_reward and settings.alpha > 0 and n < least:
        raise RecipeError(
            f"actor_rollout_ref.rollout.n: DQO needs at least {least} responses a prompt with "
            f"algorithm.adv_estimator={estimator}, got {n}, with which the credit cancels; raise it, or "
            "set dqo.alpha=0."
        )


def divides_by_group_std(config: DictConfig) -> bool:
    """Whether the run's estimator divides the advantages of a group by the group's own std.

    Args:
        config: verl's whole configuration.

    Returns:
        what `algorithm.norm_adv_by_std_in_grpo` says, for the estimators that verl gives it to.
    """
    estimator = config.algorithm.adv_estimator
    if estimator == "grpo_vectorized":  # verl 0.9 does not pass the setting on to it
        return True
    return estimator in ("grpo", "grpo_passk") and config.algorithm.get("norm_adv_by_std_in_grpo", True)


def warn_of_group_std(config: DictConfig) -> None:
    """Say before training that alpha will mean something else in every group.

    Args:
        config: verl's whole configuration.
    """
    if not divides_by_group_std(config):
        return
    estimator = config.algorithm.adv_estimator
    away = "algorithm.adv_estimator=grpo with " if estimator == "grpo_vectorized" else ""
    logger.warning(
        "algorithm.adv_estimator=%s divides each group by its own std: where task rewards tie, alpha loses its "
        "meaning; %salgorithm.norm_adv_by_std_in_grpo=false keeps it.",
        estimator,
        away,
    )


def with_whole_paths(settings: DQOSettings) -> DQOSettings:
    """Files and folders named from where the command was given: a Ray process runs in a folder of its own.

    Args:
        settings: as they were written.

    Returns:
        the same with `answer_span="file.py:function"` and an encoder that is a folder here by their whole paths, which
        must exist on every node.
    """
    span = settings.answer_span
    if span and ".py:" in span:
        file, _, function = span.rpartition(":")
        span = f"{Path(file).expanduser().resolve()}:{function}"
    return replace(settings, answer_span=span, encoder=with_whole_path(settings.encoder))
