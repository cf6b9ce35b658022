"""Advantages from task reward and shaped reward, with the guards that groups of tied rewards need.

Dividing a group's advantages by their own standard deviation blows the credit of a tie group up to unit variance
whatever alpha is (docs/math.md eq. 5.5). Two guards: a floor under the standard deviation, and normalising the task
reward alone and adding the credit after.
"""

import torch
from torch import Tensor

from dqo.core.rounding import slack
from dqo.errors import DQOError

REWARD_SCALES = ("none", "batch", "group")
EPSILON = 1e-4  # the host's, so that without guards the numbers are the host's too


def scaled_advantage(
    task: Tensor, shaped: Tensor, scale: str, *, std_floor: float = 0.0, decoupled: bool = False
) -> Tensor:
    """Group-centred advantages, scaled as asked.

    Coupled: (a - mean a) / (max(std a, floor) + 1e-4) with a the shaped reward, which is the host's at floor 0.
    Decoupled: (r - mean r) / (max(std r, floor) + 1e-4) + (x - mean x) with r the task reward and x = a - r what
    diversity added: a unit of credit then buys alpha of advantage in every group, tied or not. Task rewards of a tied
    group count as their mean, because a small standard deviation would turn their rounding into advantages.

    Args:
        task: (P, G) task rewards; NaN where unscorable.
        shaped: (P, G) rewards that are optimised; NaN where unscorable.
        scale: "none", "batch" (std over all rows) or "group" (std over each group).
        std_floor: least standard deviation that is divided by, in reward units, >= 0.
        decoupled: whether the credit is added after the task reward was scaled.

    Returns:
        (P, G) float64; 0 for unscorable responses.

    Raises:
        DQOError: unknown scale or negative floor.

    Source: docs/math.md eq. 5.5, 5.11 and 5.12.
    """
    if scale not in REWARD_SCALES:
        raise DQOError(
            f"`scale_rewards` must be one of {', '.join(REWARD_SCALES)}, got {scale!r}; choose one of these."
        )
    if not 0.0 <= std_floor < float("inf"):
        raise DQOError(f"`std_floor` must be a finite number >= 0 in reward units, got {std_floor!r}; 0 is no floor.")
    task, shaped = task.double(), shaped.double()  # (P, G) each
    settled = torch.where(tied_groups(task).unsqueeze(1) & ~task.isnan(), task.nanmean(1, keepdim=True), task)  # (P, G)
    task, shaped = settled, shaped + (settled - task)
    scaled = task if decoupled else shaped  # (P, G)
    advantage = _centred(scaled)  # (P, G)
    if scale != "none":
        std = scored_std(scaled, dim=1) if scale == "group" else scored_std(scaled.flatten(), dim=0)  # (P, 1) or (1,)
        advantage = advantage / (std.clamp_min(std_floor) + EPSILON)
    if decoupled:
        advantage = advantage + _centred(shaped - task)
    return advantage.nan_to_num(0.0)


def tied_groups(task: Tensor) -> Tensor:
    """Groups whose *task* rewards are equal but for rounding at their magnitude: what a zero-variance filter looks at.

    The shaped reward has variance in every group, because credits differ; a filter that reads it lets all-wrong
    groups pass and trains on nothing but their diversity.

    Args:
        task: (P, G) task rewards; NaN where unscorable, not compared.

    Returns:
        (P,) bool, True also where fewer than two responses are scorable.

    Source: docs/math.md eq. 5.5.
    """
    low = task.nan_to_num(float("inf")).amin(1)  # (P,)
    high = torch.where(task.isnan(), -float("inf"), task).amax(1)  # (P,)
    return high - low <= slack(task).squeeze(1)


def effective_alpha(
    alpha: float, combined: Tensor, scaling: str, *, std_floor: float = 0.0, decoupled: bool = False
) -> float:
    """Advantage that one unit of credit buys: alpha over the std that the credit is divided by.

    Args:
        alpha: weight of diversity.
        combined: (P, G) rewards that are optimised; NaN where unscorable or not there.
        scaling: "none", "batch" (std of the rewards of the batch), "group", or "centred" (std of the batch after each
            group's mean is taken off, as RLOO normalises its advantages, up to their KL part).
        std_floor: least std that is divided by.
        decoupled: whether the credit is left out of the scaling.

    Returns:
        mean over groups, or rows of rewards, in which anything varies; NaN where none does: nothing is bought there.
    """
    if scaling == "none" or decoupled:
        return alpha
    shape = combined.shape if scaling == "group" else (1, -1)  # (P, G) or (1, N)
    noise = slack(combined.reshape(shape))  # (P, 1) or (1, 1), at the rewards' magnitude, which centring takes away
    if scaling == "centred":
        combined = combined - combined.nanmean(1, keepdim=True)  # (P, G)
    spread = scored_std(combined.reshape(shape), 1)  # (P, 1) or (1, 1)
    return (alpha / (spread[spread > noise].clamp_min(std_floor) + EPSILON)).mean().item()


def mean_error(task: Tensor) -> float:
    """Standard error of a batch's mean task reward, prompts being the independent draws.

    Args:
        task: (P, G) task rewards; NaN where unscorable.

    Returns:
        In reward units: from the spread of the prompts' means, or of the responses where one prompt alone was scored;
        0 where nothing can be said.
    """
    means = task.double().nanmean(1)  # (P,)
    draws = means if (~means.isnan()).sum() > 1 else task.double().flatten()  # (P,) or (N,)
    count = int((~draws.isnan()).sum())
    return (scored_std(draws, 0) / max(1, count) ** 0.5).item()


def _centred(values: Tensor) -> Tensor:
    return values - values.nanmean(1, keepdim=True)  # (P, G)


def scored_std(values: Tensor, dim: int) -> Tensor:
    """Unbiased standard deviation over what is no NaN along a dimension.

    Args:
        values: any shape.
        dim: the dimension.

    Returns:
        the same shape with that dimension of length 1; 0 where there are fewer than two numbers.
    """
    n = (~values.isnan()).sum(dim, keepdim=True)
    square = (values - values.nanmean(dim, keepdim=True)).square().nansum(dim, keepdim=True)
    return (square / (n - 1).clamp_min(1)).sqrt()
