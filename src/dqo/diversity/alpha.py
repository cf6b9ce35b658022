"""The weight of diversity at each step: by a schedule, under a floor on quality, or towards a diversity target.

Maximising diversity D subject to quality Q >= floor has the Lagrangian D + mu (Q - floor), mu >= 0; divided by mu it is
quality plus alpha = 1/mu times diversity, what the trainer optimises. Exponentiated dual ascent on mu is a step of
log alpha by rate * (Q - floor): above the floor alpha grows, below it shrinks. The policy answers to alpha with a delay
of many steps, so the step alone swings; a term proportional to the error damps it (Stooke et al. 2020, arXiv
2007.03964, do so for constrained RL).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dqo.errors import DQOError

ALPHA_SCHEDULES = ("constant", "linear", "cosine")

# Steps over which measurements are averaged: one batch of a few prompts is noise.
_SMOOTHING = 5.0
# Steps of integration that the proportional term is worth.
_DAMPING = 12.0
# E-folds that one measurement can move alpha's memory by, whatever it reads.
_LARGEST_STEP = 0.5
# Batches whose mean is the first quality: one alone is noise that a whole ramp would start from.
_BEGINNING = 5


class AlphaSource:
    """What a trainer asks for alpha; `step` counts the optimizer steps done before, of `total_steps` in the run."""

    def now(self, step: int, total_steps: int) -> float:
        """Returns alpha for the next batch."""
        raise NotImplementedError

    def observe(self, quality: float, vendi: float, step: int, total_steps: int, noise: float = 0.0) -> None:
        """Learns from the batch that `now` was asked for.

        Args:
            quality: mean task reward; NaN where nothing could be scored.
            vendi: mean Vendi score of the groups.
            step: optimizer steps done before the batch.
            total_steps: optimizer steps of the run.
            noise: standard error of `quality`, in reward units.
        """

    def logs(self) -> dict[str, float]:
        """Returns numbers worth a line in the log, by name."""
        return {}

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep, as data that JSON keeps exactly."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken."""


@dataclass(frozen=True)
class AlphaSchedule(AlphaSource):
    """Alpha as a function of the step.

    Attributes:
        alpha: the weight after the warm-up, >= 0.
        kind: one of ALPHA_SCHEDULES.
        end: the weight at the last step, for "linear" and "cosine".
        warmup_steps: optimizer steps over which alpha rises in a line from alpha/warmup_steps to alpha.
    """

    alpha: float
    kind: str = "constant"
    end: float = 0.0
    warmup_steps: int = 0

    def now(self, step: int, total_steps: int) -> float:
        """Returns the weight of a step; `end` at the last step of a "linear" or "cosine" run."""
        if step < self.warmup_steps:
            return self.alpha * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.alpha
        progress = (step - self.warmup_steps) / max(1, total_steps - 1 - self.warmup_steps)
        progress = min(1.0, progress)
        moved = progress if self.kind == "linear" else 0.5 * (1.0 - math.cos(math.pi * progress))
        return self.alpha + (self.end - self.alpha) * moved


class AlphaControl:
    """Proportional-integral control of log alpha by the sign and size of an error.

    The memory is log alpha itself and is held inside the bounds, so that it does not wind up: alpha leaves a bound as
    soon as the smoothed error changes its sign.

    Args:
        start: alpha of the first step, within the bounds.
        low: smallest alpha, > 0.
        high: largest alpha.
        rate: e-folds of alpha per step for one unit of error, > 0. The unit is a reward unit for a quality floor and an
            e-fold of the Vendi score for a target.
    """

    def __init__(self, start: float = 1.0, low: float = 0.01, high: float = 10.0, rate: float = 0.5) -> None:
        if not 0 < low <= start <= high < math.inf:
            raise DQOError(
                f"alpha='auto' needs 0 < alpha_min <= alpha_start <= alpha_max, got {low!r}, {start!r} and {high!r}; "
                "change the one that is out of order."
            )
        self.start, self.low, self.high, self.rate = start, low, high, rate
        # Error, room and variance are smoothed; a new one has weight 1/min(seen, _SMOOTHING).
        self._state = {"memory": math.log(start), "error": 0.0, "room": 0.0, "variance": 0.0, "seen": 0}

    @property
    def alpha(self) -> float:
        """The weight to train the next batch with."""
        if self._state["seen"] == 0:
            return self.start
        proportional = _clip(self.rate * _DAMPING * self.error, 2.0 * _LARGEST_STEP)
        alpha = math.exp(self._inside(self._state["memory"] + proportional))
        # The logarithm and back can be a last bit outside.
        return min(max(alpha, self.low), self.high)

    @property
    def error(self) -> float:
        """How far the smoothed error lies outside its band of rest; positive where there is room for more diversity.

        Above 0 the band is the room. Below it is one standard error of a batch, at most the room, so that it closes
        from both sides alike.
        """
        # Rest is decided after smoothing: the noise of a batch would often cross one edge and never the other.
        below = min(math.sqrt(self._state["variance"]), self._state["room"])
        return self._state["error"] - min(max(self._state["error"], -below), self._state["room"])

    def observe(self, error: float, room: float = 0.0, noise: float = 0.0) -> None:
        """Takes the error of one batch.

        Args:
            error: above 0 to raise alpha, below 0 to lower it; NaN (nothing could be scored) is passed over.
            room: how far above 0 an error leaves alpha alone, >= 0.
            noise: standard error of this error, >= 0 and in its unit.
        """
        if not math.isfinite(error):
            return
        self._state["seen"] += 1
        weight = 1.0 / min(self._state["seen"], _SMOOTHING)
        for name, new in (("error", error), ("room", room), ("variance", noise**2)):
            self._state[name] += (new - self._state[name]) * weight
        step = _clip(self.rate * self.error, _LARGEST_STEP)
        self._state["memory"] = self._inside(self._state["memory"] + step)

    def state(self) -> dict[str, float]:
        """Returns everything it remembers, as numbers that JSON keeps exactly."""
        return dict(self._state)

    def load(self, state: dict[str, float]) -> None:
        """Continues where `state` was taken."""
        self._state = {name: state[name] for name in self._state}

    def _inside(self, log_alpha: float) -> float:
        return min(max(log_alpha, math.log(self.low)), math.log(self.high))


