"""Keep groups whole when the host has shuffled a generation batch row by row.

TRL shuffles the rows of a generation batch before it cuts micro-batches from it, which scatters a group over many of
them, and a prompt can only be shared inside a micro-batch. Putting rows with equal prompts together again, in the
order in which the shuffle brought each prompt first, leaves groups in random order and whole.
"""

import torch
from torch import Tensor
from trl.trainer.utils import split_tensor_dict

Batch = dict[str, Tensor | None]


def regroup(micro_batches: list[Batch]) -> list[Batch]:
    """The same rows in the same number of micro-batches, rows with equal prompts next to each other.

    Args:
        micro_batches: what TRL cut from one generation batch: dicts with `prompt_ids` (N, P), `prompt_mask` (N, P) and
            other tensors of N rows; numbers and None are passed on.

    Returns:
        As many micro-batches of the same sizes; one that ends inside a group shares its part of it.
    """
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
