"""Diversity signals by name: what DQO is compared with, in the same trainer and under the same settings.

A new signal is one function and one row of `SIGNALS`, at the end of this file. Checks of settings, help texts, trainers
and the table of docs/reference/signals.md read the row.

A signal acts in one of four places: a *credit* of each response joins its reward by `combine`; a *discount* takes a
share of the reward; an *advantage* replaces TRL's; a *loss* term is added. See docs/reference/signals.md.
"""

from typing import Any

import torch
from torch import Tensor

from dqo.core import leave_one_out, scale_credit, slack, vendi
from dqo.diversity.evidence import Evidence, Signal


def elliptical_bonus(L: Tensor, ridge: float = 1.0) -> Tensor:
    """Computes h_i^T (ridge I + sum_j h_j h_j^T)^-1 h_i over the group, the ridge leverage score of response i.

    Computed from inner products, L (L + ridge I)^-1, so it takes any kernel. RepExp takes the policy's hidden states
    as h. With the volume's credit c_i of the same kernel and ridge it is 1 - exp(-c_i).

    Args:
        L: (..., G, G) positive semi-definite kernel; a row of zeros is empty or left out.
        ridge: regularisation strength > 0.

    Returns:
        (..., G) float64 in [0, 1); 0 for empty rows.

    Source: docs/math.md eq. 3.3.
    """
    L = L.double()  # (..., G, G)
    A = L + ridge * torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)  # (..., G, G)
    return torch.linalg.solve(A, L).diagonal(dim1=-2, dim2=-1).clamp_min(0.0)  # (..., G)


def pairwise_distance(L: Tensor) -> Tensor:
    """Computes the mean of 1 - L_ij over the other non-empty responses j of the group.

    Args:
        L: (..., G, G) kernel with unit diagonal; a row of zero diagonal is empty or left out.

    Returns:
        (..., G) float64 in [0, 2]; 0 for empty rows and for a response that is alone.
    """
    L = L.double()  # (..., G, G)
    filled = (L.diagonal(dim1=-2, dim2=-1) > 0).double()  # (..., G)
    others = (filled.sum(-1, keepdim=True) - 1.0).clamp_min(1.0)  # (..., 1)
    # A leave-one-out credit too, that of the mean distance times G/2, so that centring keeps its gradient. It saturates
    # at two clusters: a third of the same size adds nothing to a member's mean.
    distance = (1.0 - L) * filled.unsqueeze(-1) * filled.unsqueeze(-2)  # (..., G, G)
    itself = torch.eye(L.shape[-1], dtype=torch.bool, device=L.device)  # (G, G)
    return distance.masked_fill(itself, 0.0).sum(-1) / others


def vendi_gain(L: Tensor) -> Tensor:
    """Computes the Vendi score of order 1 of the group, minus that without the response.

    Args:
        L: (..., G, G) positive semi-definite kernel with unit diagonal; a row of zero diagonal is empty or left out.

    Returns:
        (..., G) float64 in effective responses, negative where a response makes the group less even; 0 for empty rows,
        1 for a response that is alone.

    Source: docs/math.md eq. 6.1.
    """
    L = L.double()  # (..., G, G)
    # Row i leaves out response i.
    keep = 1.0 - torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)  # (G, G)
    without = L.unsqueeze(-3) * keep.unsqueeze(-1) * keep.unsqueeze(-2)  # (..., G, G, G)
    return vendi(L).unsqueeze(-1) - vendi(without)  # (..., G)


# DARLING's clip: a right answer that everybody gives keeps a tenth of its reward.
FLOOR = 0.1


def clusters_by_pairs(same: Tensor) -> Tensor:
    """Finds the connected components of a (..., G, G) relation: each row's smallest row number, (..., G) int64."""
    # Repeated minima of row numbers reach every row of a component.
    G = same.shape[-1]
    # Made symmetric and reflexive, which a classifier need not be.
    joined = same | same.mT | torch.eye(G, dtype=torch.bool, device=same.device)  # (..., G, G)
    label = torch.arange(G, device=same.device).expand(same.shape[:-1])  # (..., G)
    while True:
        smallest = torch.where(joined, label.unsqueeze(-2), G).amin(-1)  # (..., G)
        if torch.equal(smallest, label):
            return label
        label = smallest


def partition_share(cluster: Tensor, filled: Tensor) -> Tensor:
    """Computes (n - |cluster(i)|) / (n - 1), at least a tenth: what response i keeps of its reward.

    Args:
        cluster: (..., G) cluster of each response.
        filled: (..., G) bool, True where the response is not empty and takes part.

    Returns:
        (..., G) float64 in [0.1, 1]; 1 for a response that is alone, a tenth for one that takes no part.
    """
    pair = (cluster.unsqueeze(-1) == cluster.unsqueeze(-2)) & filled.unsqueeze(-1) & filled.unsqueeze(-2)  # (..., G, G)
    size = pair.sum(-1).double()  # (..., G)
    n = filled.sum(-1, keepdim=True).double()  # (..., 1)
    share = ((n - size) / (n - 1.0).clamp_min(1.0)).clamp_min(FLOOR)  # (..., G)
    return torch.where(n <= 1, 1.0, share).masked_fill(~filled, FLOOR)


