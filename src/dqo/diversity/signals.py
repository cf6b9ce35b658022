"""Diversity signals by name: what DQO is compared with, on the same host and under the same settings.

A signal acts in one of four places: a *credit* of each response joins its reward by `combine`; a *discount* takes a
share of the reward; an *advantage* replaces the host's; a *loss* term is added. docs/signals.md has a section each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dqo.core import slack, vendi
from dqo.core.volume import check_ridge
from dqo.errors import DQOError


@dataclass(frozen=True)
class Signal:
    """Where a signal acts and what it takes.

    Attributes:
        place: "none", "credit", "discount", "advantage" or "loss".
        highest_alpha: largest alpha that means anything; 1 for a share and a mixture.
        usual_alpha: a usual value to start from, told in errors; None where there is none.
        takes_quality_weights: whether it is defined for a kernel weighted by quality in [0, 1].
    """

    place: str
    highest_alpha: float = 1e9
    usual_alpha: float | None = None
    takes_quality_weights: bool = False


SIGNALS = {
    "none": Signal("none"),
    "dqo": Signal("credit", usual_alpha=1.0, takes_quality_weights=True),
    "pairwise": Signal("credit", usual_alpha=0.3),
    "vendi": Signal("credit", usual_alpha=0.1),
    "elliptical": Signal("credit", usual_alpha=1.0, takes_quality_weights=True),
    "partition": Signal("discount", 1.0, 1.0),
    "graph_cut": Signal("discount", 1.0, 1.0),
    "unlikeliness": Signal("discount", 1.0, 0.25),
    "pass_at_k": Signal("advantage", 1.0, 1.0),
    "entropy": Signal("loss", 0.5, 0.001),
    "entropy_correct": Signal("loss", 0.5, 0.01),
}

__all__ = [
    "SIGNALS",
    "Signal",
    "clusters_by_pairs",
    "clusters_by_threshold",
    "correct_entropy",
    "discount",
    "elliptical_bonus",
    "graph_cut_share",
    "mean_entropy",
    "pairwise_distance",
    "partition_share",
    "pass_at_k_advantage",
    "unlikeliness_share",
    "vendi_gain",
]


# Elliptical bonus of representation-based exploration: how badly the group predicts a response's embedding.


def elliptical_bonus(L: Tensor, ridge: float = 1.0) -> Tensor:
    """h_i^T (ridge I + sum_j h_j h_j^T)^-1 h_i over the group, the ridge leverage score of response i.

    Computed from inner products, L (L + ridge I)^-1, so it takes any kernel. With the volume's credit c_i of the same
    kernel and ridge it is 1 - exp(-c_i): the same order of responses on a flatter scale.

    Args:
        L: (..., G, G) positive semi-definite kernel; a row of zeros is empty or left out.
        ridge: regularisation strength > 0.

    Returns:
        (..., G) float64 in [0, 1); 0 for empty rows.

    Source: RepExp, arXiv 2510.11686, there with the policy's hidden states as h; docs/math.md eq. 3.3.
    """
    check_ridge(ridge)
    L = L.double()  # (..., G, G)
    A = L + ridge * torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)  # (..., G, G)
    return torch.linalg.solve(A, L).diagonal(dim1=-2, dim2=-1).clamp_min(0.0)  # (..., G)


# Mean distance of a response to the others of its group: the foil of the volume, which two tight clusters satisfy.


def pairwise_distance(L: Tensor) -> Tensor:
    """Mean of 1 - L_ij over the other non-empty responses j of the group.

    The group's sum is a set function's leave-one-out credit too, that of the mean distance times G/2, so centring
    keeps its gradient. It saturates at two clusters: a third of the same size adds nothing to a member's mean.

    Args:
        L: (..., G, G) kernel with unit diagonal; a row of zero diagonal is empty or left out.

    Returns:
        (..., G) float64 in [0, 2]; 0 for empty rows and for a response that is alone.

    Source: docs/signals.md "pairwise"; the paper argues against it with its city toy.
    """
    L = L.double()  # (..., G, G)
    filled = (L.diagonal(dim1=-2, dim2=-1) > 0).double()  # (..., G)
    others = (filled.sum(-1, keepdim=True) - 1.0).clamp_min(1.0)  # (..., 1)
    distance = (1.0 - L) * filled.unsqueeze(-1) * filled.unsqueeze(-2)  # (..., G, G)
    itself = torch.eye(L.shape[-1], dtype=torch.bool, device=L.device)  # (G, G)
    return distance.masked_fill(itself, 0.0).sum(-1) / others


# Entropy terms of the loss: the plain bonus on every token, and the one on right responses alone.


def mean_entropy(entropies: Tensor, mask: Tensor) -> Tensor:
    """Mean entropy of the next-token distribution over the tokens of the batch.

    Args:
        entropies: (N, T) nats, differentiable.
        mask: (N, T), 1 on tokens that count.

    Returns:
        () nats; 0 where no token counts.

    Source: docs/signals.md "entropy".
    """
    return (entropies * mask).sum() / mask.sum().clamp_min(1)


def correct_entropy(logps: Tensor, old_logps: Tensor, mask: Tensor, correct: Tensor) -> Tensor:
    """Mean over responses of 1[right] * mean over tokens of -(pi/pi_old) log pi.

    An estimate of the entropy along the sampled tokens, from right responses only: the policy stays broad where it is
    right and is not pushed to wander where it is wrong.

    Args:
        logps: (N, T) log-probabilities of the sampled tokens, nats, differentiable.
        old_logps: (N, T) the same under the policy that sampled them.
        mask: (N, T), 1 on tokens that count.
        correct: (N,) bool.

    Returns:
        () nats, to be raised; 0 where no response is right.

    Source: Yao et al., arXiv 2505.23433; docs/signals.md "entropy_correct".
    """
    surprise = -(logps - old_logps.detach()).exp() * logps  # (N, T)
    per_response = (surprise * mask).sum(-1) / mask.sum(-1).clamp_min(1)  # (N,)
    return (per_response * correct).mean()


# DARLING-style partition of a group into same answers, and the share of its reward a response keeps for being rare.

FLOOR = 0.1  # DARLING's clip: a right answer that everybody gives keeps a tenth of its reward


def clusters_by_threshold(L: Tensor, threshold: float) -> Tensor:
    """Clusters of responses whose similarity is at least a threshold, closed transitively.

    Args:
        L: (..., G, G) symmetric kernel with unit diagonal; a row of zero diagonal is empty or left out.
        threshold: similarity in (0, 1] from which two responses are the same answer.

    Returns:
        (..., G) int64, the smallest row number of the response's cluster.

    Raises:
        DQOError: threshold outside (0, 1].
    """
    check_same_threshold(threshold)
    # Copies come out of a matrix product a few last bits below 1.
    return clusters_by_pairs(threshold - 1e-9 <= L)


def check_same_threshold(threshold: float) -> None:
    """DQOError unless the similarity lies in (0, 1]."""
    if not 0.0 < threshold <= 1.0:
        raise DQOError(
            f"`same_threshold` must lie in (0, 1], got {threshold!r}; 0.8 is a start for cosines of all-MiniLM-L6-v2."
        )


def clusters_by_pairs(same: Tensor) -> Tensor:
    """Connected components of a relation: union-find as repeated minima of row numbers.

    Args:
        same: (..., G, G) bool; made symmetric and reflexive here, because a classifier need be neither.

    Returns:
        (..., G) int64, the smallest row number of the response's cluster.
    """
    G = same.shape[-1]
    joined = same | same.mT | torch.eye(G, dtype=torch.bool, device=same.device)  # (..., G, G)
    label = torch.arange(G, device=same.device).expand(same.shape[:-1])  # (..., G)
    while True:
        smallest = torch.where(joined, label.unsqueeze(-2), G).amin(-1)  # (..., G)
        if torch.equal(smallest, label):
            return label
        label = smallest


def partition_share(cluster: Tensor, filled: Tensor) -> Tensor:
    """(n - |cluster(i)|) / (n - 1), at least a tenth: what response i keeps of its reward.

    Args:
        cluster: (..., G) cluster of each response.
        filled: (..., G) bool, True where the response is not empty and takes part.

    Returns:
        (..., G) float64 in [0.1, 1]; 1 for a response that is alone, a tenth for one that takes no part.

    Source: DARLING, arXiv 2509.02534; docs/signals.md "partition".
    """
    pair = (cluster.unsqueeze(-1) == cluster.unsqueeze(-2)) & filled.unsqueeze(-1) & filled.unsqueeze(-2)  # (..., G, G)
    size = pair.sum(-1).double()  # (..., G)
    n = filled.sum(-1, keepdim=True).double()  # (..., 1)
    share = ((n - size) / (n - 1.0).clamp_min(1.0)).clamp_min(FLOOR)  # (..., G)
    return torch.where(n <= 1, 1.0, share).masked_fill(~filled, FLOOR)


# What a response adds to its group's Vendi score: the effective number of answers with it, minus without it.


def vendi_gain(L: Tensor) -> Tensor:
    """Leave-one-out difference of the Vendi score of order 1; one eigendecomposition a response.

    Negative where a response makes the group less even: a fourth copy beside one outlier lowers the entropy. So,
    unlike the volume's credit, it punishes what is already plentiful. It is left signed; its scale is responses.

    Args:
        L: (..., G, G) positive semi-definite kernel with unit diagonal; a row of zero diagonal is empty or left out.

    Returns:
        (..., G) float64 in effective responses; 0 for empty rows, 1 for a response that is alone.

    Source: docs/signals.md "vendi"; score of Friedman and Dieng 2023, docs/math.md eq. 6.1.
    """
    L = L.double()  # (..., G, G)
    keep = 1.0 - torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)  # (G, G): row i leaves out response i
    without = L.unsqueeze(-3) * keep.unsqueeze(-1) * keep.unsqueeze(-2)  # (..., G, G, G)
    return vendi(L).unsqueeze(-1) - vendi(without)  # (..., G)


# DRA: a reward divided by how much its response overlaps with the group (graph-cut mutual information).


def graph_cut_share(L: Tensor) -> Tensor:
    """1 / (1 + sum_{j != i} max(0, s_ij)): what response i keeps of its reward.

    Negative similarities count as 0; the published sum can reach 0 or pass it, and the weight then explodes or flips.

    Args:
        L: (..., G, G) cosine kernel; a row of zero diagonal is empty or left out.

    Returns:
        (..., G) float64 in [1/G, 1]; 1 for a response that overlaps with none.

    Source: DRA-GRPO, arXiv 2505.09655; docs/signals.md "graph_cut".
    """
    eye = torch.eye(L.shape[-1], dtype=torch.bool, device=L.device)  # (G, G)
    overlap = L.double().clamp_min(0.0).masked_fill(eye, 0.0).sum(-1)  # (..., G)
    return 1.0 / (1.0 + overlap)


# Rewarding the unlikely: among a group's responses, the likelier one keeps less of its reward.


def unlikeliness_share(logp: Tensor, scored: Tensor) -> Tensor:
    """1 - rank_i / n, rank 0 the least likely of the n scored responses; ties share their mean rank.

    Args:
        logp: (..., G) log-probability of each whole response under the policy that sampled it, in nats.
        scored: (..., G) bool, True where the response takes part.

    Returns:
        (..., G) float64 in [1/n, 1]; 1 where the response takes no part.

    Source: He, Fried and Welleck, arXiv 2506.02355; docs/signals.md "unlikeliness".
    """
    takes_part = scored.unsqueeze(-2)  # (..., 1, G)
    above = logp.unsqueeze(-1) - logp.unsqueeze(-2)  # (..., G, G) how much likelier than each
    tie = slack(logp.masked_fill(~scored, 0.0)).unsqueeze(-1)  # (..., 1, 1) copies differ by rounding
    below = ((above > tie) & takes_part).sum(-1)  # (..., G)
    equal = ((above.abs() <= tie) & takes_part).sum(-1) - 1  # (..., G) without itself
    rank = below.double() + equal.clamp_min(0).double() / 2.0  # (..., G)
    n = scored.sum(-1, keepdim=True).double().clamp_min(1.0)  # (..., 1)
    return torch.where(scored, 1.0 - rank / n, 1.0)


# How a share in [0, 1] takes from a reward without ever turning the incentive round.


def discount(reward: Tensor, share: Tensor, alpha: float) -> Tensor:
    """R - alpha * |r| * (1 - share): the published r * share at alpha = 1 and r >= 0, and sign-safe below 0.

    A plain product shrinks a *negative* reward of a redundant response towards 0, which pays redundancy. Here a
    smaller share always means a smaller reward, and a reward never changes its sign for the better.

    Args:
        reward: (...,) task rewards; NaN stays NaN.
        share: (...,) in [0, 1], what the response may keep.
        alpha: strength in [0, 1]; 0 returns the reward.

    Returns:
        (...,) float64.

    Source: docs/signals.md "partition".
    """
    reward = reward.double()  # (...,)
    return reward - alpha * reward.abs() * (1.0 - share)


# Pass@k training: the advantage of a response is what it does to the chance that k draws hold a right one.


def pass_at_k_advantage(correct: Tensor, scored: Tensor, k: int) -> Tensor:
    """Advantages for the objective pass@k, from all subsets of k of the n scored responses of each group.

    With N- wrong of n: R = 1 - C(N-, k)/C(n, k), sigma = sqrt(R (1 - R)), a right response gets (1 - R)/sigma, a
    wrong one (1 - R - C(N- - 1, k - 1)/C(n - 1, k - 1))/sigma. A group with R = 0 or 1 gets 0: once k draws are sure
    to hold a right answer, there is nothing to learn from it.

    Args:
        correct: (..., G) bool.
        scored: (..., G) bool, True where the response could be judged.
        k: draws, at least 1.

    Returns:
        (..., G) float64; 0 for unscored responses and for groups of fewer than k scored ones.

    Raises:
        DQOError: k < 1.

    Source: arXiv 2508.10751, equations of the analytical derivation; docs/signals.md "pass_at_k".
    """
    if k < 1:
        raise DQOError(f"`pass_k` must be at least 1, got {k!r}; it is the number of draws of pass@k.")
    n = scored.sum(-1, keepdim=True).double()  # (..., 1)
    wrong = (scored & ~correct).sum(-1, keepdim=True).double()  # (..., 1)
    fail = _ratio(wrong, n, k)  # (..., 1) probability that k of the n hold no right one
    fail_beside = _ratio(wrong - 1.0, n - 1.0, k - 1)  # (..., 1) the same for the k - 1 beside a wrong one
    sigma = (fail * (1.0 - fail)).sqrt()  # (..., 1)
    advantage = torch.where(correct, fail, fail - fail_beside) / torch.where(sigma > 0, sigma, 1.0)  # (..., G)
    return advantage.masked_fill(~scored | (sigma <= 0) | (n < k), 0.0)


def _ratio(m: Tensor, n: Tensor, k: int) -> Tensor:
    """C(m, k) / C(n, k) as a product of k fractions; 0 where m < k."""
    ratio = torch.ones_like(n)  # (..., 1)
    for j in range(k):
        ratio = ratio * ((m - j).clamp_min(0.0) / (n - j).clamp_min(1.0))
    return ratio
