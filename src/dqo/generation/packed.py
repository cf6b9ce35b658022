"""Weights of linear layers in the layout that oneDNN multiplies few rows with, for as long as a rollout lasts.

A decoding step multiplies a handful of rows with every weight of the model. The processor's usual matrix product
divides such thin products badly among cores; oneDNN with weights packed once does those of a step of SmolLM2-135M on
two cores in half to two thirds of the time, and packing costs what three to nine steps gain
(`benchmarks/packed.py`, docs/results.md). On one core there is next to nothing to gain.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

_FEWEST_STEPS = 16  # decoding steps below which packing does not pay
_MOST_BYTES = 2 << 30  # a second copy of the weights must not be what fills the memory


@contextmanager
def packed_weights(model: nn.Module, rows: int, steps: int) -> Iterator[None]:
    """Linear layers of the model compute with packed weights inside, where that is faster; products differ by rounding.

    Packed are float32 weights on a CPU with more than one thread, outside of autocast, of together at most 2 GiB. The
    weights must not be changed inside, and no gradient flows through the packed layers.

    Args:
        model: any module; only plain `nn.Linear` layers in it are touched.
        rows: of the widest product to come, for which oneDNN lays out the weights.
        steps: forward passes to come.

    Yields:
        None: the block runs with them.
    """
    layers = _worth_packing(model) if steps >= _FEWEST_STEPS else []
    try:
        for layer in layers:
            packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
            layer.forward = partial(_linear, packed, layer.bias)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)  # the class's own again


def _worth_packing(model: nn.Module) -> list[nn.Linear]:
    if torch.get_num_threads() == 1 or torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available():
        return []
    layers = [
        module
        for module in model.modules()
        if type(module) is nn.Linear and "forward" not in module.__dict__ and _plain(module.weight)
    ]
    return layers if sum(layer.weight.nbytes for layer in layers) <= _MOST_BYTES else []


def _plain(weight: Tensor) -> bool:
    sharded = type(weight) is not nn.Parameter
    return not sharded and weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.is_contiguous()


def _linear(packed: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """(..., D) -> (..., output width)."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