def graph_cut_share(L: Tensor) -> Tensor:
    """Computes 1 / (1 + sum_{j != i} max(0, s_ij)), what response i keeps of its reward.

    Args:
        L: (..., G, G) cosine kernel; a row of zero diagonal is empty or left out.

    Returns:
        (..., G) float64 in [1/G, 1]; 1 for a response that overlaps with none.
    """
    eye = torch.eye(L.shape[-1], dtype=torch.bool, device=L.device)  # (G, G)
    # The published sum takes negative similarities too; it can reach 0 or pass it, and the weight explodes or flips.
    overlap = L.double().clamp_min(0.0).masked_fill(eye, 0.0).sum(-1)  # (..., G)
    return 1.0 / (1.0 + overlap)


def unlikeliness_share(logp: Tensor, scored: Tensor) -> Tensor:
    """Computes 1 - rank_i / n, rank 0 the least likely of the n scored responses; ties share their mean rank.

    Args:
        logp: (..., G) log-probability of each whole response under the policy that sampled it, in nats.
        scored: (..., G) bool, True where the response takes part.

    Returns:
        (..., G) float64 in [1/n, 1]; 1 where the response takes no part.
    """
    takes_part = scored.unsqueeze(-2)  # (..., 1, G)
    # How much likelier each is than each other one.
    above = logp.unsqueeze(-1) - logp.unsqueeze(-2)  # (..., G, G)
    # Log-probabilities of copies differ by rounding.
    tie = slack(logp.masked_fill(~scored, 0.0)).unsqueeze(-1)  # (..., 1, 1)
    below = ((above > tie) & takes_part).sum(-1)  # (..., G)
    # Without itself.
    equal = ((above.abs() <= tie) & takes_part).sum(-1) - 1  # (..., G)
    rank = below.double() + equal.clamp_min(0).double() / 2.0  # (..., G)
    n = scored.sum(-1, keepdim=True).double().clamp_min(1.0)  # (..., 1)
    return torch.where(scored, 1.0 - rank / n, 1.0)


def pass_at_k_advantage(correct: Tensor, scored: Tensor, k: int) -> Tensor:
    """Computes advantages for the objective pass@k, from all subsets of k of the n scored responses of each group.

    With N- wrong of n: R = 1 - C(N-, k)/C(n, k), sigma = sqrt(R (1 - R)), a right response gets (1 - R)/sigma, a
    wrong one (1 - R - C(N- - 1, k - 1)/C(n - 1, k - 1))/sigma.

    Args:
        correct: (..., G) bool.
        scored: (..., G) bool, True where the response could be judged.
        k: draws, at least 1.

    Returns:
        (..., G) float64; 0 for unscored responses, for groups of fewer than k scored ones, and where R is 0 or 1.
    """
    n = scored.sum(-1, keepdim=True).double()  # (..., 1)
    wrong = (scored & ~correct).sum(-1, keepdim=True).double()  # (..., 1)
    # Probability that k of the n hold no right one, and the same for the k - 1 beside a wrong one.
    fail = _ratio(wrong, n, k)  # (..., 1)
    fail_beside = _ratio(wrong - 1.0, n - 1.0, k - 1)  # (..., 1)
    sigma = (fail * (1.0 - fail)).sqrt()  # (..., 1)
    advantage = torch.where(correct, fail, fail - fail_beside) / torch.where(sigma > 0, sigma, 1.0)  # (..., G)
    # Once k draws are sure to hold a right answer, there is nothing to learn from the group.
    return advantage.masked_fill(~scored | (sigma <= 0) | (n < k), 0.0)


def _ratio(m: Tensor, n: Tensor, k: int) -> Tensor:
    """C(m, k) / C(n, k) as a product of k fractions; 0 where m < k."""
    ratio = torch.ones_like(n)  # (..., 1)
    for j in range(k):
        ratio = ratio * ((m - j).clamp_min(0.0) / (n - j).clamp_min(1.0))
    return ratio


def mean_entropy(entropies: Tensor, mask: Tensor) -> Tensor:
    """Computes the mean of (N, T) entropies over the tokens that the mask counts: () nats, 0 where none counts."""
    return (entropies * mask).sum() / mask.sum().clamp_min(1)


def correct_entropy(logps: Tensor, old_logps: Tensor, mask: Tensor, correct: Tensor) -> Tensor:
    """Computes the mean over responses of 1[right] * mean over tokens of -(pi/pi_old) log pi.

    Args:
        logps: (N, T) log-probabilities of the sampled tokens, nats, differentiable.
        old_logps: (N, T) the same under the policy that sampled them.
        mask: (N, T), 1 on tokens that count.
        correct: (N,) bool.

    Returns:
        () nats, to be raised; 0 where no response is right.
    """
    # From right responses only: the policy is not pushed to wander where it is wrong.
    surprise = -(logps - old_logps.detach()).exp() * logps  # (N, T)
    per_response = (surprise * mask).sum(-1) / mask.sum(-1).clamp_min(1)  # (N,)
    return (per_response * correct).mean()


