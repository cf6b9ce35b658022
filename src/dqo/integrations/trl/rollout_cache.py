"""Keys and values of a rollout, kept in buffers with room for the whole completion.

The host's `DynamicCache` concatenates, which copies all keys and values of every layer for every new token.
"""

from functools import partial

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RolloutLayer(DynamicLayer):
    """A dynamic layer whose keys and values are views of longer buffers, so that a new token is written in place.

    Args:
        room: tokens a row may still produce after the prompt.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.buffers: tuple[Tensor, Tensor] | None = None  # (R, heads, L+room, width) keys and values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends states of t tokens, (R, heads, t, width) each, and returns those of all L+t tokens."""
        if self.buffers is None:  # the prompt, which is attended to before it is copied to its rows
            return super().update(key_states, value_states)
        start = self.get_seq_length()
        stop = start + key_states.shape[-2]
        keys, values = self.buffers
        keys[:, :, start:stop], values[:, :, start:stop] = key_states, value_states
        self.keys, self.values = keys[:, :, :stop], values[:, :, :stop]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Makes the R' rows at `indices` the rows of the cache; an index may occur more than once."""
        length = self.get_seq_length()
        capacity = length + self.room if self.buffers is None else self.buffers[0].shape[-2]
        self.buffers = tuple(self._with_room(states, indices, capacity) for states in (self.keys, self.values))
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)

    def _with_room(self, states: Tensor, indices: Tensor, capacity: int) -> Tensor:
        _, heads, length, width = states.shape
        buffer = states.new_empty(len(indices), heads, capacity, width)  # (R', heads, L+room, width)
        buffer[:, :, :length] = states[indices]
        return buffer


class RolloutCache(Cache):
    """Cache of rollout layers, made one by one as the layers of the model first write.

    Args:
        room: tokens a row may still produce after the prompt.
    """

    def __init__(self, room: int) -> None:
        super().__init__(layer_class_to_replicate=partial(RolloutLayer, room))
