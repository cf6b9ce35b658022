"""Where the weight of diversity comes from at each step: a schedule, a floor under quality, or a diversity target.

All three answer `now` before a batch, learn from it in `observe`, and give and take a `state` that JSON keeps exactly.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dqo.errors import DQOError

# Alpha as a function of the step: constant, or moving to an end value along a line or a cosine, after a warm-up.

ALPHA_SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class AlphaSchedule:
    """Weight of diversity at every step of a run; checked when made.

    Attributes:
        alpha: the weight after the warm-up, >= 0.
        kind: "constant", "linear" or "cosine".
        end: the weight at the last step, for "linear" and "cosine".
        warmup_steps: optimizer steps over which alpha rises in a line from alpha/warmup_steps to alpha.
    """

    alpha: float
    kind: str = "constant"
    end: float = 0.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ALPHA_SCHEDULES:
            raise DQOError(
                f"`alpha_schedule` must be one of {', '.join(ALPHA_SCHEDULES)}, got {self.kind!r}; choose one of these."
            )
        if self.warmup_steps < 0:
            raise DQOError(f"`alpha_warmup_steps` must be >= 0, got {self.warmup_steps}; 0 starts at alpha at once.")
        if not 0 <= self.end < 1e9:
            raise DQOError(f"`alpha_end` must be a finite number >= 0, got {self.end!r}; 0 ends on quality alone.")

    def at(self, step: int, total_steps: int) -> float:
        """Alpha at a step.

        Args:
            step: optimizer steps done before it, from 0.
            total_steps: optimizer steps of the run.

        Returns:
            the weight; `end` at the last step of a "linear" or "cosine" run.
        """
        if step < self.warmup_steps:
            return self.alpha * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.alpha
        progress = (step - self.warmup_steps) / max(1, total_steps - 1 - self.warmup_steps)
        progress = min(1.0, progress)
        moved = progress if self.kind == "linear" else 0.5 * (1.0 - math.cos(math.pi * progress))
        return self.alpha + (self.end - self.alpha) * moved


# Alpha found while training: as much diversity as a floor on quality allows, or as much as a target asks for.
#
# Maximising diversity D subject to quality Q >= floor has the Lagrangian D + mu (Q - floor), mu >= 0; divided by mu it
# is
# quality plus alpha = 1/mu times diversity, what the trainer optimises. Exponentiated dual ascent on mu is a step of
# log alpha by rate * (Q - floor): above the floor alpha grows, below it shrinks. The policy answers to alpha with a
# delay
# of many steps, so the step alone swings; a term proportional to the error damps it (Stooke et al. 2020, arXiv
# 2007.03964, do so for constrained RL).

_SMOOTHING = 5.0  # steps over which measurements are averaged: one batch of a few prompts is noise
_DAMPING = 12.0  # steps of integration that the proportional term is worth
_LARGEST_STEP = 0.5  # e-folds that one measurement can move alpha's memory by, whatever it reads


@dataclass(frozen=True)
class AlphaBounds:
    """Where a controlled alpha starts, what it may reach, and how fast it moves; checked when made.

    Attributes:
        start: alpha of the first step, within the bounds.
        low: smallest alpha, > 0.
        high: largest alpha.
        rate: e-folds of alpha a step for one unit of error, > 0. The unit is a reward unit for a quality floor and an
            e-fold of the Vendi score for a target.
    """

    start: float = 1.0
    low: float = 0.01
    high: float = 10.0
    rate: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.start <= self.high < math.inf:
            raise DQOError(
                "alpha='auto' needs 0 < alpha_min <= alpha_start <= alpha_max, got "
                f"{self.low!r}, {self.start!r} and {self.high!r}; change the one that is out of order."
            )
        if not 0 < self.rate < math.inf:
            raise DQOError(
                f"`alpha_rate` must be a finite number above 0, got {self.rate!r}; 0.5 suits rewards in [0, 1]."
            )


class AlphaControl:
    """Proportional-integral control of log alpha by the sign and size of an error.

    No wind-up: the memory is log alpha itself and is held inside the bounds, so after any time at a bound alpha leaves
    it as soon as the smoothed error changes its sign, a few steps after the errors do.

    Args:
        bounds: start, limits and rate.
    """

    def __init__(self, bounds: AlphaBounds) -> None:
        self.bounds = bounds
        self._memory = math.log(bounds.start)
        self._error = self._room = self._variance = 0.0  # smoothed; each new one has weight 1/min(seen, _SMOOTHING)
        self._seen = 0

    @property
    def alpha(self) -> float:
        """The weight to train the next batch with."""
        if self._seen == 0:
            return self.bounds.start
        proportional = _clip(self.bounds.rate * _DAMPING * self.error, 2.0 * _LARGEST_STEP)
        alpha = math.exp(self._inside(self._memory + proportional))
        return min(max(alpha, self.bounds.low), self.bounds.high)  # the logarithm and back can be a last bit outside

    @property
    def error(self) -> float:
        """How far the smoothed error lies outside its band of rest; positive where there is room for more diversity.

        Rest is decided after smoothing and not for each batch: a batch's noise would often reach over one edge of the
        band and never over the other, and alpha would drift. Above 0 the band is the room. Below it is one standard
        error of a batch, at most the room, so that it closes from both sides alike.
        """
        below = min(math.sqrt(self._variance), self._room)
        return self._error - min(max(self._error, -below), self._room)

    def observe(self, error: float, room: float = 0.0, noise: float = 0.0) -> None:
        """Take the error of one batch.

        Args:
            error: above 0 to raise alpha, below 0 to lower it; NaN (nothing could be scored) is passed over.
            room: how far above 0 an error leaves alpha alone, >= 0.
            noise: standard error of this error, >= 0 and in its unit.
        """
        if not math.isfinite(error):
            return
        self._seen += 1
        weight = 1.0 / min(self._seen, _SMOOTHING)
        self._error += (error - self._error) * weight
        self._room += (room - self._room) * weight
        self._variance += (noise**2 - self._variance) * weight
        self._memory = self._inside(self._memory + _clip(self.bounds.rate * self.error, _LARGEST_STEP))

    def state(self) -> dict[str, float]:
        """Everything it remembers, as numbers that JSON keeps exactly."""
        return {
            "memory": self._memory,
            "error": self._error,
            "room": self._room,
            "variance": self._variance,
            "seen": self._seen,
        }

    def load(self, state: dict[str, float]) -> None:
        """Continue where `state` was taken.

        Args:
            state: what `state()` returned.
        """
        self._memory, self._error, self._seen = float(state["memory"]), float(state["error"]), int(state["seen"])
        self._room, self._variance = float(state["room"]), float(state["variance"])

    def _inside(self, log_alpha: float) -> float:
        return min(max(log_alpha, math.log(self.bounds.low)), math.log(self.bounds.high))


def ramped_floor(floor: float, first: float, progress: float, ramp: float) -> float:
    """The floor early in a run that starts below it: it rises from the first quality to the floor, slowly at first.

    Without it alpha would sit at its lower bound until the floor is reached, and by then a policy has collapsed. It
    goes with the square of time because quality does little in the first steps: a straight line is above it there, and
    lowered alpha for what was only a policy that had not learnt yet.

    Args:
        floor: quality that must be kept at the end, in reward units.
        first: quality of the first batches.
        progress: share of the run that is done, in [0, 1].
        ramp: share of the run after which the whole floor holds, in [0, 1]; 0 from the start.

    Returns:
        the floor that holds now, in reward units; never above `floor`.
    """
    if first >= floor or progress >= ramp:
        return floor
    return first + (floor - first) * (progress / ramp) ** 2


def _clip(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


_BEGINNING = 5  # batches whose mean is the first quality: one alone is noise that a whole ramp would start from


class AlphaSource(Protocol):
    """What a trainer asks for alpha; `step` counts the optimizer steps done before, of `total_steps` in the run."""

    def now(self, step: int, total_steps: int) -> float:
        """Alpha for the next batch."""
        ...

    def observe(self, quality: float, vendi: float, step: int, total_steps: int, noise: float = 0.0) -> None:
        """Learn from the batch that `now` was asked for: mean quality, mean Vendi score, quality's standard error."""
        ...

    def logs(self) -> dict[str, float]:
        """Numbers worth a line in the log, by name."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        ...


class StepwiseAlpha:
    """One alpha and one observation an optimizer step, however many batches of responses are sampled for it.

    Controllers count in steps. Each further batch of a step takes back what the batches before it taught and teaches
    their mean in its place.

    Args:
        source: what it stands in for.
    """

    def __init__(self, source: AlphaSource) -> None:
        self.source = source
        self._step: int | None = None

    def _begin(self, step: int, total_steps: int) -> None:
        if step != self._step:
            self._step, self._alpha = step, self.source.now(step, total_steps)
            self._before, self._seen = self.source.state(), []

    def now(self, step: int, total_steps: int) -> float:
        """The same for all batches of a step."""
        self._begin(step, total_steps)
        return self._alpha

    def observe(self, quality: float, vendi: float, step: int, total_steps: int, noise: float = 0.0) -> None:
        """Learn the means over the step's batches so far; a NaN has no part in them."""
        self._begin(step, total_steps)
        self._seen.append((quality, vendi, noise**2 if math.isfinite(quality) else math.nan))
        self.source.load(self._before)
        quality, vendi, variance = map(_mean, zip(*self._seen, strict=True))
        scored = max(1, sum(math.isfinite(one) for one, _, _ in self._seen))
        self.source.observe(quality, vendi, step, total_steps, math.sqrt(variance / scored))

    def logs(self) -> dict[str, float]:
        """Those of the source."""
        return self.source.logs()

    def state(self) -> dict[str, Any]:
        """That of the source."""
        return self.source.state()

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, which is the end of a step."""
        self.source.load(state)
        self._step = None


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


class ScheduledAlpha:
    """Alpha by a schedule; it learns nothing and remembers nothing.

    Args:
        schedule: alpha of every step.
    """

    def __init__(self, schedule: AlphaSchedule) -> None:
        self.schedule = schedule

    def now(self, step: int, total_steps: int) -> float:
        """The schedule's value."""
        return self.schedule.at(step, total_steps)

    def observe(self, quality: float, vendi: float, step: int, total_steps: int, noise: float = 0.0) -> None:
        """Nothing to learn."""

    def logs(self) -> dict[str, float]:
        """Nothing beyond alpha itself."""
        return {}

    def state(self) -> dict[str, Any]:
        """Nothing to keep: the step says it all."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""


class FlooredAlpha:
    """As much diversity as quality stays above a floor for.

    Args:
        control: moves alpha.
        floor: quality that must be kept, in reward units; or quality of a baseline run by step, the newest step not
            after the present one counts.
        slack: what may be lost against a baseline, in reward units; taken off its quality.
        ramp: share of the run over which a fixed floor rises from the first batches' quality.
    """

    def __init__(
        self, control: AlphaControl, floor: float | Mapping[int, float], slack: float = 0.0, ramp: float = 0.0
    ) -> None:
        self._control, self._floor, self._slack, self._ramp = control, floor, slack, ramp
        self._first, self._begun = 0.0, 0  # mean quality of the first batches, and their number
        self._held = math.nan  # the floor of the last batch, for the log

    def now(self, step: int, total_steps: int) -> float:
        """What the controller holds."""
        return self._control.alpha

    def observe(self, quality: float, vendi: float, step: int, total_steps: int, noise: float = 0.0) -> None:
        """The error is quality minus the floor that holds at this step.

        Between a floor still rising and the whole floor is room for quality, not for diversity: an alpha that grew
        there had to come down again when the whole floor held.
        """
        if self._begun < _BEGINNING and math.isfinite(quality):
            self._begun += 1
            self._first += (quality - self._first) / self._begun
        if isinstance(self._floor, Mapping):
            # A log line of step s is about the batch that led to it, sampled after s - 1 steps.
            known = [s for s in self._floor if s <= step + 1] or [min(self._floor)]
            self._held = floor = self._floor[max(known)] - self._slack
        else:
            floor = self._floor
            first = self._first if self._begun else floor
            self._held = ramped_floor(floor, first, step / max(1, total_steps), self._ramp)
        self._control.observe(quality - self._held, floor - self._held, noise)

    def logs(self) -> dict[str, float]:
        """The floor that held, and the smoothed error that alpha answers to."""
        return {"alpha/floor": self._held, "alpha/error": self._control.error}

    def state(self) -> dict[str, Any]:
        """The controller's state and the first quality."""
        return {"control": self._control.state(), "first": self._first, "begun": self._begun}

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self._control.load(state["control"])
        self._first, self._begun = state["first"], state["begun"]


class TargetedAlpha:
    """As much alpha as holds the groups' mean Vendi score at a target.

    Args:
        control: moves alpha.
        target: Vendi score to hold, above 1: effective number of different responses a group.
    """

    def __init__(self, control: AlphaControl, target: float) -> None:
        self._control, self._target = control, target

    def now(self, step: int, total_steps: int) -> float:
        """What the controller holds."""
        return self._control.alpha

    def observe(self, quality: float, vendi: float, step: int, total_steps: int, noise: float = 0.0) -> None:
        """The error is how many e-folds of the Vendi score are missing."""
        self._control.observe(math.log(self._target / vendi) if vendi > 0 else math.nan)

    def logs(self) -> dict[str, float]:
        """The smoothed error."""
        return {"alpha/error": self._control.error}

    def state(self) -> dict[str, Any]:
        """The controller's state."""
        return {"control": self._control.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self._control.load(state["control"])
