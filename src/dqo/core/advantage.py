"""Advantages: of a group from its rewards, guarded where rewards tie; of tokens by GAE for PPO.

Dividing a group's advantages by their own standard deviation blows the credit of a tie group up to unit variance
whatever alpha is (docs/math.md eq. 5.5). Two guards: a floor under the standard deviation, and normalising the task
reward alone and adding the credit after.
"""

import torch
from torch import Tensor

from dqo.core.groups import slack
from dqo.errors import NonFiniteError, check_choice

REWARD_SCALES = ("none", "batch", "group")
# TRL's, so that the numbers are TRL's too where no guard is set.
EPSILON = 1e-4


def scaled_advantage(
    task: Tensor, shaped: Tensor, scale: str, *, std_floor: float = 0.0, decoupled: bool = False
) -> Tensor:
    """Centres rewards on their group's mean and scales them as asked.

    Coupled: (a - mean a) / (max(std a, floor) + 1e-4) with a the shaped reward, as TRL computes it at floor 0.
    Decoupled: (r - mean r) / (max(std r, floor) + 1e-4) + (x - mean x) with r the task reward and x = a - r what
    diversity added: a unit of credit then buys alpha of advantage in every group, tied or not.

    Args:
        task: (P, G) task rewards; NaN where unscorable.
        shaped: (P, G) rewards that are optimised; NaN where unscorable.
        scale: one of REWARD_SCALES: "none", "batch" (std over all rows) or "group" (std over each group).
        std_floor: least standard deviation that is divided by, in reward units, >= 0.
        decoupled: whether the credit is added after the task reward was scaled.

    Returns:
        (P, G) float64; 0 for unscorable responses.

    Raises:
        DQOError: unknown scale.

    Source: docs/math.md eq. 5.5, 5.11 and 5.12.
    """
    check_choice("scale_rewards", scale, REWARD_SCALES)
    task, shaped = task.double(), shaped.double()  # (P, G) each
    # A small standard deviation would turn the rounding of tied rewards into advantages, so they count as their mean.
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
    """Finds groups whose *task* rewards are equal but for rounding at their magnitude.

    Args:
        task: (P, G) task rewards; NaN where unscorable, not compared.

    Returns:
        (P,) bool, True also where fewer than two responses are scorable.

    Source: docs/math.md eq. 5.5.
    """
    # A filter that reads the shaped reward, which varies in every group, would let all-wrong groups pass and train on
    # nothing but their diversity.
    low = task.nan_to_num(float("inf")).amin(1)  # (P,)
    high = torch.where(task.isnan(), -float("inf"), task).amax(1)  # (P,)
    return high - low <= slack(task).squeeze(1)


