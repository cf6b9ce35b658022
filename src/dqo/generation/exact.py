"""Float32 products computed in float32, while a check compares two ways of computing one number.

TF32 (`trainer.tf32`, `torch.set_float32_matmul_precision`) rounds factors to 11 bits: log-probabilities then move by
some thousandths whatever the layout, and a check of the layout at float32's rounding would refuse every model.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Within it products of float32 matrices are float32's own; what was set before comes back after it."""
    backends = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    if not all(hasattr(backend, "fp32_precision") for backend in backends):  # torch before 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    # The older setting cannot be read once someone has used the newer one, which always can.
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
