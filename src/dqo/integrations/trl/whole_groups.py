"""Brings rows of a group together again after TRL has shuffled a generation batch row by row.

A prompt can only be shared inside a micro-batch, and the shuffle scatters a group over many of them. Which rows an
optimizer step sees stays TRL's choice: rows move only between micro-batches of one optimizer step.
"""

import torch
from torch import Tensor
from trl.trainer.utils import split_tensor_dict

Batch = dict[str, Tensor | None]


def regroup(micro_batches: list[Batch], window: int = 1) -> list[Batch]:
    """The same rows in the same number of micro-batches, rows with equal prompts next to each other in each window.

    Args:
        micro_batches: what TRL cut from one generation batch: dicts with `prompt_ids` (N, P), `prompt_mask` (N, P) and
            other tensors of N rows; numbers and None are passed on.
        window: micro-batches among which rows may move: divides their number, and lies within one optimizer step.

    Returns:
        As many micro-batches of the same sizes; one that ends inside a group shares its part of it.
    """
    starts = range(0, len(micro_batches), window)
    return [batch for start in starts for batch in _regroup_all(micro_batches[start : start + window])]


def _regroup_all(micro_batches: list[Batch]) -> list[Batch]:
    """Groups in the order in which the shuffle brought each prompt first, which leaves that order random."""
    whole = {key: _joined([batch[key] for batch in micro_batches]) for key in micro_batches[0]}
    keys = whole["prompt_ids"].masked_fill(whole["prompt_mask"] == 0, -1)  # (N, P)
    _, group = torch.unique(keys, dim=0, return_inverse=True)  # (N,)
    first = torch.full((int(group.max()) + 1,), len(group), device=group.device)  # (U,)
    first = first.scatter_reduce(0, group, torch.arange(len(group), device=group.device), "amin")  # (U,)
    order = torch.argsort(first[group], stable=True)  # (N,)
    return split_tensor_dict({key: _permuted(value, order) for key, value in whole.items()}, len(micro_batches))


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    if parts[0] is None or parts[0].dim() == 0:
        return parts[0]
    return torch.cat(parts)


def _permuted(value: Tensor | None, order: Tensor) -> Tensor | None:
    return value if value is None or value.dim() == 0 else value[order]
