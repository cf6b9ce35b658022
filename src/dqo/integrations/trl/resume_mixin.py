"""Resuming exactly: what the host drops between a checkpoint and its continuation, kept and taken up again.

The host counts micro-steps from zero again, so that the next rollout comes at another step; it forgets the rollout that
it was making updates from; it draws the first epoch's order of prompts for every epoch; it forgets the numbers that
wait for the next log line; and a run that is done takes another step. The seams are `_save_rng_state`, which comes last
before trainer_state.json, `_load_optimizer_and_scheduler`, `_get_train_sampler` and `_run_epoch`.
"""

from typing import Any

import torch
from torch.utils.data import Sampler

from dqo.checkpoints import KEY, list_files
from dqo.errors import RecipeError
from dqo.integrations.trl.rollout_file import load_rollout, rollout_path, save_rollout
from dqo.integrations.trl.run_memory import RunMemory
from dqo.output_files import writing


class ResumeMixin:
    """Completes the host's checkpoints; `_memory` is set by the trainer."""

    _memory: RunMemory
    _sampler: Any = None

    @property
    def rollout_lasts(self) -> int:
        """Micro-steps from one rollout to the next."""
        return self.args.steps_per_generation * self.num_iterations

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler:
        self._sampler = super()._get_train_sampler(*args, **kwargs)
        return self._sampler

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """The host looks at max_steps after a step only."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Tells a full disk in a sentence."""
        with writing(self.args.output_dir, "add --resume"):
            super()._save_checkpoint(*args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self._step % self.rollout_lasts:
            save_rollout(rollout_path(output_dir, self.accelerator.process_index), self._buffered_inputs)
        kept = self._memory.state()  # of all processes, so it is asked for on all
        self.accelerator.wait_for_everyone()  # their files are there now
        if self.args.should_save:
            self.state.stateful_callbacks[KEY] = kept | {"files": list_files(output_dir)}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            path = rollout_path(checkpoint, self.accelerator.process_index)
            self._buffered_inputs = load_rollout(path, self.accelerator.device) if path.exists() else None
            self._check_rollout()
            self._turn_epochs()

    def _check_rollout(self) -> None:
        """Refuse to go on in the middle of a rollout that is not there."""
        if_whole = self.state.global_step * self.args.gradient_accumulation_steps
        host = self.state.stateful_callbacks.get(KEY, {}).get("host", {})
        micro_step = host.get("step", if_whole)  # fewer after an epoch whose last update was short
        if micro_step % self.rollout_lasts and self._buffered_inputs is None:
            updates = max(1, self.rollout_lasts // self.args.gradient_accumulation_steps)
            raise RecipeError(
                f"the checkpoint of step {self.state.global_step} lies between two updates from one rollout and was "
                f"written without that rollout; resume from a checkpoint at the end of one, every {updates} steps, or "
                "start anew."
            )

    def _turn_epochs(self) -> None:
        """Draw the orders of the epochs that are done, as the sampler did when it went through them."""
        if self._sampler is not None and self._sampler.shuffle:
            for _ in range(int(self.state.epoch or 0)):
                torch.randperm(self._sampler.num_samples, generator=self._sampler.generator)


class HostCounters:
    """Where the host is in its rollout and in its log, as a memory of the run.

    Args:
        trainer: A trainer with `ResumeMixin`.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def state(self) -> dict[str, Any]:
        """Micro-steps done, number of processes, and what the next log line is made of."""
        trainer = self._trainer
        return {
            "step": trainer._step,
            "processes": trainer.accelerator.num_processes,
            "metrics": dict(trainer._metrics["train"]),
            "loss": trainer.accelerator.gather(trainer._tr_loss).mean().item(),
            "logged": trainer._globalstep_last_logged,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken.

        Args:
            state: What `state()` returned.

        Raises:
            RecipeError: A run of another number of processes.
        """
        trainer, now = self._trainer, self._trainer.accelerator.num_processes
        if state["processes"] != now:
            raise RecipeError(
                f"the checkpoint of step {trainer.state.global_step}: expected a continuation by {state['processes']} "
                f"processes, which wrote it, got {now}, with which batches and prompts would be others; start as many."
            )
        trainer._step, trainer._globalstep_last_logged = state["step"], state["logged"]
        trainer._tr_loss += state["loss"]
        for name, values in state["metrics"].items():
            trainer._metrics["train"][name].extend(values)
