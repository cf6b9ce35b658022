"""What rounding leaves of a tie: TRL keeps rewards in float32, so equal sums may differ in their last digits."""

import torch
from torch import Tensor

RELATIVE = 1e-6  # float32 has 1.2e-7, and a reward is a sum of a few columns


def slack(values: Tensor, relative: float = RELATIVE) -> Tensor:
    """Difference up to which two of these numbers are equal but for rounding.

    Args:
        values: (..., G) numbers of any unit; NaN has no part.
        relative: share of the largest magnitude.

    Returns:
        (..., 1) float64, in the unit of the values; 0 where all are 0 or NaN.
    """
    return relative * values.double().abs().nan_to_num(0.0, posinf=torch.inf).amax(-1, keepdim=True)  # (..., 1)
