"""What a run does when numbers go wrong: it stops before they reach the weights, with a diagnosis and a way back.

The host filters NaN losses out of its logs by default and goes on with broken weights.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dqo.checkpoints import newest_whole
from dqo.errors import RewardError, TrainingError
from dqo.records import write_text

_NAMED = 3  # tensors named in a diagnosis


def check_loss(loss: Tensor, step: int, model: nn.Module, batch: Mapping[str, Any], folder: str) -> None:
    """Stops before a loss that is no number reaches the weights.

    Args:
        loss: Scalar of one forward pass.
        step: Optimizer steps done.
        model: Whose weights may be the reason.
        batch: Whose numbers may be the reason.
        folder: Where checkpoints are.

    Raises:
        TrainingError: NaN or infinity.
    """
    if torch.isfinite(loss).all():
        return
    weights, numbers = _not_finite(model.named_parameters()), _not_finite(batch.items())
    if weights:
        reason = f"the weights {weights} are not finite"
    elif numbers:
        reason = f"the batch holds numbers that are not finite, in {numbers}"
    else:
        reason = "weights and batch are finite, so the forward pass went out of range"
    raise TrainingError(
        f"step {step + 1}: expected a finite loss, got {float(loss)}; {reason}; lower trainer.learning_rate, set "
        f"trainer.bf16=false or trainer.max_grad_norm, and {way_back(folder)}."
    )


class StopOnNaN(TrainerCallback):
    """Stops before a gradient that is no number reaches the weights.

    A loss scaler (fp16) meets such gradients by design and skips their steps, so it is left to it. Where gradients are
    not in the weights' own `grad` (DeepSpeed), the norm in the log tells, after the step and before it is saved.
    """

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Raises TrainingError where a gradient, complete and clipped, holds NaN or infinity."""
        grads = [(name, weight.grad) for name, weight in model.named_parameters() if weight.grad is not None]
        finite = [torch.isfinite(_local(grad)).all() for _, grad in grads]
        if args.fp16 or not finite or torch.stack(finite).all():
            return
        raise TrainingError(
            f"step {state.global_step + 1}: expected finite gradients, got NaN or infinity in {_not_finite(grads)}; no "
            "weight has changed yet, so lower trainer.learning_rate or set trainer.bf16=false, and "
            f"{way_back(args.output_dir)}."
        )

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Raises TrainingError where the norm that the host has just logged is NaN or infinity."""
        norm = (logs or {}).get("grad_norm")
        if norm is not None and not math.isfinite(norm) and not args.fp16:
            raise TrainingError(
                f"step {state.global_step}: expected a finite gradient, got a norm of {norm}; the weights of this step "
                f"are lost, so lower trainer.learning_rate or set trainer.bf16=false, and {way_back(args.output_dir)}."
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
    newest = newest_whole(folder, read=False).newest
    if newest is None:
        return "start anew, for there is no checkpoint yet"
    return f"continue with --resume from {newest}, the last good checkpoint"


def _not_finite(named: Any) -> str:
    """Names of the first tensors with NaN or infinity; empty where there is none."""
    found = [
        name for name, value in named
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(_local(value)).all()
    ]  # fmt: skip
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
