"""Settings of the trainers: TRL's own, plus what diversity means. One flat dataclass each, as TRL's users expect."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from trl import GRPOConfig, RLOOConfig

from dqo.core import REWARD_SCALES
from dqo.diversity.alpha import (
    ALPHA_SCHEDULES,
    AlphaBounds,
    AlphaControl,
    AlphaSchedule,
    AlphaSource,
    FlooredAlpha,
    ScheduledAlpha,
    TargetedAlpha,
)
from dqo.diversity.settings import DiversityFields, DiversitySpec, EncoderFields
from dqo.diversity.signals import SIGNALS
from dqo.errors import DataError, DQOError, RecipeError
from dqo.files.jsonio import is_number
from dqo.files.run import read_steps
from dqo.models.policy import best_device, native_bf16
from dqo.models.response import TraceMarkers
from dqo.models.weights import first_words
from dqo.settings.checking import check_fields, setting

# Settings of alpha: a number with a schedule, or "auto" under a floor on quality or towards a diversity target.

_AUTO_ONLY = ("quality_floor", "quality_floor_of", "quality_slack", "quality_floor_ramp", "vendi_target",
              "alpha_start", "alpha_min", "alpha_max", "alpha_rate")  # fmt: skip
_FIXED_ONLY = ("alpha_schedule", "alpha_end", "alpha_warmup_steps")


@dataclass
class AlphaArguments(DiversityFields):
    """What alpha is at each step."""

    alpha: float | str = setting(1.0, "Weight of diversity against the task reward, at least 0; 'auto' finds it.")
    alpha_schedule: Literal[ALPHA_SCHEDULES] = setting(
        "constant", "'constant', or 'linear' or 'cosine' from alpha to alpha_end at the last step."
    )
    alpha_end: Annotated[float, Field(ge=0, lt=1e9)] = setting(
        0.0, "Alpha of the last step of a linear or cosine schedule."
    )
    alpha_warmup_steps: Annotated[int, Field(ge=0)] = setting(0, "Steps over which alpha rises to its value.")
    quality_floor: float | None = setting(None, "alpha='auto': mean task reward that must be kept, in reward units.")
    quality_floor_of: str | None = setting(
        None, "alpha='auto': metrics.jsonl of a baseline run whose quality must be kept, step by step."
    )
    quality_slack: Annotated[float, Field(ge=0)] = setting(
        0.02, "Quality that may be lost against quality_floor_of, in reward units."
    )
    quality_floor_ramp: Annotated[float, Field(ge=0, le=1)] = setting(
        0.5, "Share of the run over which quality_floor rises from the first batches' quality, slowly at first."
    )
    vendi_target: Annotated[float | None, Field(gt=1)] = setting(
        None, "alpha='auto': mean Vendi score of a group to hold, at most num_generations."
    )
    alpha_start: Annotated[float, Field(gt=0)] = setting(1.0, "alpha='auto': alpha of the first step.")
    alpha_min: Annotated[float, Field(gt=0)] = setting(0.01, "alpha='auto': smallest alpha.")
    alpha_max: Annotated[float, Field(gt=0)] = setting(10.0, "alpha='auto': largest alpha.")
    alpha_rate: Annotated[float, Field(gt=0)] = setting(
        0.5, "alpha='auto': e-folds of alpha per step, or per rollout of several steps, for one unit of error."
    )

    def alpha_source(self) -> AlphaSource:
        """Where the trainer takes alpha from; reads the baseline's log where there is one.

        Returns:
            a schedule or a controller.

        Raises:
            DQOError: a value out of range, settings that contradict each other, or a baseline that cannot be read.
        """
        self._check_alpha()
        if self.alpha != "auto":
            return ScheduledAlpha(
                AlphaSchedule(self.alpha, self.alpha_schedule, self.alpha_end, self.alpha_warmup_steps)
            )
        control = AlphaControl(AlphaBounds(self.alpha_start, self.alpha_min, self.alpha_max, self.alpha_rate))
        if self.vendi_target is not None:
            return TargetedAlpha(control, self.vendi_target)
        if self.quality_floor_of is not None:
            return FlooredAlpha(control, read_quality_curve(self.quality_floor_of), slack=self.quality_slack)
        return FlooredAlpha(control, self.quality_floor, ramp=self.quality_floor_ramp)

    @property
    def largest_alpha(self) -> float:
        """The largest alpha that the run can reach."""
        if self.alpha == "auto":
            return self.alpha_max
        return self.alpha if self.alpha_schedule == "constant" else max(self.alpha, self.alpha_end)

    @property
    def alpha_moves(self) -> bool:
        """Whether alpha can change during the run."""
        scheduled = self.alpha_schedule != "constant" and self.alpha_end != self.alpha
        return self.alpha == "auto" or scheduled or self.alpha_warmup_steps > 1

    def _check_alpha(self) -> None:
        """Refuse what is out of range, and every setting that would do nothing."""
        automatic = self.alpha == "auto"
        if not automatic and (isinstance(self.alpha, (bool, str)) or not 0 <= self.alpha < 1e9):
            raise DQOError(f"`alpha` must be a finite number >= 0 or 'auto', got {self.alpha!r}; change the value.")
        defaults = {spec.name: spec.default for spec in fields(AlphaArguments)}
        for name in _FIXED_ONLY if automatic else _AUTO_ONLY:
            if getattr(self, name) != defaults[name]:
                belongs = "a number as `alpha`" if automatic else "alpha='auto'"
                raise DQOError(
                    f"`{name}` belongs to {belongs}, got {name}={getattr(self, name)!r} with alpha={self.alpha!r}; "
                    "remove it or change `alpha`."
                )
        if not automatic:
            if self.alpha_schedule == "constant" and self.alpha_end != 0.0:
                raise DQOError(
                    f"`alpha_end` belongs to alpha_schedule='linear' or 'cosine', got {self.alpha_end!r} with "
                    "'constant'; remove it or choose one of these."
                )
            return
        goals = {name: getattr(self, name) for name in ("quality_floor", "quality_floor_of", "vendi_target")}
        given = [name for name, value in goals.items() if value is not None]
        if len(given) != 1:
            raise DQOError(
                f"alpha='auto' needs exactly one of {', '.join(goals)}, got {' and '.join(given) or 'none'}; say what "
                "quality must be kept or which diversity held."
            )
        if self.vendi_target is not None and self.vendi_target > self.num_generations:
            raise DQOError(
                f"`vendi_target` counts different responses of a group, got {self.vendi_target!r} with "
                f"num_generations={self.num_generations}; set it to that at most."
            )
        for name, goal in (("quality_slack", "quality_floor_of"), ("quality_floor_ramp", "quality_floor")):
            if getattr(self, name) != defaults[name] and goals[goal] is None:
                raise DQOError(
                    f"`{name}` belongs to `{goal}`, got {name}={getattr(self, name)!r} with {given[0]}; remove it."
                )


def read_quality_curve(path: str | Path) -> dict[int, float]:
    """Quality by step from a run's metrics.jsonl.

    Args:
        path: the file, or the run folder that holds it.

    Returns:
        step -> mean task reward of that step's batch.

    Raises:
        RecipeError: no such file, no UTF-8, a line that is no JSON object with a step, or no line with a quality.
    """
    file = Path(path) / "metrics.jsonl" if Path(path).is_dir() else Path(path)
    try:
        rows = read_steps(file)
    except DataError as error:
        raise RecipeError(
            f"quality_floor_of: expected the metrics.jsonl of a finished baseline run, but {str(error).rstrip('.')}; "
            "train the baseline first, with alpha=0."
        ) from error
    curve = {row["step"]: float(row["quality"]) for row in rows if is_number(row.get("quality"))}
    if not curve:
        raise RecipeError(f"{file}: expected lines with a `quality`, got none; name the metrics.jsonl of a run.")
    return curve


LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")  # the host's


@contextmanager
def _refusals_explained() -> Iterator[None]:
    """Turns what TRL raises about settings into a RecipeError; a failing launcher or device keeps its traceback."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, ImportError, NotImplementedError) as error:
        raise RecipeError(f"trainer: TRL refuses these settings: {first_words(error)}; change them.") from error
    except OSError as error:
        if error.filename is None:  # a connection; with a name it is a file that a setting gives
            raise
        raise RecipeError(f"trainer: TRL cannot read {error.filename!r}: {error.strerror}; correct it.") from error


