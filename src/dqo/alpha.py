"""Where the weight of diversity comes from at each step: a schedule, a floor under quality, or a diversity target.

All three answer `now` before a batch, learn from it in `observe`, and give and take a `state` that JSON keeps exactly.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from dqo.core.alpha_control import AlphaControl, ramped_floor
from dqo.core.alpha_schedule import AlphaSchedule

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
