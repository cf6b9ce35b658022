"""Rows of a batch <-> groups of responses to one prompt, by position or by explicit id; partial groups are refused.

Grouping by stride without looking is the silent bug of this field: a batch that starts inside a group gives numbers
for every row and all of them are wrong. So blocks are checked against the prompts they claim to hold.
"""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from dqo.errors import GroupError


def blocks(n_rows: int, group_size: int, keys: Sequence[Hashable] | None = None) -> int:
    """Number of whole groups P in n_rows consecutive rows, after checking that every block holds one prompt.

    Args:
        n_rows: rows N of the (global) batch.
        group_size: responses G a prompt, at least 1.
        keys: N prompts or ids; all rows of a block must agree. None skips that check (ids were checked elsewhere).

    Returns:
        P = N / G.

    Raises:
        GroupError: N is not a multiple of G, or a block mixes prompts; names the first such row.
    """
    if group_size < 1:
        raise GroupError(f"A group needs at least 1 response, got group_size={group_size}; set `num_generations`.")
    if n_rows % group_size:
        raise GroupError(
            f"Expected whole groups of {group_size} responses, got {n_rows} rows, which leaves {n_rows % group_size} "
            "over; make the batch a multiple of `num_generations`."
        )
    if keys is not None:
        if len(keys) != n_rows:
            raise GroupError(f"Expected one prompt a row, got {len(keys)} prompts for {n_rows} rows; pass both whole.")
        for row, key in enumerate(keys):
            first = row - row % group_size
            if key != keys[first]:
                raise GroupError(
                    f"Expected rows {first} to {first + group_size - 1} to answer one prompt, but row {row} has "
                    "another prompt than the block's first row; keep groups together or set `num_generations` right."
                )
    return n_rows // group_size


def by_id(ids: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """Row numbers of each id, in order of first appearance; for hosts that reorder rows or drop some.

    Args:
        ids: N group ids, one a row.

    Returns:
        id -> its rows, ascending. Groups may have different sizes.

    Raises:
        GroupError: an id is None; names the row.
    """
    rows: dict[Hashable, list[int]] = {}
    for row, key in enumerate(ids):
        if key is None:
            raise GroupError(f"Expected a group id for every row, row {row} has none; pass the id of its prompt.")
        rows.setdefault(key, []).append(row)
    return rows


def pad_groups(values: Tensor, groups: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ragged groups as one padded tensor: rows that are not there become zero rows, which span nothing.

    Args:
        values: (N, ...) one entry a row.
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


def unpad_groups(padded: Tensor, groups: Sequence[Sequence[int]], n_rows: int) -> Tensor:
    """Inverse of pad_groups: every row gets its group's entry back; rows in no group get 0.

    Args:
        padded: (P, G, ...) one entry a place.
        groups: the same P lists of row numbers.
        n_rows: N.

    Returns:
        (N, ...).
    """
    values = padded.new_zeros(n_rows, *padded.shape[2:])  # (N, ...)
    for p, rows in enumerate(groups):
        values[list(rows)] = padded[p, : len(rows)]
    return values


# What rounding leaves of a tie: TRL keeps rewards in float32, so equal sums may differ in their last digits.

RELATIVE = 1e-6  # float32 has 1.2e-7, and a reward is a sum of a few columns


def slack(values: Tensor, relative: float = RELATIVE) -> Tensor:
    """Difference up to which two of these numbers are equal but for rounding.

    Args:
        values: (..., G) numbers of any unit; NaN has no part.
        relative: share of the largest magnitude.

    Returns:
        (..., 1) float64, in the unit of the values; 0 where all are 0 or NaN.
    """
    return relative * values.double().abs().nan_to_num(0.0, posinf=torch.inf).amax(-1, keepdim=True)  # (..., 1)
