"""The one composition of the method: embeddings -> kernel -> signal -> reward.

Every caller (the plain reward function, the trainers, evaluation) goes through `group_credit` and `shape_reward`,
so that a number means the same wherever it is printed. DQO and its rivals differ in one line of it, the signal.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dqo.core import (
    centre_among,
    combine_reward,
    cosine_distance,
    cosine_kernel,
    kernel_matrix,
    leave_one_out,
    log_volume,
    quality_weights,
    scale_credit,
    vendi,
    weight_kernel,
)
from dqo.diversity.settings import GATES, DiversitySpec
from dqo.diversity.signals import (
    clusters_by_pairs,
    clusters_by_threshold,
    discount,
    elliptical_bonus,
    graph_cut_share,
    pairwise_distance,
    partition_share,
    unlikeliness_share,
    vendi_gain,
)
from dqo.errors import DQOError

__all__ = ["DiversitySpec", "Evidence", "GroupCredit", "group_credit", "shape_reward"]


@dataclass(frozen=True)
class Evidence:
    """What some signals need beside the embeddings; gathered only when the signal asks.

    Attributes:
        logp: (P, G) log-probability of each response under the policy that sampled it, in nats, NaN for a response
            that takes no part; for "unlikeliness".
        same: (P, G, G) bool, what a classifier holds for the same answer; for "partition" without a threshold.
    """

    logp: Tensor | None = None
    same: Tensor | None = None


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
    """What the signal gives every response of every group.

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

    Source: docs/math.md sections 3 and 4, docs/signals.md.
    """
    L = kernel_matrix(E, spec.kernel, spec.sigma)  # (P, G, G)
    spans = L.diagonal(dim1=-2, dim2=-1) > 0  # (P, G)
    L_credit = L
    if spec.combine in (*GATES, "quality_weighted"):
        weights = _weights(spec, reward)  # (P, G)
        L_credit = weight_kernel(L, weights)  # (P, G, G)
        spans = spans & (weights > 0)  # (P, G)
    L_cosine = L if spec.kernel == "cosine" else cosine_kernel(E)  # (P, G, G)
    return GroupCredit(
        credit=_SIGNAL[spec.diversity](L_credit, spans, spec, evidence or Evidence()),
        spans=spans,
        log_volume=log_volume(L_credit, spec.ridge),
        quality_volume=(L_credit.diagonal(dim1=-2, dim2=-1).sum(-1) / spec.ridge).log1p(),
        vendi=vendi(L_cosine),
        cosine_distance=cosine_distance(L_cosine),
    )


def shape_reward(
    reward: Tensor, E: Tensor, spec: DiversitySpec, evidence: Evidence | None = None
) -> tuple[Tensor, GroupCredit]:
    """Reward that is optimised, and the credit in it.

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


def _weights(spec: DiversitySpec, reward: Tensor | None) -> Tensor:
    if reward is None:
        raise DQOError(
            f"combine={spec.combine!r} weighs responses by their task reward, got none; pass the quality reward or "
            "use combine='add'."
        )
    weights = quality_weights(
        reward, spec.combine, threshold=spec.quality_threshold, center=spec.quality_center, scale=spec.quality_scale
    )  # (P, G)
    assert weights is not None, "these rules have weights"
    return weights


def _volume(L: Tensor, spans: Tensor, spec: DiversitySpec, _: Evidence) -> Tensor:
    credit = leave_one_out(L, spec.ridge)  # (P, G)
    weighted = spec.combine == "quality_weighted"
    return scale_credit(credit, spec.credit_scale, filled=spans, ridge=spec.ridge, weighted=weighted)


def _partition(L: Tensor, spans: Tensor, spec: DiversitySpec, evidence: Evidence) -> Tensor:
    if spec.same_threshold is not None:
        return partition_share(clusters_by_threshold(L, spec.same_threshold), spans)
    if evidence.same is None:
        raise DQOError(
            "diversity='partition' needs `same_threshold` or a classifier of same answers, got neither; set one."
        )
    taking_part = spans.unsqueeze(-1) & spans.unsqueeze(-2)  # (P, G, G); who does not joins no two others
    return partition_share(clusters_by_pairs(evidence.same & taking_part), spans)


def _graph_cut(L: Tensor, spans: Tensor, *_: object) -> Tensor:
    # An empty response overlaps with nothing; it keeps what a copy of all others would instead of everything.
    least = 1.0 / (1.0 + spans.sum(-1, keepdim=True))  # (P, 1)
    return torch.where(spans, graph_cut_share(L), least)  # (P, G)


def _vendi(L: Tensor, spans: Tensor, *_: object) -> Tensor:
    # A copy costs the group some evenness and an empty response none: that must not make it the better choice.
    gain = vendi_gain(L)  # (P, G)
    lowest = gain.amin(-1, keepdim=True).clamp_max(0.0)  # (P, 1)
    return torch.where(spans, gain, lowest)  # (P, G)


def _unlikeliness(L: Tensor, spans: Tensor, spec: DiversitySpec, evidence: Evidence) -> Tensor:
    if evidence.logp is None:
        raise DQOError(
            "diversity='unlikeliness' needs the log-probability of each response, got none; train with DQOTrainer or "
            "DQORLOOTrainer, which compute it."
        )
    return unlikeliness_share(evidence.logp, evidence.logp.isfinite())


def _elsewhere(L: Tensor, *_: object) -> Tensor:
    return torch.zeros_like(L[..., 0])  # (P, G)


_SIGNAL: dict[str, Callable[[Tensor, Tensor, DiversitySpec, Evidence], Tensor]] = {
    "none": _elsewhere,
    "dqo": _volume,
    "pairwise": lambda L, *_: pairwise_distance(L),
    "vendi": _vendi,
    "elliptical": lambda L, spans, spec, _: elliptical_bonus(L, spec.ridge),
    "partition": _partition,
    "graph_cut": _graph_cut,
    "unlikeliness": _unlikeliness,
    "pass_at_k": _elsewhere,
    "entropy": _elsewhere,
    "entropy_correct": _elsewhere,
}
