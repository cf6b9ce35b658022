"""Weights of linear layers in the layout that oneDNN multiplies few rows with, for as long as a rollout lasts.

A decoding step multiplies a handful of rows with every weight of the model. The processor's usual matrix product
divides such thin products badly among cores; oneDNN with weights packed once does those of a step of SmolLM2-135M on
two cores in half to two thirds of the time, and packing costs what three to nine steps gain
(`benchmarks/packed.py`, docs/results.md). On one core there is next to nothing to gain.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

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


# Float32 products computed in float32, while a check compares two ways of computing one number.
#
# TF32 (`trainer.tf32`, `torch.set_float32_matmul_precision`) rounds factors to 11 bits: log-probabilities then move by
# some thousandths whatever the layout, and a check of the layout at float32's rounding would refuse every model.

_NEWER = "fp32_precision"  # torch 2.9 and later


@contextmanager
def full_float32() -> Iterator[None]:
    """Within it products of float32 matrices are float32's own; what was set before comes back after it.

    torch has an older and a newer setting and refuses to multiply where they disagree, so both are set and restored.
    """
    newer = [part for part in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul) if hasattr(part, _NEWER)]
    before = [getattr(part, _NEWER) for part in newer]
    older = _older_setting()
    _set(older and "highest", newer, ["ieee"] * len(newer))
    try:
        yield
    finally:
        _set(older, newer, before)


def _older_setting() -> str | None:
    """None where the newer one was used, after which torch refuses to say."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _set(older: str | None, newer: list[Any], precisions: list[str]) -> None:
    if older is not None:
        torch.set_float32_matmul_precision(older)  # changes the newer too, which may have said nothing of its own
    for part, precision in zip(newer, precisions, strict=True):
        setattr(part, _NEWER, precision)