def _volume(seen: Evidence, spec: Any) -> Tensor:
    credit = leave_one_out(seen.kernel, spec.ridge)  # (P, G)
    weighted = spec.combine == "quality_weighted"
    return scale_credit(credit, spec.credit_scale, filled=seen.spans, ridge=spec.ridge, weighted=weighted)


def _vendi(seen: Evidence, _: Any) -> Tensor:
    # A copy costs the group some evenness and an empty response none: that must not make it the better choice.
    gain = vendi_gain(seen.kernel)  # (P, G)
    lowest = gain.amin(-1, keepdim=True).clamp_max(0.0)  # (P, 1)
    return torch.where(seen.spans, gain, lowest)  # (P, G)


def _partition(seen: Evidence, spec: Any) -> Tensor:
    if spec.same_threshold is not None:
        # Copies come out of a matrix product a few last bits below 1.
        same = spec.same_threshold - 1e-9 <= seen.kernel  # (P, G, G)
    else:
        # A response that takes no part joins no two others.
        same = seen.same & seen.spans.unsqueeze(-1) & seen.spans.unsqueeze(-2)  # (P, G, G)
    return partition_share(clusters_by_pairs(same), seen.spans)


def _graph_cut(seen: Evidence, _: Any) -> Tensor:
    # An empty response overlaps with nothing; it keeps what a copy of all others would instead of everything.
    least = 1.0 / (1.0 + seen.spans.sum(-1, keepdim=True))  # (P, 1)
    return torch.where(seen.spans, graph_cut_share(seen.kernel), least)  # (P, G)


SIGNALS = {
    "none": Signal("none", "the task alone: the baseline of every comparison", "–"),
    "dqo": Signal(
        "credit",
        "what a response adds to the volume that its group spans",
        "arXiv 2509.04784",
        _volume,
        usual_alpha=1.0,
        takes_quality_weights=True,
        settings=("credit_scale",),
    ),
    "pairwise": Signal(
        "credit",
        "distance from the others on average",
        "the foil in the DQO paper's city toy",
        lambda seen, spec: pairwise_distance(seen.kernel),
        usual_alpha=0.3,
    ),
    "vendi": Signal(
        "credit",
        "effective responses added",
        "score of Friedman and Dieng 2023; no published training method",
        _vendi,
        usual_alpha=0.1,
    ),
    "elliptical": Signal(
        "credit",
        "the same responses as `dqo`, in the same order on a flatter scale",
        "arXiv 2510.11686",
        lambda seen, spec: elliptical_bonus(seen.kernel, spec.ridge),
        usual_alpha=1.0,
        takes_quality_weights=True,
    ),
    "set": Signal(
        "credit",
        "what a set function of yours loses without the response",
        "–",
        lambda seen, _: seen.marginal.double().masked_fill(~seen.spans, 0.0),
        usual_alpha=1.0,
        needs=("marginal",),
        settings=("set_function",),
    ),
    "partition": Signal(
        "discount",
        "rare answers by count, in proportion to their quality",
        "DARLING, arXiv 2509.02534",
        _partition,
        usual_alpha=1.0,
        highest_alpha=1.0,
        settings=("same_threshold", "same_answer"),
    ),
    "graph_cut": Signal(
        "discount",
        "little overlap with the group",
        "DRA-GRPO, arXiv 2505.09655",
        _graph_cut,
        usual_alpha=1.0,
        highest_alpha=1.0,
    ),
    "unlikeliness": Signal(
        "discount",
        "right answers that the policy rarely gives",
        "arXiv 2506.02355",
        lambda seen, spec: unlikeliness_share(seen.logp, seen.logp.isfinite()),
        usual_alpha=0.25,
        highest_alpha=1.0,
        needs=("logp",),
    ),
    "pass_at_k": Signal(
        "advantage",
        "groups in which at least one of `pass_k` draws is right",
        "arXiv 2508.10751",
        lambda seen, spec: pass_at_k_advantage(seen.correct, seen.scored, spec.pass_k),
        usual_alpha=1.0,
        highest_alpha=1.0,
        needs=("correct",),
        settings=("pass_k",),
    ),
    "entropy": Signal(
        "loss",
        "unsure next tokens",
        "–",
        lambda seen, spec: mean_entropy(seen.entropies, seen.mask),
        usual_alpha=0.001,
        highest_alpha=0.5,
        needs=("entropies",),
    ),
    "entropy_correct": Signal(
        "loss",
        "staying broad where the answer is right",
        "arXiv 2505.23433",
        lambda seen, spec: correct_entropy(seen.logps, seen.old_logps, seen.mask, seen.correct),
        usual_alpha=0.01,
        highest_alpha=0.5,
        needs=("old_logps", "correct"),
    ),
}
