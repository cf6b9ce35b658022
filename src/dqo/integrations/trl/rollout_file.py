"""The rollout that a run is in the middle of, as a file of its checkpoint."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dqo.errors import ModelError
from dqo.hub import first_words

Batch = dict[str, Any]  # of one micro-batch: tensors, None, and for images lists of numbers


def rollout_path(checkpoint: str | Path, process: int) -> Path:
    """Where a process keeps its rows.

    Args:
        checkpoint: Folder of a checkpoint.
        process: Index of the process.

    Returns:
        A path inside the checkpoint.
    """
    return Path(checkpoint) / f"rollout_{process}.safetensors"


def save_rollout(path: Path, batches: list[Batch]) -> None:
    """Write the micro-batches that a rollout was cut into.

    Args:
        path: As `rollout_path` gives it.
        batches: Micro-batches in the host's order.
    """
    tensors = {
        f"{i}.{name}": value.detach().cpu().clone()  # micro-batches are views of one tensor, which a file cannot hold
        for i, batch in enumerate(batches)
        for name, value in batch.items()
        if isinstance(value, Tensor)
    }
    rest = [{name: value for name, value in batch.items() if not isinstance(value, Tensor)} for batch in batches]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"rest": json.dumps(rest)})


def load_rollout(path: Path, device: torch.device | str) -> list[Batch]:
    """Read the micro-batches back.

    Args:
        path: As `rollout_path` gives it.
        device: Where the tensors shall be.

    Returns:
        Micro-batches as they were saved.

    Raises:
        ModelError: A file that is none of these.
    """
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
