"""Being told to stop: finish the step, write a checkpoint, end; and to do so when nobody is left to tell."""

import os
import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class SaveOnSignal(TrainerCallback):
    """SIGTERM, what schedulers send before they kill, saves and stops the run; so does the loss of the launcher.

    One rank may get the signal a step before another, so all ranks agree at the end of a step. A launcher that is
    killed (kill -9, or for want of memory) tells its processes nothing, and they would train on with nobody to stop
    them: they look whether their parent is still the one they were started by.

    Attributes:
        asked: Whether the run was stopped, on any rank.
        reason: What stopped it, for people.
    """

    def __init__(self) -> None:
        self.asked, self.reason = False, "SIGTERM"
        self._before: Any = None
        self._parent = os.getppid()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen."""
        self._before = signal.signal(signal.SIGTERM, self._note)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask the host to save and stop where any rank was told to."""
        if _launched() and os.getppid() != self._parent:
            self.asked, self.reason = True, "the launcher is gone"
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


def _launched() -> bool:
    """Whether torchrun (accelerate's too) started this process; a run that a shell started may outlive its shell."""
    return "TORCHELASTIC_RUN_ID" in os.environ
