"""A compact panel in a terminal, or a line now and then elsewhere, in place of the host's bar and its dictionaries."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.logging import disable_progress_bar

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


# The numbers of a running training worth watching, as a small panel for a terminal or as a line for a log file.

if TYPE_CHECKING:
    from rich.panel import Panel

# Name in the host's log -> name in the panel; those with a curve come first.
SHOWN = {
    "quality": "quality",
    "diversity/vendi": "Vendi",
    "kl": "KL",
    "alpha": "alpha",
    "completions/mean_length": "tokens a response",
}
CURVES = ("quality", "diversity/vendi")
_BARS = "▁▂▃▄▅▆▇█"
_WINDOW = 20  # steps that the pace is averaged over
_CURVE = 32  # characters of a curve


class Pace:
    """How fast a training goes, over its last 20 steps."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque(maxlen=_WINDOW + 1)
        self._tokens: deque[tuple[float, float]] = deque(maxlen=_WINDOW + 1)

    def step(self, now: float, step: int) -> None:
        """A step is done, at a time in seconds of any clock."""
        self._steps.append((now, step))

    def tokens(self, now: float, total: float) -> None:
        """The tokens processed since the start of the run, of a kill and resumption before too."""
        self._tokens.append((now, total))

    def seconds_left(self, last_step: int) -> float | None:
        """Seconds until the last step; None until two steps are known."""
        rate = _rate(self._steps)
        return (last_step - self._steps[-1][1]) / rate if rate else None

    def tokens_per_second(self) -> float | None:
        """Of the whole step: rollout, rewards and update; None until two counts are known."""
        return _rate(self._tokens)


class Numbers:
    """What is shown: the newest value of each number, its course, and the pace.

    Args:
        last_step: Step at which training ends.
    """

    def __init__(self, last_step: int) -> None:
        self.step = 0
        self.last_step = last_step
        self.pace = Pace()
        self.values: dict[str, float] = {}
        self._courses: dict[str, deque[float]] = {name: deque(maxlen=_CURVE) for name in CURVES}

    def log(self, now: float, logs: Mapping[str, Any]) -> None:
        """Take what the host has logged."""
        for name in SHOWN:
            if isinstance(logs.get(name), int | float):
                self.values[name] = float(logs[name])
                if name in self._courses:
                    self._courses[name].append(self.values[name])
        if isinstance(logs.get("num_tokens"), int | float):
            self.pace.tokens(now, logs["num_tokens"])

    def line(self) -> str:
        """One line for a log file, such as "step 12/28  quality 0.71  Vendi 4.2  1,230 tokens/s  18 min left"."""
        shown = [f"{label} {short(self.values[name])}" for name, label in SHOWN.items() if name in self.values]
        return "  ".join([f"step {self.step:,}/{self.last_step:,}", *shown, *self._pace()])

    def panel(self) -> "Panel":
        """Four lines for a terminal: progress with time left, quality and Vendi with their course, the rest."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        top = Table.grid(expand=True, padding=(0, 2, 0, 0))
        top.add_column(no_wrap=True)
        top.add_column(ratio=1)
        top.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(self.last_step, self.step, complete_style="cyan", finished_style="green")
        top.add_row(f"step {self.step:,}/{self.last_step:,}", bar, "  ".join(self._pace()) or "timing …")
        rows = Table.grid(padding=(0, 2, 0, 0))
        for name in CURVES:
            if name in self.values:
                value = Text(short(self.values[name]), style="bold")
                rows.add_row(SHOWN[name], value, Text(sparkline(list(self._courses[name])), style="cyan"))
        others = [
            f"{label} {short(self.values[n])}" for n, label in SHOWN.items() if n in self.values and n not in CURVES
        ]
        return Panel(Group(top, rows, Text("   ".join(others), style="dim")), title="dqo train", title_align="left",
                     border_style="dim", padding=(0, 1))  # fmt: skip

    def _pace(self) -> list[str]:
        speed, left = self.pace.tokens_per_second(), self.pace.seconds_left(self.last_step)
        return ([f"{speed:,.0f} tokens/s"] if speed else []) + ([f"{duration(left)} left"] if left else [])


def sparkline(values: list[float]) -> str:
    """A course as one character a value, lowest ▁ to highest █; level values are all ▁."""
    low, high = min(values), max(values)
    span = high - low or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in values)


def short(value: float) -> str:
    """Three significant digits, large numbers whole."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Such as "40 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _rate(points: deque[tuple[float, float]]) -> float | None:
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return None
    rate = (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])
    return rate if rate > 0 else None
