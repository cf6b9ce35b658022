"""Resumes exactly: keeps in a checkpoint what TRL drops, and takes it up again.

TRL counts micro-steps from zero again, so the next rollout comes at another step. It forgets the rollout that it makes
updates from, and the numbers that wait for the next log line. It draws the first epoch's order of prompts for every
epoch. A run that is done takes another step.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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


def save_part(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes mappings of tensors, and of values that JSON has, into a file of a checkpoint."""
    tensors = {
        f"{i}.{name}": value.detach().cpu().clone()  # views of one tensor, which a file cannot hold
        for i, row in enumerate(rows)
        for name, value in row.items()
        if isinstance(value, Tensor)
    }
    rest = [{name: value for name, value in row.items() if not isinstance(value, Tensor)} for row in rows]
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, metadata={"rest": json.dumps(rest)})


@contextmanager
def reading_part(path: Path, what: str, device: torch.device | str) -> Iterator[list[dict[str, Any]]]:
    """Reads the mappings of `save_part`; a ModelError for a damaged file, or where the block fails."""
    try:
        with safe_open(path, "pt") as file:
            rows = json.loads(file.metadata()["rest"])
            for key in file.keys():  # noqa: SIM118
                index, _, name = key.partition(".")
                rows[int(index)][name] = file.get_tensor(key).to(device)  # its own `device` refuses DDP's "cpu:0"
        yield rows
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise ModelError(
            f"{path}: expected the {what} of the run that is continued, but reading it failed ({first_words(error)}); "
            "resume from another checkpoint of the same settings, or start anew."
        ) from error


class RunMemory(TrainerCallback):
    """Keeps the parts' memories in trainer_state.json and puts them back when training begins.

    TRL writes that file last of a checkpoint, so a checkpoint that is whole has them.

    Args:
        parts: name -> object with `state() -> plain data`, empty where there is none, and `load(state)`.
    """

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = parts

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Take up the memories of the checkpoint that is resumed; a part without its own would start anew in a run."""
        kept = state.stateful_callbacks.get(KEY, {})
        for name, part in self.parts.items() if state.global_step > 0 else ():
            try:
                part.load(kept[name])
            except KeyError as error:
                raise RecipeError(
                    f"the checkpoint of step {state.global_step} was written with other settings of {name!r} or by "
                    f"another version of dqo: its memory lacks {error}; resume with those, or start another run."
                ) from error

    def state(self) -> dict[str, Any]:
        """The memories by name, as they are when a checkpoint is written."""
        return {name: part.state() for name, part in self.parts.items()}


def save_memory(trainer: Any, folder: str) -> None:
    """Writes the rollout under way into a checkpoint, and the memories into the trainer's state."""
    if trainer._step % _rollout_length(trainer):
        save_part(_rollout_path(trainer, folder), trainer._buffered_inputs)
    # The memories are of all processes, so they are asked for on all; then the files of all are there.
    kept = trainer.memory.state()
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        trainer.state.stateful_callbacks[KEY] = kept | {"files": list_files(folder)}


def resume_rollout(trainer: Any, checkpoint: str) -> list[dict[str, Any]] | None:
    """Reads the rollout that a checkpoint lies in, None between two; turns the sampler to the checkpoint's epoch."""
    path, rollout = _rollout_path(trainer, checkpoint), None
    if path.exists():
        with reading_part(path, "rollout", trainer.accelerator.device) as rollout:
            pass
    updates, every = trainer.args.gradient_accumulation_steps, _rollout_length(trainer)
    counters = trainer.state.stateful_callbacks.get(KEY, {}).get("host", {})
    # Fewer than steps times micro-batches after an epoch whose last update was short.
    micro_step = counters.get("step", trainer.state.global_step * updates)
    if micro_step % every and rollout is None:
        raise RecipeError(
            f"the checkpoint of step {trainer.state.global_step} lies between two updates from one rollout and was "
            "written without that rollout; resume from a checkpoint at the end of one, every "
            f"{max(1, every // updates)} steps, or start anew."
        )
    sampler = trainer._sampler
    if sampler is not None and sampler.shuffle:
        # The orders of the epochs that are done, as the sampler drew them.
        for _ in range(int(trainer.state.epoch or 0)):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
    return rollout


def _rollout_path(trainer: Any, checkpoint: str) -> Path:
    """Where a process keeps its rows of the rollout under way: the micro-batches that TRL cut it into."""
    return Path(checkpoint) / f"rollout_{trainer.accelerator.process_index}.safetensors"


def _rollout_length(trainer: Any) -> int:
    """Micro-steps from one rollout to the next."""
    return trainer.args.steps_per_generation * trainer.num_iterations


class TrlCounters:
    """Where a trainer of TRL is in its rollout and in its log, as a memory of the run."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def state(self) -> dict[str, Any]:
        """Micro-steps done, number of processes, alpha of the rollout, and what the next log line is made of."""
        trainer = self._trainer
        return {
            "step": trainer._step,
            "processes": trainer.accelerator.num_processes,
            "alpha": trainer.rollout_alpha,
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
        trainer.rollout_alpha = state["alpha"]
        trainer._tr_loss += state["loss"]
        for name, values in state["metrics"].items():
            trainer._metrics["train"][name].extend(values)
