"""How a share in [0, 1] takes from a reward without ever turning the incentive round."""

from torch import Tensor


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
