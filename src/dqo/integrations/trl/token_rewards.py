"""What PPO pays each token: the response's score at its end, the KL on the way, and a value where it was cut off."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenRewards:
    """Input of `gae`.

    Attributes:
        rewards: (N, C) reward of each token.
        mask: (N, C) float, 1 on tokens the policy chose in rows that have a score.
        bootstrap: (N,) value of the state behind a response that was cut off; 0 for one that ended.
        kl: (N, C) estimate of the KL to the reference a token, or None where the reward holds none.
    """

    rewards: Tensor
    mask: Tensor
    bootstrap: Tensor
    kl: Tensor | None


def token_rewards(
    batch: Mapping[str, Tensor],
    scores: Tensor,
    values: Tensor,
    *,
    ends: Collection[int],
    bootstrap: bool,
    logps: Tensor | None = None,
    beta: float = 0.0,
) -> TokenRewards:
    """Spreads one score a response over its tokens.

    The score stands at the last token under the mask. With `bootstrap`, a response that was cut off has no outcome
    yet: the value of its last state stands for it, *in the place of* its score. Both together would pay it twice, and
    without bound, because that value is itself fitted to what such responses are paid.

    The KL in the reward is −β·(log π − log π_ref) a token; logged is the estimate e^d − d − 1, d = log π_ref − log π.

    Args:
        batch: TRL's: `completion_ids`, `completion_mask` and, where logps are given, `ref_per_token_logps`, (N, C)
            each; `tool_mask` (N, C), zero on tokens that a tool wrote.
        scores: (N,) combined reward; NaN leaves the row out.
        values: (N, C+1) value of the state before each token and behind the last.
        ends: token ids that end a response.
        bootstrap: whether the value of the last state replaces the score of a response that was cut off.
        logps: (N, C) of the policy that sampled; None pays no KL.
        beta: weight of the KL.

    Returns:
        TokenRewards.
    """
    real, device = batch["completion_mask"], values.device
    lengths = real.sum(1, keepdim=True)  # (N, 1)
    last = batch["completion_ids"].gather(1, (lengths - 1).clamp(min=0))  # (N, 1)
    cut_off = ~torch.isin(last, torch.tensor(sorted(ends), device=device)).squeeze(1)  # (N,)
    mask = (real * batch.get("tool_mask", 1)).bool() & ~scores.isnan()[:, None]  # (N, C)
    columns = torch.arange(mask.shape[1], device=device)  # (C,)
    at = (columns * mask).argmax(1, keepdim=True)  # (N, 1) last token under the mask
    waits = cut_off & bootstrap  # (N,)
    paid = scores.nan_to_num().masked_fill(waits, 0).to(values.dtype)  # (N,)
    rewards = torch.zeros_like(values[:, :-1]).scatter(1, at, paid[:, None])  # (N, C)
    behind = values.gather(1, lengths).squeeze(1) * waits  # (N,)
    kl = None
    if logps is not None:
        d = batch["ref_per_token_logps"] - logps  # (N, C)
        rewards, kl = rewards + beta * d, d.exp() - d - 1
    return TokenRewards(rewards, mask.to(values.dtype), behind, kl)
