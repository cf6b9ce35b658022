"""Settings of DQO in a verl run: the section `dqo` at the root of verl's configuration, written `+dqo.alpha=0.5`."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from dqo.diversity.alpha_settings import AlphaArguments
from dqo.embedders.naming import with_whole_path
from dqo.errors import RecipeError, refuse
from dqo.integrations.groups import AnswerFields, GroupSettings
from dqo.settings.checking import check, model_of, setting

# Estimators that take no mean over the responses of a prompt.
_NO_GROUP_MEAN = ("gae", "reinforce_plus_plus")
# Our name of a trainer mode -> verl's.
BASE_MODES = {"dqo_sync": "sync", "dqo_colocate_async": "colocate_async"}

logger = logging.getLogger(__name__)


@dataclass
class DQOSettings(AnswerFields, AlphaArguments):
    """What diversity means, its weight at each step, what measures it, and which processes do."""

    encoder_actors: Annotated[int, Field(ge=0)] | None = setting(
        None,
        "Ray actors among which the groups of a batch are divided; null takes half of what verl's workers leave free, "
        "8 at most; 0 embeds in the trainer's process.",
    )
    encoder_cpus: Annotated[int, Field(ge=1)] = setting(1, "Processors reserved for each actor, and its threads.")
    encoder_gpus: Annotated[float, Field(ge=0)] = setting(
        0.0,
        "GPUs, or a part of one, reserved for each actor; they must lie outside the trainer.n_gpus_per_node * "
        "trainer.nnodes that verl takes whole.",
    )

    def __post_init__(self) -> None:
        self.check_alpha()
        self.group_settings()
        if self.encoder_actors == 0 and (self.encoder_gpus > 0 or self.encoder_cpus > 1):
            raise RecipeError(
                f"dqo.encoder_actors: expected at least 1 where dqo.encoder_cpus={self.encoder_cpus} and "
                f"dqo.encoder_gpus={self.encoder_gpus:g} are reserved for each, got 0; raise it, or remove these."
            )

    def group_settings(self) -> GroupSettings:
        """Makes the settings of the scorer; its alpha is that of the first step."""
        given = {name: getattr(self, name) for name in AnswerFields.__dataclass_fields__}
        return GroupSettings(**given | vars(self.diversity_spec()))


def read_settings(config: DictConfig) -> DQOSettings:
    """Reads the section `dqo` and checks it against the rest of the run; cheap, so it runs before anything starts.

    Args:
        config: verl's whole configuration.

    Returns:
        The settings.

    Raises:
        RecipeError: A key that does not exist, a value of the wrong type, a signal that would do nothing there, or a
            group too small for the credit to act.
        DQOError: A setting of the mathematics out of range.
    """
    section = config.get("dqo") or OmegaConf.create()
    if not isinstance(section, DictConfig):
        raise RecipeError(f"dqo: expected settings such as +dqo.alpha=0.5, got {section!r}; name one after a dot.")
    section = OmegaConf.to_container(section, resolve=True)
    check(model_of(DQOSettings), section, "dqo")
    settings = DQOSettings(**section)
    # Two responses have equal credits, which a group mean cancels; one response has nobody to differ from.
    n, estimator = config.actor_rollout_ref.rollout.n, config.algorithm.adv_estimator
    least = 2 if estimator in _NO_GROUP_MEAN else 3
    refuse(
        [
            (
                settings.set_function is not None and divides_by_group_std(config),
                f"dqo.set_function: expected advantages that no group's own std divides, got algorithm.adv_estimator="
                f"{estimator}; set algorithm.adv_estimator=grpo and algorithm.norm_adv_by_std_in_grpo=false.",
            ),
            (
                settings.diversity_spec().signal.acts_on_reward and settings.largest_alpha > 0 and n < least,
                f"actor_rollout_ref.rollout.n: expected at least {least} responses per prompt for "
                f"algorithm.adv_estimator={estimator}, got {n}, with which the credit cancels; raise it, or set "
                "dqo.alpha=0.",
            ),
            (
                (settings.vendi_target or 0) > n,
                f"dqo.vendi_target: expected at most the {n} responses of a group, got {settings.vendi_target!r}; "
                "lower it, or raise actor_rollout_ref.rollout.n.",
            ),
        ]
    )
    return settings


def base_mode(config: DictConfig) -> str:
    """Gives verl's own name of the trainer mode that its whole configuration asks for: "sync" or "colocate_async"."""
    mode, v1 = config.trainer.v1.trainer_mode, config.trainer.use_v1
    # `use_v1=false` is verl's deprecated trainer, which would train without diversity and say nothing.
    if mode not in BASE_MODES or not v1:
        raise RecipeError(
            f"trainer: expected use_v1=true and v1.trainer_mode to be one of {', '.join(BASE_MODES)}, got use_v1={v1} "
            f"and {mode!r}, which would train without diversity; add trainer.v1.trainer_mode=dqo_sync."
        )
    return BASE_MODES[mode]


def divides_by_group_std(config: DictConfig) -> bool:
    """Tells whether the estimator of verl's whole configuration divides a group's advantages by the group's std."""
    estimator = config.algorithm.adv_estimator
    # verl 0.9 does not pass the setting on to this one.
    if estimator == "grpo_vectorized":
        return True
    return estimator in ("grpo", "grpo_passk") and config.algorithm.get("norm_adv_by_std_in_grpo", True)


def warn_of_group_std(config: DictConfig) -> None:
    """Warns before training, given verl's whole configuration, that alpha will mean something else in every group."""
    if divides_by_group_std(config):
        logger.warning(
            "algorithm.adv_estimator=%s divides each group by its own std: where task rewards tie, alpha loses its "
            "meaning; algorithm.adv_estimator=grpo with algorithm.norm_adv_by_std_in_grpo=false keeps it.",
            config.algorithm.adv_estimator,
        )


def with_whole_paths(settings: DQOSettings) -> DQOSettings:
    """Gives settings whose functions and encoder name files and folders here by whole paths, for every node."""
    # A Ray process runs in a folder of its own.
    whole = {"encoder": with_whole_path(settings.encoder)}
    if settings.quality_floor_of is not None:
        whole["quality_floor_of"] = str(Path(settings.quality_floor_of).expanduser().resolve())
    for name in ("answer_span", "set_function"):
        file, _, function = (getattr(settings, name) or "").rpartition(":")
        if file.endswith(".py"):
            whole[name] = f"{Path(file).expanduser().resolve()}:{function}"
    return replace(settings, **whole)
