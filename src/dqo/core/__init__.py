"""The mathematics of DQO on tensors: kernels, regularised volume, leave-one-out credit, combination with quality.

Torch only; tensors in, tensors out; no configuration, no files, no host. Symbols and proofs: docs/math.md.
"""

from dqo.core.combine import COMBINE_RULES, combine_reward, quality_weights, weight_kernel
from dqo.core.credit import CREDIT_SCALES, credit_range, scale_credit
from dqo.core.groups import blocks, by_id, pad_groups, unpad_groups
from dqo.core.kernels import KERNELS, cosine_kernel, gaussian_kernel, kernel_matrix, linear_kernel
from dqo.core.logdet import leave_one_out, log_volume

__all__ = [
    "COMBINE_RULES",
    "CREDIT_SCALES",
    "KERNELS",
    "blocks",
    "by_id",
    "combine_reward",
    "cosine_kernel",
    "credit_range",
    "gaussian_kernel",
    "kernel_matrix",
    "leave_one_out",
    "linear_kernel",
    "log_volume",
    "pad_groups",
    "quality_weights",
    "scale_credit",
    "unpad_groups",
    "weight_kernel",
]