def ramped_floor(floor: float, first: float, progress: float, ramp: float) -> float:
    """Computes the floor that holds early in a run that starts below it.

    Without the ramp alpha would sit at its lower bound until the floor is reached, and by then a policy has collapsed.

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
    # With the square of time, because quality does little in the first steps: a straight line would be above it.
    return first + (floor - first) * (progress / ramp) ** 2


def _clip(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


class StepwiseAlpha(AlphaSource):
    """One alpha and one observation per optimizer step, however many batches of responses are sampled for it.

    Controllers count in steps. Each further batch of a step takes back what the batches before it taught and teaches
    their mean in its place.

    Args:
        source: what it stands in for.
    """

    def __init__(self, source: AlphaSource) -> None:
        self.source = source
        self.logs, self.state = source.logs, source.state
        self._step: int | None = None

    def _begin(self, step: int, total_steps: int) -> None:
        if step != self._step:
            self._step, self._alpha = step, self.source.now(step, total_steps)
            self._before, self._seen = self.source.state(), []

    def now(self, step: int, total_steps: int) -> float:
        """Returns the same for all batches of a step."""
        self._begin(step, total_steps)
        return self._alpha

    def observe(self, quality: float, vendi: float, step: int, total_steps: int, noise: float = 0.0) -> None:
        """Learns the means over the step's batches so far, NaN left out."""
        self._begin(step, total_steps)
        self._seen.append((quality, vendi, noise**2 if math.isfinite(quality) else math.nan))
        self.source.load(self._before)
        quality, vendi, variance = map(_mean, zip(*self._seen, strict=True))
        scored = max(1, sum(math.isfinite(one) for one, _, _ in self._seen))
        self.source.observe(quality, vendi, step, total_steps, math.sqrt(variance / scored))

    def load(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken, which is the end of a step."""
        self.source.load(state)
        self._step = None


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


class TargetedAlpha(AlphaSource):
    """As much alpha as holds the groups' mean Vendi score at a target.

    Args:
        control: moves alpha.
        target: Vendi score to hold, above 1: effective number of different responses per group.
    """

    def __init__(self, control: AlphaControl, target: float) -> None:
        self._control, self._target = control, target

    def now(self, step: int, total_steps: int) -> float:
        """Returns what the controller holds."""
        return self._control.alpha

    def observe(self, quality: float, vendi: float, step: int, total_steps: int, noise: float = 0.0) -> None:
        """Learns how many e-folds of the Vendi score are missing."""
        self._control.observe(math.log(self._target / vendi) if vendi > 0 else math.nan)

    def logs(self) -> dict[str, float]:
        """Returns the smoothed error that alpha answers to."""
        return {"alpha/error": self._control.error}

    def state(self) -> dict[str, Any]:
        """Returns the controller's state."""
        return {"control": self._control.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken."""
        self._control.load(state["control"])


class FlooredAlpha(TargetedAlpha):
    """As much diversity as quality stays above a floor for.

    Args:
        control: moves alpha.
        floor: quality that must be kept, in reward units; or quality of a baseline run by step, of which the newest
            step not after the present one counts.
        slack: what may be lost against a baseline, in reward units; taken off its quality.
        ramp: share of the run over which a fixed floor rises from the first batches' quality.
    """

    def __init__(
        self, control: AlphaControl, floor: float | Mapping[int, float], slack: float = 0.0, ramp: float = 0.0
    ) -> None:
        self._control, self._floor, self._slack, self._ramp = control, floor, slack, ramp
        # Mean quality of the first batches, their number, and the floor of the last batch.
        self._first, self._begun, self._held = 0.0, 0, math.nan

    def observe(self, quality: float, vendi: float, step: int, total_steps: int, noise: float = 0.0) -> None:
        """Learns quality minus the floor that holds at this step."""
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
        # Between a floor still rising and the whole floor is room for quality, not for diversity: an alpha that grew
        # there had to come down again when the whole floor held.
        self._control.observe(quality - self._held, floor - self._held, noise)

    def logs(self) -> dict[str, float]:
        """Returns the floor that held, and the smoothed error."""
        return {"alpha/floor": self._held, **super().logs()}

    def state(self) -> dict[str, Any]:
        """Returns the controller's state and the first quality."""
        return {**super().state(), "first": self._first, "begun": self._begun}

    def load(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken."""
        super().load(state)
        self._first, self._begun = state["first"], state["begun"]