@dataclass
class DiversityArguments(EncoderFields, AlphaArguments):
    """What DQO adds to a trainer's settings; `diversity_spec()` is the part the mathematics sees."""

    centres_groups: ClassVar[bool] = True  # whether advantages are rewards less a mean over their group

    skip_tied_groups: bool = setting(False, "No advantage in groups whose task rewards are all equal.")
    shared_prefix: bool = setting(
        True, "Compute the prompt of a group once instead of once per response, where the model allows it."
    )

    def diversity_spec(self) -> DiversitySpec:
        """The settings of the mathematics, checked; alpha is that of a run's first step where it changes.

        Returns:
            DiversitySpec made of the fields of the same names.

        Raises:
            DQOError: a setting out of range, or two that contradict each other.
        """
        settings = {name: getattr(self, name) for name in DiversitySpec.__dataclass_fields__}
        return DiversitySpec(**settings | {"alpha": self.alpha_start if self.alpha == "auto" else self.alpha})

    def _check_diversity(self) -> None:
        """Refuse, before anything is loaded, what would train on something else than was asked for."""
        if not isinstance(self.encoder, str):
            raise RecipeError(
                f"`encoder` must be a name or folder, got a {type(self.encoder).__name__}; give a function to the "
                "trainer, as embedder=."
            )
        check_fields(self)
        TraceMarkers.parse(self.trace_markers)
        self.alpha_source()
        self._check_range_of_alpha()
        spec = self.diversity_spec()
        replace(spec, alpha=self.largest_alpha)  # what alpha may become must be allowed too
        shapes_reward = self.largest_alpha > 0 and spec.signal.acts_on_reward
        if shapes_reward and spec.signal.place == "credit" and self.centres_groups and self.num_generations == 2:
            raise DQOError(
                "DQO needs num_generations of at least 3, got 2: the two credits of a group of two are equal and "
                "cancel in the group mean; sample more responses a prompt, or set alpha=0."
            )
        if shapes_reward and getattr(self, "multi_objective_aggregation", None) == "normalize_then_sum":
            raise DQOError(
                "DQO needs multi_objective_aggregation='sum_then_normalize', got 'normalize_then_sum', which blows the "
                "credit up to unit variance in every group so that alpha loses its meaning; remove the setting."
            )
        if shapes_reward and getattr(self, "reward_clip_range", None) is not None:
            raise DQOError(
                f"`reward_clip_range` clips the task reward and the credit in one sum, got {self.reward_clip_range!r}, "
                "so that responses at its end would earn no credit; remove it, and clip within the reward function."
            )
        if spec.pass_k is not None and spec.pass_k > self.num_generations:
            raise DQOError(
                f"`pass_k` must be at most num_generations={self.num_generations}, got {spec.pass_k}; lower it or "
                "sample more responses a prompt."
            )

    def _check_range_of_alpha(self) -> None:
        """A controller must have something to move, and may not move it where the signal means nothing."""
        signal = SIGNALS.get(self.diversity)  # an unknown name is refused where the others are listed
        if self.alpha != "auto" or signal is None:
            return
        if signal.place == "none":
            raise DQOError(
                f"alpha='auto' needs a signal to weigh, got diversity={self.diversity!r}; choose one or remove `alpha`."
            )
        if self.alpha_max > signal.highest_alpha:
            raise DQOError(
                f"alpha='auto' may reach alpha_max={self.alpha_max:g}, but diversity={self.diversity!r} takes at most "
                f"{signal.highest_alpha:g}; set alpha_max to that, and alpha_start within it."
            )

    def _choose_precision(self) -> None:
        """Mixed precision where it is faster, and the processor where there is no accelerator that will do.

        TRL turns bf16 on everywhere, and transformers then refuses a machine without accelerator unless `use_cpu` says
        that this is meant.
        """
        if not self.use_cpu and best_device().type == "cpu":
            self.use_cpu = True
            if torch.accelerator.is_available():
                found = torch.accelerator.current_accelerator()
                print(f"dqo: training on the processor, because {found} has no float64", file=sys.stderr)
        if self.bf16 is None and not self.fp16:
            self.bf16 = native_bf16(cpu=self.use_cpu)