def effective_alpha(
    alpha: float, combined: Tensor, scaling: str, *, std_floor: float = 0.0, decoupled: bool = False
) -> float:
    """Computes the advantage that one unit of credit buys: alpha over the std that the credit is divided by.

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
    # At the magnitude of the rewards, which centring takes away.
    noise = slack(combined.reshape(shape))  # (P, 1) or (1, 1)
    if scaling == "centred":
        combined = combined - combined.nanmean(1, keepdim=True)  # (P, G)
    spread = scored_std(combined.reshape(shape), 1)  # (P, 1) or (1, 1)
    return (alpha / (spread[spread > noise].clamp_min(std_floor) + EPSILON)).mean().item()


def mean_error(task: Tensor) -> float:
    """Estimates the standard error of a batch's mean task reward; prompts are the independent draws.

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
    """Computes the unbiased standard deviation along a dimension, NaN left out.

    Args:
        values: any shape.
        dim: the dimension.

    Returns:
        the same shape with that dimension of length 1; 0 where there are fewer than two numbers.
    """
    n = (~values.isnan()).sum(dim, keepdim=True)
    square = (values - values.nanmean(dim, keepdim=True)).square().nansum(dim, keepdim=True)
    return (square / (n - 1).clamp_min(1)).sqrt()


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes generalised advantage estimates and the returns that values are fitted to.

    Time runs along the last axis; V_t is the value of the state *before* token t is drawn. Columns outside the mask
    (padding, tokens of a tool) are no steps: the token before a gap looks at the value behind it.

    With δ_t = r_t + γ·V_{t+1} − V_t over the steps of a row, A_t = δ_t + γλ·A_{t+1} and the return is A_t + V_t. Behind
    the last step A is 0 and V is `bootstrap`. λ = 1 gives the Monte-Carlo return less the value, λ = 0 gives δ_t.

    Args:
        rewards: (N, T) reward of each token.
        values: (N, T) value of the state before each token.
        mask: (N, T), non-zero on steps; what stands elsewhere in rewards and values is not read.
        gamma: discount γ in [0, 1].
        lam: λ in [0, 1].
        bootstrap: (N,) value of the state behind the last step; 0, an ended response, where not given.

    Returns:
        Advantages (N, T) and returns (N, T), zero outside the mask, in the wider type of rewards and values and at
        least float32.

    Raises:
        NonFiniteError: NaN or infinity on a step or in the bootstrap; names the row.

    Source: Schulman et al., arXiv 1506.02438, eq. 16.
    """
    assert rewards.shape == values.shape == mask.shape
    dtype = torch.promote_types(torch.promote_types(rewards.dtype, values.dtype), torch.float32)
    step = mask.bool()  # (N, T)
    rewards, values = (x.detach().to(dtype).masked_fill(~step, 0) for x in (rewards, values))  # (N, T) each
    after = values.new_zeros(len(values)) if bootstrap is None else bootstrap.detach().to(dtype)  # (N,)
    for name, tensor in (("rewards", rewards), ("values", values), ("bootstrap", after)):
        bad = (~tensor.isfinite()).nonzero()  # (entries, dimensions)
        if len(bad):
            raise NonFiniteError(
                f"gae needs finite {name}, row {bad[0, 0]} of {len(tensor)} holds NaN or infinity; check the reward or "
                "lower the learning rate of the critic."
            )
    advantages = torch.zeros_like(values)  # (N, T)
    # A of the step behind.
    carried = torch.zeros_like(after)  # (N,)
    for t in reversed(range(values.shape[1])):
        here = step[:, t]  # (N,)
        delta = rewards[:, t] + gamma * after - values[:, t]  # (N,)
        carried = torch.where(here, delta + gamma * lam * carried, carried)
        after = torch.where(here, values[:, t], after)
        advantages[:, t] = carried * here
    return advantages, (advantages + values).masked_fill(~step, 0)


def clipped_value_error(
    values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """Computes half the squared error of each value, and where clipping took its gradient away.

    ½·max((V − R)², (V_clip − R)²) with V_clip = V_old + clamp(V − V_old, −clip, clip): a value that has moved further
    than `clip` towards its return since the rollout is left where it is.

    Args:
        values: (N, T) with gradient.
        old_values: (N, T) values at the time of the rollout.
        returns: (N, T) targets.
        clip: half-width of the range in reward units, > 0; None clips nothing.

    Returns:
        (N, T) error in reward units squared, and (N, T) bool, True where the error has no gradient.

    Source: Schulman et al., arXiv 1707.06347 and its reference implementation.
    """
    error = (values - returns).square()  # (N, T)
    if clip is None:
        return error / 2, torch.zeros_like(error, dtype=torch.bool)
    # Within the range rounding alone could make one error the larger.
    far = (values - old_values).abs() > clip  # (N, T)
    near = torch.where(far, old_values + (values - old_values).clamp(-clip, clip), values)  # (N, T)
    clipped = (near - returns).square()  # (N, T)
    return torch.maximum(error, clipped) / 2, clipped > error


def explained_variance(count: Tensor, moments: Tensor) -> Tensor:
    """Computes the share of the returns' variance that the values explain: 1 − Var(R − V) / Var(R).

    Args:
        count: () number of tokens.
        moments: (4,) sums over them of R, R², R − V and (R − V)².

    Returns:
        () at most 1; 0 for values that say nothing, negative for worse, NaN where the returns do not vary.
    """
    mean, square, error_mean, error_square = moments / count.clamp(min=1)  # () each
    variance = square - mean**2  # ()
    explained = 1 - (error_square - error_mean**2) / variance  # ()
    return explained.masked_fill(variance <= 1e-12 * square, torch.nan)
