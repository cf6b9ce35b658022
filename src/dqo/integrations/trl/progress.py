"""One progress bar with the numbers worth watching, in place of the host's dictionary a step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.logging import disable_progress_bar

_SHOWN = {"quality": "quality", "diversity/vendi": "vendi", "completions/mean_length": "tokens", "kl": "kl"}


class CompactProgress(ProgressCallback):
    """The host's bar; on_log writes quality, Vendi score, length and KL behind it."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest values."""
        if state.is_world_process_zero and self.training_bar is not None:
            shown = {short: logs[name] for name, short in _SHOWN.items() if (logs or {}).get(name) is not None}
            if shown:
                self.training_bar.set_postfix({short: f"{value:.3g}" for short, value in shown.items()})


@contextmanager
def compact_progress(trainer: Any) -> Iterator[None]:
    """Exchanges the host's progress callback while a trainer runs, and ends its line whatever happens.

    The host's bars for writing a checkpoint go too: they would tear ours. A trainer with disable_tqdm has no bar and
    keeps printing its logs.

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
        if progress.training_bar is not None:  # left open by an exception
            progress.training_bar.close()
