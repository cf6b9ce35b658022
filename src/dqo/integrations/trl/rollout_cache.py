"""Keys and values of a rollout in buffers with room for the whole completion.

The host's `DynamicCache` concatenates, which copies all keys and values of every layer for every token.
"""

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RolloutLayer(DynamicLayer):
    """A dynamic layer whose tensors are views of a buffer that already has room for `room` more tokens."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Appends (R, heads, t, width) states and returns all of them, (R, heads, L+t, width), as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        end = self.keys.shape[-2] + key_states.shape[-2]
        if self._keys.shape[-2] < end:
            raise AssertionError
        return self.keys, self.values


class RolloutCache(Cache):
    """Cache of rollout layers, one made when a layer of the model first writes.

    Args:
        room: tokens a row may still produce after the prompt.
    """