@dataclass
class DQOConfig(DiversityArguments, GRPOConfig):
    """Settings of `DQOTrainer`: TRL's `GRPOConfig` and the diversity settings.

    Three defaults differ from TRL's. `scale_rewards="batch"` instead of "group": dividing by a group's own std makes
    alpha meaningless in groups whose task rewards tie. `logging_steps=1` instead of 10: collapse happens within ten
    steps. `bf16` stays off on a CPU that has no instructions for it.
    """

    scale_rewards: Literal[REWARD_SCALES] = setting(
        "batch", "Divide advantages by the std of the whole batch ('batch'), of each group, or not ('none')."
    )
    std_floor: Annotated[float, Field(ge=0)] = setting(
        0.0, "Least std that advantages are divided by, in reward units; guards tie groups."
    )
    decouple_credit: bool = setting(
        False, "Scale the task reward alone and add the credit after, so that no std touches it."
    )
    logging_steps: float = setting(1, "Log every so many optimizer steps.")

    def __post_init__(self) -> None:
        self._choose_precision()
        with _refusals_explained():
            super().__post_init__()
        self._check_diversity()
        self._check_scaling()
        if self.loss_type not in LOSS_TYPES:  # the host finds out after its first rollout
            raise DQOError(
                f"`loss_type` must be one of {', '.join(LOSS_TYPES)}, got {self.loss_type!r}; choose one of these."
            )

    def _check_scaling(self) -> None:
        """Guards that would do nothing, or whose entropy term the host adds a second time, are refused."""
        if self.multi_objective_aggregation != "sum_then_normalize" and (self.std_floor or self.decouple_credit):
            raise DQOError(
                "`std_floor` and `decouple_credit` scale the sum of the rewards, got multi_objective_aggregation="
                f"{self.multi_objective_aggregation!r}; remove them or use 'sum_then_normalize'."
            )
        if self.scale_rewards == "none" and (self.std_floor or self.decouple_credit):
            raise DQOError(
                "`std_floor` and `decouple_credit` guard against a std, got scale_rewards='none', which divides by "
                "none; remove them" + (" or set scale_rewards='group' or 'batch'." if self.centres_groups else ".")
            )
        if self.decouple_credit and not self.diversity_spec().signal.acts_on_reward:
            raise DQOError(
                "`decouple_credit` needs a signal that acts on the reward, got "
                f"diversity={self.diversity!r}; remove it."
            )
        if self.diversity_spec().signal.place == "loss" and (self.entropy_coef or self.use_adaptive_entropy):
            raise DQOError(
                f"diversity={self.diversity!r} adds an entropy term, and so do `entropy_coef` and "
                "`use_adaptive_entropy`; keep one of them."
            )


