"""What a run does when it goes wrong: a signal saves and stops it, a loss that is no number stops it.

The host filters NaN losses out of its logs by default and goes on with broken weights.
"""

import math
import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dqo.errors import TrainingError


def check_loss(loss: Tensor, step: int) -> None:
    """Stops before a loss that is no number reaches the weights.

    Args:
        loss: scalar of one forward pass.
        step: optimizer steps done.

    Raises:
        TrainingError: NaN or infinity.
    """
    if not torch.isfinite(loss).all():
        raise TrainingError(
            f"step {step + 1}: expected a finite loss, got {float(loss)}; lower trainer.learning_rate, set "
            "trainer.bf16=false or trainer.max_grad_norm, and continue from the last checkpoint."
        )


class StopOnNaN(TrainerCallback):
    """Stops at the step whose gradient was no number, before the host saves what it did to the weights."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Read the norm that the host has just logged.

        Raises:
            TrainingError: A gradient norm of NaN or infinity.
        """
        norm = (logs or {}).get("grad_norm")
        if norm is not None and not math.isfinite(norm):
            raise TrainingError(
                f"step {state.global_step}: expected a finite gradient, got a norm of {norm}; the weights of this step "
                "are lost, so lower trainer.learning_rate or set trainer.bf16=false, and continue from the checkpoint "
                "before it."
            )


class SaveOnSignal(TrainerCallback):
    """SIGTERM, what schedulers send before they kill: finish the step, write a checkpoint, stop.

    One rank may get the signal a step before another, so all ranks agree at the end of a step.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen."""
        self._before = signal.signal(signal.SIGTERM, self._note)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask the host to save and stop where any rank was told to."""
        asked = self.asked
        if dist.is_available() and dist.is_initialized():
            flag = torch.tensor(int(asked), device=args.device)  # ()
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            asked = bool(flag)
        if asked:
            self.asked = control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the signal back to whoever had it."""
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
