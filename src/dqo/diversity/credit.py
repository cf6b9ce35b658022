"""The one composition of the method: embeddings -> kernel -> signal -> reward.

Every caller (the plain reward function, the trainers, evaluation) goes through `group_credit` and `shape_reward`,
so that a number means the same wherever it is printed. DQO and its rivals differ in one line of it, the signal.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dqo.core import (
    centre_among,
    combine_reward,
    cosine_distance,
    cosine_kernel,
    kernel_matrix,
    log_volume,
    quality_weights,
    vendi,
    weight_kernel,
)
from dqo.diversity.evidence import Evidence
from dqo.diversity.settings import GATES, DiversitySpec
from dqo.errors import DQOError

__all__ = ["DiversitySpec", "Evidence", "GroupCredit", "discount", "group_credit", "read_signal", "shape_reward"]


@dataclass(frozen=True)
class GroupCredit:
    """What the signal gave each response, and the diversity of each group.

    Attributes:
        credit: (P, G) credit in the spec's unit, 0 for empty and left-out responses (of "vendi" the lowest of the
            group where that is below 0); for a discount the share of the reward that is kept; 0 for signals that act
            on advantages or in the loss.
        spans: (P, G) bool, True where the response is not empty and takes part in the kernel that earned the credit.
        log_volume: (P,) nats, of the kernel that earned the credit (weighted by quality where the rule says so).
        quality_volume: (P,) nats, what log_volume would be if all responses of the group were alike: the part that
            pays size and quality rather than difference.
        vendi: (P,) effective number of different responses, always of the unweighted cosine kernel.
        cosine_distance: (P,) mean 1 - cos over pairs.
    """

    credit: Tensor
    spans: Tensor
    log_volume: Tensor
    quality_volume: Tensor
    vendi: Tensor
    cosine_distance: Tensor


def group_credit(
    E: Tensor, spec: DiversitySpec, reward: Tensor | None = None, evidence: Evidence | None = None
) -> GroupCredit:
    """Computes what the signal gives every response of every group.

    Args:
        E: (P, G, D) embeddings; a zero row is an empty or left-out response and touches no other row's credit.
        spec: what diversity means.
        reward: (P, G) task rewards; needed by combine="gate", "spread" and "quality_weighted".
        evidence: what the signal needs beside; see Evidence.

    Returns:
        GroupCredit, float64 on E's device.

    Raises:
        DQOError: a rule that weighs by quality got no reward, or a signal lacks its evidence.
        NonFiniteError: NaN or infinity in E; names the row.

    Source: docs/math.md sections 3 and 4, docs/reference/signals.md.
    """
    L = kernel_matrix(E, spec.kernel, spec.sigma)  # (P, G, G)
    spans = L.diagonal(dim1=-2, dim2=-1) > 0  # (P, G)
    L_credit = L
    if spec.combine in (*GATES, "quality_weighted"):
        weights = _weights(spec, reward)  # (P, G)
        L_credit = weight_kernel(L, weights)  # (P, G, G)
        spans = spans & (weights > 0)  # (P, G)
    seen = replace(evidence or Evidence(), kernel=L_credit, spans=spans)
    if reward is not None:
        seen = replace(seen, correct=spec.correct(reward), scored=~reward.isnan())
    L_cosine = L if spec.kernel == "cosine" else cosine_kernel(E)  # (P, G, G)
    return GroupCredit(
        credit=read_signal(seen, spec) if spec.signal.acts_on_reward else torch.zeros_like(spans, dtype=L.dtype),
        spans=spans,
        log_volume=log_volume(L_credit, spec.ridge),
        quality_volume=(L_credit.diagonal(dim1=-2, dim2=-1).sum(-1) / spec.ridge).log1p(),
        vendi=vendi(L_cosine),
        cosine_distance=cosine_distance(L_cosine),
    )


def shape_reward(
    reward: Tensor, E: Tensor, spec: DiversitySpec, evidence: Evidence | None = None
) -> tuple[Tensor, GroupCredit]:
    """Computes the reward that is optimised, and the credit in it.

    Args:
        reward: (P, G) task rewards; NaN marks an unscorable response, which is left out of the kernel and stays NaN.
        E: (P, G, D) embeddings.
        spec: what diversity means and how it joins.
        evidence: what the signal needs beside; see Evidence.

    Returns:
        (P, G) float64 combined reward, and the GroupCredit. A signal that acts elsewhere leaves the reward as it is.

    Source: docs/math.md eq. 4.3.
    """
    scored = ~reward.isnan()  # (P, G)
    group = group_credit(E * scored.unsqueeze(-1), spec, reward, evidence)
    if spec.signal.place == "discount":
        return discount(reward, group.credit, spec.alpha), group
    if spec.signal.place != "credit":
        return reward.double(), group
    paid = centre_among(group.credit, group.spans) if spec.combine == "spread" else group.credit  # (P, G)
    return combine_reward(reward, paid, spec.combine, spec.alpha), group


def read_signal(evidence: Evidence, spec: DiversitySpec) -> Tensor:
    """Calls the function of the signal.

    Args:
        evidence: what was gathered for it.
        spec: what diversity means.

    Returns:
        (P, G) credits, shares or advantages, or the () term of a loss; by `spec.signal.place`.

    Raises:
        DQOError: evidence that the signal reads is missing.
    """
    missing = [name for name in spec.needs if getattr(evidence, name) is None]
    if missing:
        raise DQOError(
            f"diversity={spec.diversity!r} reads {' and '.join(missing)} of the responses, got none; train with "
            "DQOTrainer or DQORLOOTrainer, which gather it."
        )
    return spec.signal.function(evidence, spec)


def discount(reward: Tensor, share: Tensor, alpha: float) -> Tensor:
    """Computes r - alpha * |r| * (1 - share): the published r * share at alpha = 1 and r >= 0, and sign-safe below 0.

    Args:
        reward: (...,) task rewards; NaN stays NaN.
        share: (...,) in [0, 1], what the response may keep.
        alpha: strength in [0, 1]; 0 returns the reward.

    Returns:
        (...,) float64.
    """
    reward = reward.double()  # (...,)
    # A plain product shrinks a negative reward of a redundant response towards 0, which pays redundancy. Here a smaller
    # share always means a smaller reward.
    return reward - alpha * reward.abs() * (1.0 - share)


def _weights(spec: DiversitySpec, reward: Tensor | None) -> Tensor:
    if reward is None:
        raise DQOError(
            f"combine={spec.combine!r} weighs responses by their task reward, got none; pass the quality reward or "
            "use combine='add'."
        )
    return quality_weights(
        reward, spec.combine, threshold=spec.quality_threshold, center=spec.quality_center, scale=spec.quality_scale
    )  # (P, G)
