"""Says when diversity has outweighed quality: responses grow different and worthless, and more steps do not mend it."""

import sys
from collections import deque
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_WINDOW = 5  # logged steps that are averaged
_SHARE = 0.5  # of the best quality so far, below which it is told


class OutweighedWarning(TrainerCallback):
    """Warns once a run where quality has halved while its responses were paid for being different.

    Failing responses are the most different ones, so a group in which nearly all fail teaches little else than
    difference, and a run seldom finds its way back from there.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._best = 0.0
        self._told = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Looks at the quality just logged."""
        quality, alpha = (logs or {}).get("quality"), (logs or {}).get("alpha")
        if self._told or quality is None or not alpha or not state.is_world_process_zero:
            return
        self._recent.append(quality)
        if len(self._recent) < _WINDOW:
            return
        now = sum(self._recent) / _WINDOW
        self._best = max(self._best, now)
        if self._best > 0 and now < _SHARE * self._best:
            self._told = True
            print(
                f"dqo: step {state.global_step}: quality is {now:.2g} on average of the last {_WINDOW} logged steps "
                f"and was {self._best:.2g}, with alpha {alpha:.3g}: being different may have become worth more than "
                "being good; if it does not rise again, lower alpha, or let it rise later with alpha_warmup_steps.",
                file=sys.stderr,
            )
