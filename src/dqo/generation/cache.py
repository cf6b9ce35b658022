"""Keys and values of a rollout: those of a prompt once for all its rows, those of the rows in buffers written in place.

The host repeats the prompt's keys and values to every row and concatenates, which copies all of them for every token.
"""

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer


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
        """Places rows, given in ascending order of their prompts, in the table.

        Args:
            prompt_of_row: (R,) ascending, every prompt 0..U-1 at least once.
            prompt_bias: (U, 1, 1, L) or None.

        Returns:
            The rows with their places.
        """
        counts = torch.bincount(prompt_of_row)  # (U,)
        width = int(counts.max())
        first = counts.cumsum(0) - counts  # (U,) row at which a prompt's rows begin
        within = torch.arange(len(prompt_of_row), device=prompt_of_row.device) - first[prompt_of_row]  # (R,)
        return cls(prompt_of_row, prompt_bias, prompt_of_row * width + within, len(counts), width)

    def group(self, rows: Tensor) -> Tensor:
        """(R, heads, r, k) -> (U, heads, W*r, k): rows of a prompt under each other, zeros where it has fewer."""
        _, heads, r, k = rows.shape
        U, W = self.prompts, self.width
        if len(rows) != U * W:
            table = rows.new_zeros(U * W, heads, r, k)  # (U*W, heads, r, k)
            table[self.place] = rows
            rows = table
        return rows.view(U, W, heads, r, k).transpose(1, 2).reshape(U, heads, W * r, k)

    def ungroup(self, grouped: Tensor) -> Tensor:
        """(U, heads, W*r, k) -> (R, heads, r, k), undoing `group`."""
        U, heads, _, k = grouped.shape
        rows = grouped.view(U, heads, self.width, -1, k).transpose(1, 2).flatten(0, 1)  # (U*W, heads, r, k)
        return rows if len(rows) == len(self.place) else rows[self.place]


class RolloutLayer(DynamicLayer):
    """One layer: the prompts' keys and values, and after `start` those of the rows beside them.

    Args:
        room: tokens a row may produce after the prompt.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.rows: RunningRows | None = None
        self.buffers: tuple[Tensor, Tensor] | None = None  # (R, heads, room, width) keys and values of the rows
        self.length = 0  # tokens written to the buffers

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Appends states, (batch, heads, t, width) each; returns those of all tokens, or once started itself, twice."""
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
        return self, self  # read by `grouped_attention`

    def get_seq_length(self) -> int:
        """Tokens a row has seen, padding included."""
        return super().get_seq_length() + self.length

    def start(self, rows: RunningRows) -> None:
        """From here on the batch is the rows, not the prompts."""
        self.rows = rows

    def keep(self, running: Tensor, prompts: Tensor | None, rows: RunningRows) -> None:
        """Drops ended rows, and prompts none of whose rows is left.

        Args:
            running: (R',) rows to keep.
            prompts: (U',) prompts to keep, or None for all.
            rows: the rows afterwards.
        """
        self.rows = rows
        if self.buffers is not None:
            self.buffers = tuple(buffer[running] for buffer in self.buffers)
        if prompts is not None:
            self.keys, self.values = self.keys[prompts], self.values[prompts]


class RolloutCache(Cache):
    """Cache of rollout layers, made one by one as the layers of the model first write.

    Args:
        room: tokens a row may produce after the prompt.
    """

    def __init__(self, room: int) -> None:
        super().__init__(layer_class_to_replicate=partial(RolloutLayer, room))
        self.rows: RunningRows | None = None

    def start(self, prompt_of_row: Tensor, prompt_mask: Tensor) -> None:
        """Goes from the U prompts to their N rows.

        Args:
            prompt_of_row: (N,) ascending, every prompt at least once.
            prompt_mask: (U, L) zero on padding.
        """
        bias = None
        if (prompt_mask == 0).any():
            bias = torch.zeros_like(prompt_mask, dtype=torch.float32).masked_fill(prompt_mask == 0, -torch.inf)
            bias = bias[:, None, None]  # (U, 1, 1, L)
        self.rows = RunningRows.of(prompt_of_row, bias)
        for layer in self.layers:
            layer.start(self.rows)

    def keep(self, running: Tensor) -> None:
        """Keeps the rows at `running`, (R',) ascending, and the prompts that they need."""
        prompts, prompt_of_row = torch.unique_consecutive(self.rows.prompt_of_row[running], return_inverse=True)
        bias, all_needed = self.rows.prompt_bias, len(prompts) == self.rows.prompts
        self.rows = RunningRows.of(prompt_of_row, bias if bias is None else bias[prompts])
        for layer in self.layers:
            layer.keep(running, None if all_needed else prompts, self.rows)


def as_attended(states: Tensor) -> Tensor:
    """In the dtype that attention would cast to under autocast: cast once here, not with every later token."""
    if torch.is_autocast_enabled(states.device.type):
        return states.to(torch.get_autocast_dtype(states.device.type))
    return states


def cache_keyword(model: nn.Module) -> str:
    """Under which name the forward of a model takes its cache: `cache` from transformers 5.24 on.

    Args:
        model: causal LM or backbone, possibly wrapped by PEFT, not by DDP or FSDP.

    Returns:
        "cache" or "past_key_values".
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # The class's own forward: TRL and accelerate put wrappers without its signature on the instance.
    return "cache" if "cache" in inspect.signature(type(base).forward).parameters else "past_key_values"
