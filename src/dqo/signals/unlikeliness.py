"""Rewarding the unlikely: among a group's responses, the likelier one keeps less of its reward."""

import torch
from torch import Tensor

from dqo.core import slack


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
