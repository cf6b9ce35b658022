"""Alpha as a function of the step: constant, or moving to an end value along a line or a cosine, after a warm-up."""

import math
from dataclasses import dataclass

from dqo.errors import DQOError

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
