"""The log of a run: one JSON line a step, each step once, however often the run was killed and resumed."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dqo.core import tied_groups
from dqo.diversity.credit import GroupCredit
from dqo.diversity.tricks import language_mixing, low_quality_credit, text_signs
from dqo.files.records import append_jsonl, write_text
from dqo.models.response import Response

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


# The numbers of a batch that every log line gets: quality, diversity, what alpha buys, and signs of tricks.


def batch_metrics(task: Tensor, combined: Tensor, group: GroupCredit) -> dict[str, float]:
    """Means over the whole batch, under the names that metrics.jsonl promises.

    Args:
        task: (P, G) task rewards; NaN where unscorable.
        combined: (P, G) rewards that are optimised.
        group: what the signal gave.

    Returns:
        name -> number; NaN where it is undefined.
    """
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


def text_metrics(
    texts: list[Response],
    prompts: list[str],
    lengths: list[int],
    answer_span: Callable[[str], str],
    device: torch.device,
):
    """Signs that single responses show, over all processes; every process must call it.

    Args:
        texts: this process's responses.
        prompts: what each of them answers.
        lengths: their tokens as sampled, traces included.
        answer_span: text -> the part that is embedded.
        device: where tensors are gathered.

    Returns:
        name -> mean over all rows for which it is defined, and the (N,) lengths of all rows.
    """
    rows = [
        (*text_signs(text, answer_span), language_mixing(text, prompt), text.traced, text.unclosed, float(length))
        for text, prompt, length in zip(texts, prompts, lengths, strict=True)
    ]
    table = gather(torch.tensor(rows, dtype=torch.float32, device=device))  # (N, 6)
    names = ("hack/post_answer", "hack/repetition", "hack/language_mixing", "responses/traced", "responses/unclosed")
    return dict(zip(names, table[:, :5].nanmean(dim=0).tolist(), strict=True)), table[:, 5]