@dataclass
class DQORLOOConfig(DiversityArguments, RLOOConfig):
    """Settings of `DQORLOOTrainer`: TRL's `RLOOConfig` and the diversity settings.

    `num_generations=8` instead of 2, where the credit has no effect, `logging_steps=1` instead of 10, and `bf16` stays
    off on a CPU that has no instructions for it.
    """

    num_generations: int | None = setting(8, "Responses per prompt, at least 3.")
    logging_steps: float = setting(1, "Log every so many optimizer steps.")

    def __post_init__(self) -> None:
        self._choose_precision()
        with _refusals_explained():
            super().__post_init__()
        self._check_diversity()
        signal = self.diversity_spec().signal
        if "old_logps" in signal.needs:
            raise DQOError(
                f"diversity={self.diversity!r} weighs each token by its probability under the policy that sampled it, "
                "which RLOO does not keep; use algorithm grpo or diversity='entropy'."
            )
        if (signal.place == "advantage" or self.skip_tied_groups) and (self.beta or self.normalize_advantages):
            setter = "`skip_tied_groups`" if self.skip_tied_groups else f"diversity={self.diversity!r}"
            raise DQOError(
                f"{setter} sets the advantages, in which RLOO keeps its KL and normalisation, got beta={self.beta!r} "
                f"and normalize_advantages={self.normalize_advantages!r}; set beta=0 and leave the other off, or use "
                "grpo."
            )
