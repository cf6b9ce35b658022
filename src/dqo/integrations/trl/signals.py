"""Saves and stops a training at the end of its step when a signal asks for it, or when its launcher is gone."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dqo.stop_signals import StopSignals


class SaveOnSignal(TrainerCallback):
    """SIGTERM, Ctrl-C and SIGHUP save and stop the run; so does the loss of the launcher.

    One rank may get the signal a step before another, so all ranks agree at the end of a step. A launcher that is
    killed (kill -9, or for want of memory) tells its processes nothing, and they would train on with nobody to stop
    them: they look whether their parent is still the one they were started by.

    Attributes:
        asked: Whether the run was stopped, on any rank.
    """

    def __init__(self) -> None:
        self.asked, self._orphaned = False, False
        self._signals = StopSignals(
            "Ctrl-C: the step in progress is finished and saved; Ctrl-C again ends the run at once.", _end
        )
        self._parent = os.getppid()

    @property
    def signal(self) -> signal.Signals:
        """The signal that stopped the run; SIGTERM where another rank got it, or none came."""
        return self._signals.asked or signal.SIGTERM

    @property
    def reason(self) -> str:
        """What stopped the run, for people."""
        return "the launcher is gone" if self._orphaned else self.signal.name

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes signals within the block."""
        with self._signals.listening():
            yield

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask TRL to save and stop where any rank was asked to."""
        self._orphaned = _launched() and os.getppid() != self._parent
        asked = self._orphaned or self._signals.asked is not None
        if dist.is_available() and dist.is_initialized():
            flag = torch.tensor(int(asked), device=args.device)  # ()
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            asked = bool(flag)
        if asked:
            self.asked = control.should_save = control.should_training_stop = True


def _end() -> None:
    """Ends the run at a second Ctrl-C; a launcher passes the first one on and gives its processes time of its own."""
    if not _launched():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt


def _launched() -> bool:
    """Whether torchrun (accelerate's too) started this process; a run that a shell started may outlive its shell."""
    return "TORCHELASTIC_RUN_ID" in os.environ
