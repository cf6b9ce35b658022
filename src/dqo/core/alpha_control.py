"""Alpha found while training: as much diversity as a floor on quality allows, or as much as a target asks for.

Maximising diversity D subject to quality Q >= floor has the Lagrangian D + mu (Q - floor), mu >= 0; divided by mu it is
quality plus alpha = 1/mu times diversity, what the trainer optimises. Exponentiated dual ascent on mu is a step of
log alpha by rate * (Q - floor): above the floor alpha grows, below it shrinks. The policy answers to alpha with a delay
of many steps, so the step alone swings; a term proportional to the error damps it (Stooke et al. 2020, arXiv
2007.03964, do so for constrained RL).
"""

import math
from dataclasses import dataclass

from dqo.errors import DQOError

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
