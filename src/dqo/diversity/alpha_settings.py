"""Settings of alpha: a number with a schedule, or "auto" under a floor on quality or towards a diversity target."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dqo.diversity.alpha import ALPHA_SCHEDULES, AlphaControl, AlphaSchedule, AlphaSource, FlooredAlpha, TargetedAlpha
from dqo.diversity.settings import DiversityFields, DiversitySpec
from dqo.errors import DataError, refuse
from dqo.files.jsonio import is_number
from dqo.files.run import read_steps
from dqo.settings.checking import setting

_GOALS = ("quality_floor", "quality_floor_of", "vendi_target")
_AUTO_ONLY = (*_GOALS, "quality_slack", "quality_floor_ramp", "alpha_start", "alpha_min", "alpha_max", "alpha_rate")
_FIXED_ONLY = ("alpha_schedule", "alpha_end", "alpha_warmup_steps")


@dataclass
class AlphaArguments(DiversityFields):
    """What alpha is at each step."""

    alpha: Annotated[float, Field(ge=0, lt=1e9)] | Literal["auto"] = setting(
        1.0, "Weight of diversity against the task reward, at least 0; 'auto' finds it."
    )
    alpha_schedule: Literal[ALPHA_SCHEDULES] = setting(
        "constant", "'constant', or 'linear' or 'cosine' from alpha to alpha_end at the last step."
    )
    alpha_end: Annotated[float, Field(ge=0, lt=1e9)] = setting(
        0.0, "Alpha of the last step of a linear or cosine schedule."
    )
    alpha_warmup_steps: Annotated[int, Field(ge=0)] = setting(0, "Steps over which alpha rises to its value.")
    quality_floor: float | None = setting(None, "alpha='auto': mean task reward that must be kept, in reward units.")
    quality_floor_of: str | None = setting(
        None,
        "alpha='auto': metrics.jsonl of a run of the same task with alpha=0, whose quality must be kept step by step.",
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

    def diversity_spec(self) -> DiversitySpec:
        """Makes the settings of the mathematics of the fields of the same names, with alpha of the first step."""
        settings = {name: getattr(self, name) for name in DiversitySpec.__dataclass_fields__}
        return DiversitySpec(**settings | {"alpha": self.alpha_start if self.alpha == "auto" else self.alpha})

    def check_alpha(self) -> None:
        """Refuses alphas that contradict each other, cannot be read, or will be out of range at some step."""
        refuse(self._contradictions())
        self.alpha_source()
        replace(self.diversity_spec(), alpha=self.largest_alpha)

    def alpha_source(self) -> AlphaSource:
        """Makes the schedule or controller of alpha; reads the baseline's log where there is one."""
        if self.alpha != "auto":
            return AlphaSchedule(self.alpha, self.alpha_schedule, self.alpha_end, self.alpha_warmup_steps)
        control = AlphaControl(self.alpha_start, self.alpha_min, self.alpha_max, self.alpha_rate)
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

    def _contradictions(self) -> Iterator[tuple[bool, str]]:
        """Lists settings that would do nothing: whether these hold them, and what to say of it."""
        automatic = self.alpha == "auto"
        belongs = "a number as `alpha`" if automatic else "alpha='auto'"
        for one in fields(AlphaArguments):
            value = getattr(self, one.name)
            yield (
                one.name in (_FIXED_ONLY if automatic else _AUTO_ONLY) and value != one.default,
                f"`{one.name}` belongs to {belongs}, got {one.name}={value!r} with alpha={self.alpha!r}; remove it or "
                "change `alpha`.",
            )
        yield (
            self.alpha_schedule == "constant" and self.alpha_end != 0.0,
            f"`alpha_end` belongs to alpha_schedule='linear' or 'cosine', got {self.alpha_end!r} with 'constant'; "
            "remove it or choose one of these.",
        )
        given = [name for name in _GOALS if getattr(self, name) is not None]
        yield (
            automatic and len(given) != 1,
            f"alpha='auto' needs exactly one of {', '.join(_GOALS)}, got {' and '.join(given) or 'none'}; say what "
            "quality must be kept or which diversity held.",
        )


def read_quality_curve(path: str | Path) -> dict[int, float]:
    """Reads step -> mean task reward of its batch from a metrics.jsonl, or from that of a run folder."""
    file = Path(path) / "metrics.jsonl" if Path(path).is_dir() else Path(path)
    curve = {row["step"]: float(row["quality"]) for row in read_steps(file) if is_number(row.get("quality"))}
    if not curve:
        raise DataError(f"{file}: expected lines with a `quality`, got none; name the metrics.jsonl of a run.")
    return curve
