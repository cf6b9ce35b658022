"""The log of a run: one JSON line a step, each step once, however often the run was killed and resumed."""

import json
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dqo.records import append_jsonl, write_text

_ALWAYS = ("quality", "diversity/credit", "diversity/vendi", "alpha", "kl")


class RunLog(TrainerCallback):
    """Appends what the host logs to metrics.jsonl, on the main process alone.

    A line holds `step`, the promised names (null where the host has no value: `kl` without a reference model) and
    every other number of the host; NaN and infinity become null. On resuming, lines beyond the resumed step go.

    Args:
        path: The file metrics.jsonl.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop what an earlier, killed process logged beyond the step that is resumed."""
        if state.is_world_process_zero and self.path.exists():
            kept = [line for line in self.path.read_text(encoding="utf-8").split("\n") if _step(line) in _until(state)]
            write_text(self.path, "".join(line + "\n" for line in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one line; the host's summary after the last step is not a step and is left out."""
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            numbers = {name: _number(value) for name, value in logs.items() if not isinstance(value, str)}
            append_jsonl(self.path, {"step": state.global_step} | dict.fromkeys(_ALWAYS) | numbers)


def _until(state: TrainerState) -> range:
    return range(state.global_step + 1)


def _step(line: str) -> int | None:
    """The step of a line; None for the half line that a kill can leave."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None
