"""Float32 products computed in float32, while a check compares two ways of computing one number.

TF32 (`trainer.tf32`, `torch.set_float32_matmul_precision`) rounds factors to 11 bits: log-probabilities then move by
some thousandths whatever the layout, and a check of the layout at float32's rounding would refuse every model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

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
