"""The numbers of a running training worth watching, as a small panel for a terminal or as a line for a log file."""

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
