"""What a run does when numbers go wrong: it stops before they reach the weights, with a diagnosis and a way back.

The host filters NaN losses out of its logs by default and goes on with broken weights.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dqo.checkpoints import newest_whole
from dqo.errors import RewardError, TrainingError
from dqo.records import write_text

_NAMED = 3  # tensors named in a diagnosis


def check_finite(losses: list[Tensor], norm: Any, trainer: Any) -> None:
    """Stops before a loss or a gradient that is no number reaches the weights.

    Everything is looked at together and once per optimizer step, so that no micro-batch waits for its numbers.

    Args:
        losses: Scalars of the step's micro-batches.
        norm: Of the whole gradient, a number or a scalar, possibly sharded; None where DeepSpeed computes none.
        trainer: Whose weights and batch may be the reason.

    Raises:
        TrainingError: NaN or infinity.
    """
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else 0.0 if norm is None else norm
    device = trainer.args.device
    numbers = [torch.as_tensor(value, dtype=torch.float32, device=device).detach() for value in (*losses, norm)]
    numbers[-1] = numbers[-1].sqrt()  # NaN below 0: ZeRO says -1 for a gradient with NaN or infinity
    finite = torch.stack(numbers).isfinite().tolist()
    if all(finite):
        return
    if all(finite[:-1]):
        found = f"a finite gradient, got a norm of {float(norm)}"
    else:
        found = f"a finite loss, got {float(losses[finite.index(False)])}"
    weights = _not_finite(trainer.model.named_parameters())
    batch = _not_finite(pair for part in trainer._buffered_inputs for pair in part.items())
    if weights:
        reason = f"the weights {weights} are not finite"
    elif batch:
        reason = f"the batch holds numbers that are not finite, in {batch}"
    else:
        reason = "weights and batch are finite, so the forward or backward pass went out of range"
    raise TrainingError(
        f"step {trainer.state.global_step + 1}: expected {found}; {reason}; lower trainer.learning_rate, set "
        f"trainer.bf16=false or trainer.max_grad_norm, and {way_back(trainer.args.output_dir)}."
    )


@contextmanager
def failed_batch_kept(folder: Path, step: int, process: int) -> Iterator[None]:
    """Where a reward function fails on a batch, that batch is written to a file before the run stops.

    Args:
        folder: Where to.
        step: Optimizer steps done.
        process: Index of the process.

    Raises:
        RewardError: The failure, with the name of the file.
    """
    try:
        yield
    except RewardError as error:
        if error.batch is None:
            raise
        path = folder / f"failed_reward-step{step + 1}-process{process}.jsonl"
        # escaped, because a text that broke a reward may hold what cannot be encoded
        write_text(path, "".join(json.dumps(row, default=repr) + "\n" for row in error.batch))
        raise RewardError(f"{str(error).removesuffix('.')}; what it was called with is in {path}.") from error


def way_back(folder: str) -> str:
    """How a run that stopped goes on, for the end of a diagnosis.

    Args:
        folder: Where checkpoints are.

    Returns:
        Half a sentence.
    """
    newest = newest_whole(folder).newest
    if newest is None:
        return "start anew, for there is no checkpoint yet"
    return f"continue with --resume from {newest}, the last good checkpoint"


def _not_finite(named: Iterable[tuple[str, Any]]) -> str:
    """Names of the first tensors with NaN or infinity; empty where there is none."""
    found = {
        name: None for name, value in named  # a dict, because micro-batches share names
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(_local(value)).all()
    }  # fmt: skip
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(list(found)[:_NAMED]) + more


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
