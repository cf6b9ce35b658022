"""The hidden states of the policy's own forward, for a value head that costs no forward of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor, nn


def backbone_of(policy: nn.Module) -> nn.Module:
    """The part of a causal LM below its head, as TRL's fused head finds it; the same module under PEFT."""
    return (policy.get_base_model() if is_peft_model(policy) else policy).base_model


class HiddenTap:
    """Catches the last hidden states of a policy's forward passes while it listens, gradient included.

    A forward hook on the backbone sees them on their way to the head, whatever wraps the policy (PEFT, DDP, FSDP).
    Where rows share a prompt, whoever laid them out tells by `keep` how to read them back; otherwise rows and columns
    are the host's.

    Args:
        policy: causal LM, possibly wrapped by PEFT, not yet by DDP or FSDP.
    """

    def __init__(self, policy: nn.Module) -> None:
        self._listening = False
        self._caught: list[Tensor] = []
        self._kept: list[Tensor] = []
        backbone_of(policy).register_forward_hook(self._catch)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catches what passes inside the block; what was not taken by its end is dropped."""
        self._listening = True
        try:
            yield
        finally:
            self._listening, self._caught, self._kept = False, [], []

    def keep(self, pick: Callable[[Tensor], Tensor]) -> None:
        """Reads the newest hidden states into rows; without effect while not listening.

        Args:
            pick: (rows, columns, D) of the layout -> (n, C, D).
        """
        if self._listening:
            self._kept.append(pick(self._caught[-1]))
            self._caught = []

    def take(self, columns: int) -> Tensor:
        """Hidden states from which each of the last `columns` tokens of every row was predicted: (N, columns, D)."""
        rows = self._kept or [hidden[:, -columns - 1 : -1] for hidden in self._caught]
        self._caught, self._kept = [], []
        return torch.cat(rows)

    def _catch(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._listening:
            self._caught.append(output.last_hidden_state)
