"""A compact panel in a terminal, or a line now and then elsewhere, in place of the host's bar and its dictionaries."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from dqo.integrations.trl.panel import Numbers

_SECONDS_A_LINE = 10.0  # at least, between two lines in a log file


class CompactProgress(TrainerCallback):
    """Step, quality, Vendi score, KL, tokens a second and time left.

    Args:
        console: Where to; stderr by default. A console that is no terminal gets plain lines, none more often than
            every 10 seconds, so that a log file stays readable.
        clock: Seconds, for tests.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(file=sys.stderr)
        self._clock = clock
        self._numbers: Numbers | None = None
        self._live: Live | None = None
        self._told: tuple[int, float] | None = None  # step and time of the last line

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the panel, on the main process alone."""
        if not state.is_world_process_zero:
            return
        self._numbers = Numbers(state.max_steps)
        self._stepped(state)
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(self._numbers.panel(), console=self._console, auto_refresh=False)
            self._live.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the step; the host logs its numbers after this."""
        if self._numbers is not None:
            self._stepped(state)
            self._show()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest values; the host's summary after the last step has none of them."""
        if self._numbers is None or not logs or "train_runtime" in logs:
            return
        self._numbers.log(self._clock(), logs)
        self._show()
        due = self._told is None or self._clock() - self._told[1] >= _SECONDS_A_LINE
        if self._live is None and (due or state.global_step >= state.max_steps):
            self._tell()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the last state on the screen."""
        self.close()

    def close(self) -> None:
        """Give the terminal back; a second call does nothing."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._numbers is not None and self._told is not None and self._told[0] != self._numbers.step:
            self._tell()
        self._numbers = None

    def _stepped(self, state: TrainerState) -> None:
        self._numbers.step = state.global_step
        self._numbers.pace.step(self._clock(), state.global_step)

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(self._numbers.panel(), refresh=True)

    def _tell(self) -> None:
        self._told = (self._numbers.step, self._clock())
        self._console.file.write(self._numbers.line() + "\n")
        self._console.file.flush()


@contextmanager
def compact_progress(trainer: Any) -> Iterator[None]:
    """Exchanges the host's progress callback while a trainer runs, and gives the terminal back whatever happens.

    The host's bars for writing a checkpoint go too: they would tear the panel. A trainer with disable_tqdm has no bar
    and keeps printing its logs.

    Args:
        trainer: Any trainer of the host.
    """
    progress = CompactProgress()
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(progress)
        disable_progress_bar()
    try:
        yield
    finally:
        progress.close()  # left open by an exception
