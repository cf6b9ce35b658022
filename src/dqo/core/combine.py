"""Quality and diversity in one reward: which responses span the volume, and how the credit joins the task reward.

Five rules (docs/math.md section 4):

add                the paper's r + alpha*c: every response spans, good or not
gate               q in {0, 1}: only responses of at least a threshold span and are paid
spread             the gate with credits compared among those that pass: passing earns nothing by itself
quality_weighted   q in [0, 1]: a response spans by its quality, V_q = log det(I + diag(q) L diag(q) / ridge)
multiply           r * (1 + alpha*c): diversity multiplies quality; needs rewards >= 0
"""

import torch
from torch import Tensor

from dqo.core.groups import RELATIVE
from dqo.errors import DQOError, check_choice

COMBINE_RULES = ("add", "gate", "spread", "quality_weighted", "multiply")


def quality_weights(
    reward: Tensor,
    rule: str,
    *,
    threshold: float | None = None,
    center: float | None = None,
    scale: float | None = None,
) -> Tensor | None:
    """Computes the weight q_i in [0, 1] with which each response enters the kernel.

    gate and spread: q = 1[r >= threshold]. quality_weighted: q = r for rewards in [0, 1], else
    sigmoid((r - center)/scale) with constants fixed in advance (a per-group fit would pay the best of a bad group).
    NaN rewards get weight 0.

    Args:
        reward: (...,) task rewards.
        rule: one of COMBINE_RULES.
        threshold: lowest reward that passes the gate; for "gate" and "spread".
        center: reward that gets weight 1/2; given together with scale, or not at all.
        scale: width > 0 of the sigmoid in reward units.

    Returns:
        weights of reward's shape in float64; None for "add" and "multiply", where every response enters whole.

    Raises:
        DQOError: unknown rule, or rewards outside [0, 1] without a sigmoid; names the row.

    Source: docs/math.md eq. 4.1.
    """
    check_choice("combine", rule, COMBINE_RULES)
    if rule in ("add", "multiply"):
        return None
    reward = reward.to(torch.float64)  # (..., G)
    scored = ~torch.isnan(reward)  # (..., G)
    if rule in ("gate", "spread"):
        return reaches(reward, threshold).to(torch.float64)
    if center is not None:
        return torch.sigmoid((reward - center) / scale).masked_fill(~scored, 0.0)
    outside = scored & ((reward < -RELATIVE) | (reward > 1 + RELATIVE))  # (..., G)
    problem = "takes rewards in [0, 1] as weights, {}; rescale it, or set `quality_center` and `quality_scale`."
    _check_rows(outside, reward, rule, problem)
    return reward.masked_fill(~scored, 0.0).clamp(0.0, 1.0)


def reaches(reward: Tensor, threshold: float) -> Tensor:
    """Compares rewards with a threshold, but for the rounding of float32, where .7 is a little below.

    Args:
        reward: rewards of any shape; NaN reaches nothing.
        threshold: lowest reward that counts as good.

    Returns:
        bool of reward's shape, True where the reward is at least the threshold.
    """
    return reward.to(torch.float64) >= threshold - RELATIVE * abs(threshold)


def weight_kernel(L: Tensor, q: Tensor) -> Tensor:
    """Computes diag(q) L diag(q): a response of quality 0 spans nothing, earns nothing and pushes nothing away.

    Args:
        L: (..., G, G) kernel matrix.
        q: (..., G) weights in [0, 1].

    Returns:
        (..., G, G) float64, positive semi-definite where L is.

    Source: docs/math.md eq. 4.2.
    """
    q = q.to(torch.float64)
    return L.to(torch.float64) * q.unsqueeze(-1) * q.unsqueeze(-2)  # (..., G, G)


def centre_among(credit: Tensor, spans: Tensor) -> Tensor:
    """Takes off each credit the mean over the responses that pass the gate; 0 for the others.

    Args:
        credit: (..., G) credits.
        spans: (..., G) bool, True where the response passes and is not empty.

    Returns:
        (..., G) float64; all 0 where fewer than two pass.

    Source: docs/math.md eq. 4.5 and 5.10.
    """
    credit = credit.double().masked_fill(~spans, 0.0)  # (..., G)
    # The result sums to 0 over those that pass, so that centring on the group's mean leaves it as it is. Passing is
    # worth nothing: the expected update moves probability between passing responses only.
    mean = credit.sum(-1, keepdim=True) / spans.sum(-1, keepdim=True).clamp_min(1)  # (..., 1)
    return (credit - mean).masked_fill(~spans, 0.0)


def combine_reward(reward: Tensor, credit: Tensor, rule: str, alpha: float) -> Tensor:
    """Computes the reward that is optimised: r + alpha*c, or r*(1 + alpha*c) for "multiply".

    Args:
        reward: (...,) task rewards; NaN stays NaN, so an unscorable response gets no silent reward.
        credit: (...,) credit in its chosen unit; for "spread" already centred by centre_among.
        rule: one of COMBINE_RULES; "gate", "spread" and "quality_weighted" act through the credit and add here.
        alpha: weight of diversity, >= 0; 0 returns the task reward.

    Returns:
        (...,) float64.

    Raises:
        DQOError: unknown rule, or "multiply" with a negative reward, whose incentive it would flip; names the row.

    Source: docs/math.md eq. 4.3.
    """
    check_choice("combine", rule, COMBINE_RULES)
    reward = reward.to(torch.float64)
    if rule != "multiply":
        return reward + alpha * credit
    problem = "needs rewards >= 0, {}, for which more diversity would mean less reward; shift it or use combine='add'."
    _check_rows(reward < 0, reward, rule, problem)
    return reward * (1.0 + alpha * credit)


def _check_rows(bad: Tensor, reward: Tensor, rule: str, problem: str) -> None:
    if bad.any():
        row = bad.flatten().nonzero()[0].item()
        which = f"row {row} has {reward.flatten()[row]:.4g}"
        raise DQOError(f"combine={rule!r} {problem.format(which)}")
