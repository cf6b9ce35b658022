"""What a run reports: one JSON line per step, however often it was killed and resumed, and progress while it runs."""

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from transformers import ProgressCallback, TrainerCallback, TrainerState
from transformers.utils.logging import disable_progress_bar

from dqo.core import tied_groups
from dqo.diversity.credit import GroupCredit
from dqo.diversity.tricks import language_mixing, low_quality_credit, post_answer_share, repetition
from dqo.evaluation.definitions import PANEL, explain
from dqo.files.records import append_jsonl, write_text
from dqo.models.chat import Response

_TOKENS = "num_tokens"  # that TRL has counted so far
_SECONDS_PER_LINE = 10.0  # at least, in a log file
_LINE = re.compile(r'\{"step": (\d+).*\}')  # half a line, which a kill can leave, has no end
_ALWAYS = ("quality", "diversity/credit", "diversity/vendi", "alpha", "kl")


class RunLog(TrainerCallback):
    """Appends what TRL logs to metrics.jsonl, on the main process alone.

    A line holds `step`, the promised names (null where TRL has no value: `kl` without a reference model) and every
    other number of TRL; NaN and infinity become null. A resume drops the lines beyond the resumed step.

    Args:
        path: of the file metrics.jsonl.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Drop what an earlier, killed process logged beyond the step that is resumed."""
        if state.is_world_process_zero and self.path.exists():
            found = [_LINE.fullmatch(line) for line in self.path.read_text(encoding="utf-8").split("\n")]
            kept = [line[0] for line in found if line and int(line[1]) <= state.global_step]
            write_text(self.path, "".join(line + "\n" for line in kept))

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        """Append one line; TRL's summary after the last step is left out."""
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            numbers = {name: _number(value) for name, value in logs.items() if not isinstance(value, str)}
            append_jsonl(self.path, {"step": state.global_step} | dict.fromkeys(_ALWAYS) | numbers)


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


class LiveProgress(TrainerCallback):
    """Shows step, time left, tokens per second and the numbers that evaluation/metrics.yaml marks `panel`.

    A terminal gets a bar, a log file a line at most every 10 seconds.

    Args:
        console: stderr by default.
        clock: seconds, for tests.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console or Console(stderr=True), clock
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bar = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"), BarColumn(20), TimeRemainingColumn(),
            TextColumn("{task.description}"), console=self._console, get_time=clock, disable=not self._live,
            speed_estimate_period=600,
        )  # fmt: skip
        self._values: dict[str, float] = {}
        self._first: tuple[float, float] | None = None  # time and tokens of the first line
        self._due = clock()  # of the next line

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Open the bar, on the main process alone."""
        if state.is_world_process_zero:
            self._bar.add_task("", total=state.max_steps, completed=state.global_step)
            self._bar.start()

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        """Show the newest values; TRL's summary after the last step has none of them."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        now = self._clock()
        self._values |= {name: logs[name] for name in (*PANEL, _TOKENS) if _number(logs.get(name)) is not None}
        shown = [f"{explain(name).label} {_short(self._values[name])}" for name in PANEL if name in self._values]
        tokens = self._values.get(_TOKENS, 0)
        then, before = self._first = self._first or (now, tokens)
        if now > then:  # of the whole steps: rollouts, rewards and updates
            shown.append(f"{(tokens - before) / (now - then):,.0f} tokens/s")
        text = "  ".join(shown)
        self._bar.update(self._bar.task_ids[0], completed=state.global_step, description=text)
        if not self._live and (now >= self._due or state.global_step >= state.max_steps):
            self._due = now + _SECONDS_PER_LINE
            left = self._bar.tasks[0].time_remaining
            remaining = f"  {timedelta(seconds=int(left))} left" if left else ""
            line = f"step {state.global_step:,}/{state.max_steps:,}  {text}{remaining}"
            print(line, file=self._console.file, flush=True)

    def close(self) -> None:
        """Give the terminal back. A second call does nothing."""
        self._bar.stop()


def _short(value: float) -> str:
    """Three significant digits, large numbers whole."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@contextmanager
def showing_progress(trainer: Any) -> Iterator[None]:
    """Puts our progress in the place of TRL's while a trainer runs, and gives the terminal back at the end.

    Args:
        trainer: any trainer of TRL; one with `disable_tqdm` keeps printing its logs.
    """
    progress = LiveProgress()
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(progress)
        # Bars for writing a checkpoint would tear ours.
        disable_progress_bar()
    try:
        yield
    finally:
        progress.close()


def measure_batch(task: Tensor, combined: Tensor, group: GroupCredit) -> dict[str, float]:
    """Averages (P, G) task rewards and credits over the whole batch; NaN where undefined."""
    values = {
        "quality": task.nanmean(),
        "quality/tied_groups": tied_groups(task).double().mean(),
        "diversity/credit": group.credit.mean(),
        "diversity/credit_std": group.credit.std(dim=1).mean(),
        "diversity/log_volume": group.log_volume.mean(),
        "diversity/quality_volume": group.quality_volume.mean(),
        "diversity/vendi": group.vendi.mean(),
        "diversity/cosine_distance": group.cosine_distance.nanmean(),
        "hack/low_quality_credit": low_quality_credit(combined - task, task),
    }
    return {name: float(value) for name, value in values.items()}


def measure_texts(
    texts: list[Response],
    prompts: list[str],
    lengths: list[int],
    answer_span: Callable[[str], str],
    device: torch.device,
) -> tuple[dict[str, float], Tensor]:
    """Averages signs of tricks over the responses of all processes, and gathers their (N,) lengths in tokens."""
    rows = [
        (
            post_answer_share(text, answer_span(text)),
            repetition(text),
            language_mixing(text, prompt),
            text.traced,
            text.unclosed,
            float(length),
        )
        for text, prompt, length in zip(texts, prompts, lengths, strict=True)
    ]
    table = gather(torch.tensor(rows, dtype=torch.float32, device=device))  # (N, 6)
    names = ("hack/post_answer", "hack/repetition", "hack/language_mixing", "responses/traced", "responses/unclosed")
    return dict(zip(names, table[:, :5].nanmean(dim=0).tolist(), strict=True)), table[:, 5]
