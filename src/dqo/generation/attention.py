"""Attention of a rollout's newest tokens: all rows of a prompt read its keys and values together, once.

Scores against the prompt are one matrix product a prompt instead of one a row, and nothing is repeated; the same idea
as Hydragen (arXiv 2402.05099). One softmax over prompt and row, so the numbers are those of plain attention.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dqo.errors import ModelError
from dqo.generation.cache import RolloutLayer, as_attended

NAME = "dqo_rollout"
_CHANGES_SCORES = ("softcap", "s_aux", "position_bias", "sliding_window")


def grouped_attention(
    module: nn.Module, query: Tensor, key: Any, value: Any, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention in the form that transformers calls: the host's own for prompts, grouped for tokens after them.

    Args:
        module: the attention layer.
        query: (R, heads, 1, width) of the newest tokens, or (U, heads, L, width) of prompts.
        key: what `RolloutLayer.update` returned: the layer itself after the prompt.
        value: the same.
        attention_mask: for prompts; the rows' own is in the cache.
        **kwargs: `scaling` and whatever else the layer hands over.

    Returns:
        (R, 1, heads, width), and None for the weights.

    Raises:
        ModelError: the layer changes scores in a way that this does not compute; `why_not_in_groups` tells it.
    """
    if not isinstance(key, RolloutLayer):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    for name in _CHANGES_SCORES:
        if kwargs.get(name) is not None:
            raise ModelError(f"attention with `{name}` cannot be computed for all rows of a prompt together.")
    R, heads, _, width = query.shape
    scaling = width**-0.5 if kwargs.get("scaling") is None else kwargs["scaling"]
    L, H = key.keys.shape[-2], key.keys.shape[1]
    own_keys, own_values = (buffer[:, :, : key.length] for buffer in key.buffers)  # (R, H, t, width)
    query = as_attended(query)
    # As fused attention does it: rounded scores would move every token's log-probability off the trainer's.
    with torch.autocast(query.device.type, enabled=False):
        scaled = (query.float() * scaling).reshape(R, H, heads // H, width)  # (R, H, heads/H, width)
        to_prompt = key.rows.group(scaled) @ key.keys.float().transpose(-1, -2)  # (U, H, W*heads/H, L)
        if key.rows.prompt_bias is not None:
            to_prompt = to_prompt + key.rows.prompt_bias
        to_own = scaled @ own_keys.float().transpose(-1, -2)  # (R, H, heads/H, t)
        scores = torch.cat([key.rows.ungroup(to_prompt), to_own], dim=-1)  # (R, H, heads/H, L+t)
        weights = scores.softmax(dim=-1)  # (R, H, heads/H, L+t)
        from_prompt = key.rows.ungroup(key.rows.group(weights[..., :L]) @ key.values.float())  # (R, H, heads/H, width)
        attended = from_prompt + weights[..., L:] @ own_values.float()  # (R, H, heads/H, width)
    return attended.reshape(R, 1, heads, width).to(query.dtype), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def attends_in_groups(model: PreTrainedModel) -> Iterator[None]:
    """The model's attention is `grouped_attention` inside, and its own again afterwards.

    Args:
        model: causal LM, possibly wrapped by PEFT.

    Yields:
        None: the block runs with it.
    """
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before
