"""Float32 products computed in float32, while a check compares two ways of computing one number.

TF32 (`trainer.tf32`, `torch.set_float32_matmul_precision`) rounds factors to 11 bits: log-probabilities then move by
some thousandths whatever the layout, and a check of the layout at float32's rounding would refuse every model.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Lets products of float32 matrices be float32's own inside, and brings back what was set before."""
    # torch has an older and a newer setting and refuses to multiply where they disagree, so both are set and restored.
    parts = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    newer = [part for part in parts if hasattr(part, "fp32_precision")]  # torch 2.9 and later
    before = [part.fp32_precision for part in newer]
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        # The newer one was used, after which torch refuses to say.
        older = None
    _set("highest" if older else None, newer, ["ieee"] * len(newer))
    try:
        yield
    finally:
        _set(older, newer, before)


def _set(older: str | None, newer: list, precisions: list[str]) -> None:
    if older is not None:
        # This changes the newer one too, which may have said nothing of its own.
        torch.set_float32_matmul_precision(older)
    for part, precision in zip(newer, precisions, strict=True):
        part.fp32_precision = precision
