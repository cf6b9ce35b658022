"""What a token of a packed row may see, and the attention that computes it: SDPA on a CPU, FlexAttention on CUDA.

The segments of a packed row stand in ascending order: 0 is the prefix, each completion has a number of its own, the
padding has the largest. A token sees the prefix and its own segment, up to itself.

SDPA takes a mask as a dense tensor, with which its fast kernels on CUDA do nothing. FlexAttention takes a `BlockMask`,
which names the blocks of 128 by 128 positions in which anything is visible, and skips the others. transformers calls
"sdpa" by a registry; there a function of ours stands before its own and takes what that one refuses, a `BlockMask`. So
nothing is switched for the time of a packed call: a model attends as before in every other one, and gradient
checkpointing, which runs layers again in the backward pass, finds the function it ran with. Not measured on a GPU.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dqo.errors import ModelError
from dqo.models.rollout_cache import as_attended

BLOCK = 128  # positions; the size that FlexAttention's kernels are made for
_DROPOUTS = ("attention_dropout", "attn_pdrop")  # names in configurations


def by_blocks(device: torch.device) -> bool:
    """Says whether packed rows are attended to by blocks there."""
    return device.type == "cuda"


def why_not_attended(config: Any, device: torch.device) -> str | None:
    """Says why `packed_attention` would not be a model's own attention with more rows together.

    Args:
        config: the model's.
        device: where it runs.

    Returns:
        One sentence to show the user; None where it is.
    """
    # FlashAttention's kernels take no mask: with them a row is a prompt and one completion, which is TRL's own call.
    if config._attn_implementation != "sdpa":
        return f"its attention {config._attn_implementation!r} takes no such mask; choose attn_implementation='sdpa'."
    dropouts = [name for name in _DROPOUTS if getattr(config, name, None)]
    if dropouts and by_blocks(device):
        return f"its attention drops weights, which FlexAttention does not; set {dropouts[0]}=0 in its configuration."
    return None


def mask_of(segments: Tensor) -> Tensor | BlockMask:
    """Makes the mask of packed rows in the form that their device attends by.

    Args:
        segments: (U, S) long, ascending in every row.

    Returns:
        What `block_mask` or `dense_mask` makes of them.
    """
    return block_mask(segments) if by_blocks(segments.device) else dense_mask(segments)


def dense_mask(segments: Tensor) -> Tensor:
    """Says of every pair of positions whether the one may see the other.

    Args:
        segments: (U, S) long, ascending in every row.

    Returns:
        (U, 1, S, S) bool, True where the query (third axis) may see the key (fourth).
    """
    U, S = segments.shape
    column = torch.arange(S, device=segments.device)  # (S,)
    rows = torch.arange(U, device=segments.device).view(U, 1, 1, 1)  # (U, 1, 1, 1)
    return _sees(segments)(rows, None, column[:, None], column)


def block_mask(segments: Tensor) -> BlockMask:
    """Says the same as `dense_mask` by blocks, without a tensor of S by S.

    Args:
        segments: (U, S) long, ascending in every row.

    Returns:
        Mask of shape (U, 1, S, S): the blocks visible in part and as a whole, and the rule for single positions.
    """
    # `create_block_mask` makes the same of the dense mask, or is compiled anew for every length.
    U, S = segments.shape
    beyond = torch.iinfo(torch.int32).max  # more than any segment
    blocks = nn.functional.pad(segments, (0, -S % BLOCK), value=beyond).view(U, -1, BLOCK)  # (U, B, BLOCK)
    first, last = blocks[..., 0], blocks[..., -1]  # (U, B) least and largest segment
    completion = blocks.masked_fill(blocks == 0, beyond).amin(-1)  # (U, B) least segment that is not the prefix
    queries = last[:, :, None]  # (U, B, 1)
    some = (first == 0)[:, None] | (last[:, None] >= first[:, :, None])  # (U, B, B)
    whole = (last == 0)[:, None] | (completion[:, None] == queries)  # (U, B, B)
    whole = (whole & (queries < beyond)).tril(-1)  # (U, B, B) of a last, shorter block every position is asked for
    partly = some.tril() & ~whole  # (U, B, B)
    return BlockMask.from_kv_blocks(
        *_listed(partly), *_listed(whole), BLOCK_SIZE=BLOCK, mask_mod=_sees(segments), seq_lengths=(S, S)
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Marked key blocks of each query block, (U, B, B): their number (U, 1, B), and themselves first (U, 1, B, B)."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)  # (U, B, B)
    return blocks.sum(-1, dtype=torch.int32)[:, None], order.int()[:, None]


def _sees(segments: Tensor) -> Callable:
    """The rule for one pair of positions, or by broadcasting for all: segments (U, S) -> bool."""

    def visible(row: Tensor, head: Any, query: Tensor, key: Tensor) -> Tensor:
        own = segments[row, key] == segments[row, query]
        return (own | (segments[row, key] == 0)) & (key <= query)

    return visible


_own_sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, *args: Any, **kwargs: Any
) -> tuple[Tensor, Any]:
    """Attends in the form that transformers calls: by blocks under a `BlockMask`, otherwise as "sdpa" without us.

    Args:
        module: attention layer.
        query: (U, heads, S, width).
        key: (U, fewer or as many heads, S, width).
        value: like `key`, its width may be another.
        attention_mask: `BlockMask`, or what SDPA takes.
        *args: passed on to SDPA.
        **kwargs: `scaling` and `dropout`; the rest is passed on to SDPA, which uses none of it under a mask.

    Returns:
        (U, S, heads, width of value), and None.

    Raises:
        ModelError: dropout or a bias on positions under a `BlockMask`.
    """
    if not isinstance(attention_mask, BlockMask):
        return _own_sdpa(module, query, key, value, attention_mask, *args, **kwargs)
    if kwargs.get("dropout") or kwargs.get("position_bias") is not None:
        raise ModelError("attention with dropout or a bias cannot be computed by blocks; set shared_prefix=false.")
    states = [as_attended(x) for x in (query, key, value)]
    # Inside a model that is compiled as a whole, attention is compiled with it.
    attend = _attend if torch.compiler.is_compiling() else _attend_compiled
    return attend(*states, attention_mask, kwargs.get("scaling")).transpose(1, 2).contiguous(), None


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float | None) -> Tensor:
    """(U, heads, S, width), by one kernel: for short rows without gradient there is another, which rounds otherwise."""
    options = {"FORCE_USE_FLEX_ATTENTION": True}
    return flex_attention(query, key, value, None, mask, scaling, enable_gqa=True, kernel_options=options)


@cache
def _compiled() -> Callable:
    return torch.compile(_attend, dynamic=True)


def _attend_compiled(*inputs: Any) -> Tensor:
    # One row or several, one block or several, with and without gradient of query or key: more kinds of call than the
    # eight after which torch gives up and attends densely, but not more than these.
    with torch._dynamo.config.patch(cache_size_limit=64):
        return _compiled()(*inputs)


AttentionInterface.register("sdpa", packed_attention)
