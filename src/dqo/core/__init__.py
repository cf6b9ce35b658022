"""The mathematics of DQO on tensors: kernels, regularised volume, leave-one-out credit, combination with quality.

Torch only; tensors in, tensors out; no configuration, no files, no trainer. Symbols and proofs: docs/math.md.
"""

from dqo.core.advantage import (
    REWARD_SCALES,
    clipped_value_error,
    effective_alpha,
    explained_variance,
    gae,
    mean_error,
    scaled_advantage,
    scored_std,
    tied_groups,
)
from dqo.core.combine import COMBINE_RULES, centre_among, combine_reward, quality_weights, reaches, weight_kernel
from dqo.core.groups import blocks, by_id, pad_groups, slack
from dqo.core.kernels import KERNELS, cosine_kernel, gaussian_kernel, kernel_matrix, linear_kernel
from dqo.core.volume import CREDIT_SCALES, cosine_distance, credit_range, leave_one_out, log_volume, scale_credit, vendi

__all__ = [
    "COMBINE_RULES",
    "CREDIT_SCALES",
    "KERNELS",
    "REWARD_SCALES",
    "blocks",
    "by_id",
    "centre_among",
    "clipped_value_error",
    "combine_reward",
    "cosine_distance",
    "cosine_kernel",
    "credit_range",
    "effective_alpha",
    "explained_variance",
    "gae",
    "gaussian_kernel",
    "kernel_matrix",
    "leave_one_out",
    "linear_kernel",
    "log_volume",
    "mean_error",
    "pad_groups",
    "quality_weights",
    "reaches",
    "scale_credit",
    "scaled_advantage",
    "scored_std",
    "slack",
    "tied_groups",
    "vendi",
    "weight_kernel",
]
