"""Resumes exactly: keeps in a checkpoint what TRL drops, and takes it up again.

TRL counts micro-steps from zero again, so the next rollout comes at another step. It forgets the rollout that it makes
updates from, and the numbers that wait for the next log line. It draws the first epoch's order of prompts for every
epoch. A run that is done takes another step.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from dqo.errors import ModelError, RecipeError
from dqo.files.run import KEY, list_files
from dqo.models.weights import first_words

# Below 5.11, transformers maps the optimizer's state to DDP's device "cpu:0", a place that torch.load does not know.
torch.serialization.register_package(
    100, lambda storage: None, lambda storage, place: storage if place.startswith("cpu:") else None
)

Batch = dict[str, Any]  # of one micro-batch: tensors, None, and for images lists of numbers


def rollout_path(checkpoint: str | Path, process: int) -> Path:
    """The file inside a checkpoint where a process keeps its rows of the rollout under way."""
    return Path(checkpoint) / f"rollout_{process}.safetensors"


def save_rollout(path: Path, batches: list[Batch]) -> None:
    """Writes the micro-batches that a rollout was cut into, in TRL's order."""
    tensors = {
        f"{i}.{name}": value.detach().cpu().clone()  # views of one tensor, which a file cannot hold
        for i, batch in enumerate(batches)
        for name, value in batch.items()
        if isinstance(value, Tensor)
    }
    rest = [{name: value for name, value in batch.items() if not isinstance(value, Tensor)} for batch in batches]
    save_file(tensors, path, metadata={"rest": json.dumps(rest)})


def load_rollout(path: Path, device: torch.device | str) -> list[Batch]:
    """Reads the micro-batches back; a ModelError for a damaged or another file."""
    try:
        with safe_open(path, "pt") as file:
            batches = json.loads(file.metadata()["rest"])
            for key in file.keys():  # noqa: SIM118
                index, _, name = key.partition(".")
                batches[int(index)][name] = file.get_tensor(key).to(device)  # its own `device` refuses DDP's "cpu:0"
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ModelError(
            f"{path}: expected the rollout of the run that is continued, but reading it failed "
            f"({first_words(error)}); resume from another checkpoint."
        ) from error
    return batches


class RolloutAlpha:
    """Alpha of the newest rollout of training, for updates from it after an evaluation or in a resumed run."""

    def __init__(self, value: float) -> None:
        self.value = value

    def state(self) -> dict[str, float]:
        """The number."""
        return {"value": self.value}

    def load(self, state: dict[str, float]) -> None:
        """Continue where `state` was taken."""
        self.value = state["value"]


class RunMemory(TrainerCallback):
    """Keeps the parts' memories in trainer_state.json and puts them back when training begins.

    TRL writes that file last of a checkpoint, so a checkpoint that is whole has them.

    Args:
        parts: name -> object with `state() -> plain data`, empty where there is none, and `load(state)`.
    """

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = parts

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Take up the memories of the checkpoint that is resumed; a controlled alpha may not start anew in a run."""
        kept = state.stateful_callbacks.get(KEY, {})
        if state.global_step > 0 and self.parts["alpha"].state() and not kept.get("alpha"):
            raise RecipeError(
                f"the checkpoint of step {state.global_step} was written without the state of alpha='auto', which "
                "would start anew; resume with the alpha of that run, or start another run."
            )
        for name, part in self.parts.items():
            if not kept.get(name):
                continue
            try:
                part.load(kept[name])
            except KeyError as error:
                raise RecipeError(
                    f"the checkpoint of step {state.global_step} was written by another version of dqo: its memory of "
                    f"{name!r} lacks {error}; resume with that version, or start another run."
                ) from error

    def state(self) -> dict[str, Any]:
        """The memories by name, as they are when a checkpoint is written."""
        return {name: part.state() for name, part in self.parts.items()}


def rollout_length(trainer: Any) -> int:
    """Micro-steps from one rollout to the next."""
    return trainer.args.steps_per_generation * trainer.num_iterations


def save_memory(trainer: Any, folder: str) -> None:
    """Writes the rollout under way into a checkpoint, and the memories into the trainer's state."""
    if trainer._step % rollout_length(trainer):
        save_rollout(rollout_path(folder, trainer.accelerator.process_index), trainer._buffered_inputs)
    # The memories are of all processes, so they are asked for on all; then the files of all are there.
    kept = trainer._memory.state()
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        trainer.state.stateful_callbacks[KEY] = kept | {"files": list_files(folder)}


def resume_rollout(trainer: Any, checkpoint: str) -> list[Batch] | None:
    """Reads the rollout that a checkpoint lies in, None between two; turns the sampler to the checkpoint's epoch."""
    path = rollout_path(checkpoint, trainer.accelerator.process_index)
    rollout = load_rollout(path, trainer.accelerator.device) if path.exists() else None
    updates = trainer.args.gradient_accumulation_steps
    counters = trainer.state.stateful_callbacks.get(KEY, {}).get("host", {})
    # Fewer than steps times micro-batches after an epoch whose last update was short.
    micro_step = counters.get("step", trainer.state.global_step * updates)
    if micro_step % rollout_length(trainer) and rollout is None:
        every = max(1, rollout_length(trainer) // updates)
        raise RecipeError(
            f"the checkpoint of step {trainer.state.global_step} lies between two updates from one rollout and was "
            f"written without that rollout; resume from a checkpoint at the end of one, every {every} steps, or start "
            "anew."
        )
    sampler = trainer._sampler
    if sampler is not None and sampler.shuffle:
        # The orders of the epochs that are done, as the sampler drew them.
        for _ in range(int(trainer.state.epoch or 0)):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
    return rollout


class TrlCounters:
    """Where a trainer of TRL is in its rollout and in its log, as a memory of the run."""

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
        """Continue where `state` was taken; a RecipeError for a run of another number of processes."""
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
