"""Rows of a batch <-> groups of responses to one prompt, by position or by explicit id; partial groups are refused."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from dqo.errors import GroupError


def blocks(n_rows: int, group_size: int, keys: Sequence[Hashable] | None = None) -> int:
    """Counts the whole groups P in n_rows consecutive rows, and checks that every block holds one prompt.

    Args:
        n_rows: rows N of the (global) batch.
        group_size: responses G per prompt, at least 1.
        keys: N prompts or ids; all rows of a block must agree. None skips that check (ids were checked elsewhere).

    Returns:
        P = N / G.

    Raises:
        GroupError: N is not a multiple of G, or a block mixes prompts; names the first such row.
    """
    if n_rows % group_size:
        raise GroupError(
            f"Expected whole groups of {group_size} responses, got {n_rows} rows, which leaves {n_rows % group_size} "
            "over; make the batch a multiple of `num_generations`."
        )
    # A batch that starts inside a group would give numbers for every row, and all of them would be wrong.
    for row, key in enumerate(keys or ()):
        first = row - row % group_size
        if key != keys[first]:
            raise GroupError(
                f"Expected rows {first} to {first + group_size - 1} to answer one prompt, but row {row} has another "
                "prompt than the block's first row; keep groups together or set `num_generations` right."
            )
    return n_rows // group_size


def by_id(ids: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """Collects the row numbers of each id, in order of first appearance; for trainers that reorder rows or drop some.

    Args:
        ids: N group ids, one per row.

    Returns:
        id -> its rows, ascending. Groups may have different sizes.
    """
    rows: dict[Hashable, list[int]] = {}
    for row, key in enumerate(ids):
        rows.setdefault(key, []).append(row)
    return rows


def pad_groups(values: Tensor, groups: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Pads ragged groups to one tensor: rows that are not there become zero rows, which span nothing.

    Args:
        values: (N, ...) one entry per row.
        groups: P lists of row numbers, of any lengths.

    Returns:
        (P, G, ...) with G the largest group, and the (P, G) bool mask of real rows.
    """
    width = max((len(rows) for rows in groups), default=0)
    padded = values.new_zeros(len(groups), width, *values.shape[1:])  # (P, G, ...)
    present = torch.zeros(len(groups), width, dtype=torch.bool, device=values.device)  # (P, G)
    for p, rows in enumerate(groups):
        padded[p, : len(rows)] = values[list(rows)]
        present[p, : len(rows)] = True
    return padded, present


# What rounding leaves of a tie: TRL keeps rewards in float32, so equal sums may differ in their last digits.
# The precision of float32 is 1.2e-7, and a reward is a sum of a few columns.
RELATIVE = 1e-6


def slack(values: Tensor, relative: float = RELATIVE) -> Tensor:
    """Computes the difference up to which two of these numbers are equal but for rounding.

    Args:
        values: (..., G) numbers of any unit; NaN has no part.
        relative: share of the largest magnitude.

    Returns:
        (..., 1) float64, in the unit of the values; 0 where all are 0 or NaN.
    """
    return relative * values.double().abs().nan_to_num(0.0, posinf=torch.inf).amax(-1, keepdim=True)  # (..., 1)
