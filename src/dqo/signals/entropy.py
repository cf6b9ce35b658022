"""Entropy terms of the loss: the plain bonus on every token, and the one on right responses alone."""

from torch import Tensor


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
