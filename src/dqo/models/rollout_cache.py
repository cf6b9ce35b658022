"""Keeps the keys and values of a rollout: those of a prompt once for all its rows, those of rows in buffers.

transformers repeats the prompt's keys and values to every row and concatenates, which copies all of them for every
token. Attention of the newest tokens reads a prompt once for all its rows, the idea of Hydragen (arXiv 2402.05099).
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dqo.errors import ModelError

NAME = "dqo_rollout"  # of the attention, in transformers' registry
_CHANGES_SCORES = ("softcap", "s_aux", "position_bias", "sliding_window")


@dataclass(frozen=True)
class RunningRows:
    """Which of the R rows still running belongs to which of the U prompts still needed; one object for all layers.

    Attributes:
        prompt_of_row: (R,) ascending.
        prompt_bias: (U, 1, 1, L) added to attention scores: -inf on padding, 0 elsewhere; None without padding.
        place: (R,) of a row in the (U, W) table of rows by prompt, W the most rows a prompt still has.
        prompts: U.
        width: W.
    """

    prompt_of_row: Tensor
    prompt_bias: Tensor | None
    place: Tensor
    prompts: int
    width: int

    @classmethod
    def of(cls, prompt_of_row: Tensor, prompt_bias: Tensor | None) -> "RunningRows":
        """Places rows in the table; `prompt_of_row` is ascending and has every prompt 0..U-1 at least once."""
        counts = torch.bincount(prompt_of_row)  # (U,)
        width = int(counts.max())
        first = counts.cumsum(0) - counts  # (U,) row at which a prompt's rows begin
        within = torch.arange(len(prompt_of_row), device=prompt_of_row.device) - first[prompt_of_row]  # (R,)
        return cls(prompt_of_row, prompt_bias, prompt_of_row * width + within, len(counts), width)

    def group(self, rows: Tensor) -> Tensor:
        """Puts a prompt's rows under each other, zeros where it has fewer: (R, heads, r, k) -> (U, heads, W*r, k)."""
        _, heads, r, k = rows.shape
        U, W = self.prompts, self.width
        if len(rows) != U * W:
            table = rows.new_zeros(U * W, heads, r, k)  # (U*W, heads, r, k)
            table[self.place] = rows
            rows = table
        return rows.view(U, W, heads, r, k).transpose(1, 2).reshape(U, heads, W * r, k)

    def ungroup(self, grouped: Tensor) -> Tensor:
        """Undoes `group`: (U, heads, W*r, k) -> (R, heads, r, k)."""
        U, heads, _, k = grouped.shape
        rows = grouped.view(U, heads, self.width, -1, k).transpose(1, 2).flatten(0, 1)  # (U*W, heads, r, k)
        return rows if len(rows) == len(self.place) else rows[self.place]


class RolloutLayer(DynamicLayer):
    """Holds one layer's keys and values of the prompts, and once `rows` is set those of the rows beside them."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.rows: RunningRows | None = None
        self.buffers: tuple[Tensor, Tensor] | None = None  # (R, heads, room, width) keys and values of the rows
        self.length = 0  # tokens written to the buffers

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Appends states, (batch, heads, t, width) each; returns those of all tokens, or once there are rows itself."""
        key_states, value_states = as_attended(key_states), as_attended(value_states)
        if self.rows is None:
            return super().update(key_states, value_states)
        if self.buffers is None:
            R, heads, _, width = key_states.shape
            self.buffers = tuple(key_states.new_empty(R, heads, self.room, width) for _ in range(2))
        stop = self.length + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.length : stop] = states
        self.length = stop
        return self, self  # for `grouped_attention`

    def get_seq_length(self) -> int:
        """Counts the tokens that a row has seen, padding included."""
        return super().get_seq_length() + self.length

    def keep(self, running: Tensor, prompts: Tensor | None, rows: RunningRows) -> None:
        """Keeps the rows at `running`, (R',), and the prompts at `prompts`, (U',) or None for all."""
        self.rows = rows
        if self.buffers is not None:
            self.buffers = tuple(buffer[running] for buffer in self.buffers)
        if prompts is not None:
            self.keys, self.values = self.keys[prompts], self.values[prompts]


class RolloutCache(Cache):
    """Cache of rollout layers, made one by one as the layers of the model first write; `room` as there."""

    def __init__(self, room: int) -> None:
        super().__init__(layer_class_to_replicate=partial(RolloutLayer, room))
        self.rows: RunningRows | None = None

    def start(self, prompt_of_row: Tensor, prompt_mask: Tensor) -> None:
        """Goes from the U prompts, mask (U, L) zero on padding, to their (N,) rows in ascending order of prompts."""
        bias = None
        if (prompt_mask == 0).any():
            bias = torch.zeros_like(prompt_mask, dtype=torch.float32).masked_fill(prompt_mask == 0, -torch.inf)
            bias = bias[:, None, None]  # (U, 1, 1, L)
        self.rows = RunningRows.of(prompt_of_row, bias)
        for layer in self.layers:
            layer.rows = self.rows

    def keep(self, running: Tensor) -> None:
        """Keeps the rows at `running`, (R',) ascending, and the prompts that they need."""
        prompts, prompt_of_row = torch.unique_consecutive(self.rows.prompt_of_row[running], return_inverse=True)
        bias, all_needed = self.rows.prompt_bias, len(prompts) == self.rows.prompts
        self.rows = RunningRows.of(prompt_of_row, bias if bias is None else bias[prompts])
        for layer in self.layers:
            layer.keep(running, None if all_needed else prompts, self.rows)


def as_attended(states: Tensor) -> Tensor:
    """Casts to the dtype that attention would cast to under autocast: once here, not with every later token."""
    if torch.is_autocast_enabled(states.device.type):
        return states.to(torch.get_autocast_dtype(states.device.type))
    return states


def cache_keyword(model: nn.Module) -> str:
    """Finds the name under which the forward of a model, perhaps wrapped by PEFT, takes its cache."""
    # It is `cache` from transformers 5.24 on, and was `past_key_values`.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # The class's own forward counts: TRL and accelerate put wrappers without its signature on the instance.
    return "cache" if "cache" in inspect.signature(type(base).forward).parameters else "past_key_values"


def grouped_attention(
    module: nn.Module, query: Tensor, key: Any, value: Any, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attends in the form that transformers calls: its own attention for prompts, grouped for tokens after them.

    `query` is (R, heads, 1, width) of the newest tokens, or (U, heads, L, width) of prompts; `key` and `value` are what
    `RolloutLayer.update` returned, the layer itself after the prompt. The result is (R, 1, heads, width).
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
    # One softmax over prompt and row, so the numbers are those of plain attention, and in float32 as fused attention
    # has them: rounded scores would move every token's log-probability off the trainer's.
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
def attending_in_groups(model: PreTrainedModel) -> Iterator[None]:
    """Lets the model, perhaps wrapped by PEFT, attend by `grouped_attention` inside the block."""
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before
