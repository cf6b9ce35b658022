"""Advantages and value targets of PPO on padded rows of tokens: GAE(γ, λ), the clipped value error, explained variance.

Time runs along the last axis; V_t is the value of the state *before* token t is drawn. Columns outside the mask
(padding, tokens of a tool) are no steps: the recursion passes over them, so that the token before a gap looks at the
value behind it.
"""

import torch
from torch import Tensor

from dqo.errors import DQOError, NonFiniteError


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns that values are fitted to.

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
        DQOError: γ or λ outside [0, 1], or shapes that differ.
        NonFiniteError: NaN or infinity on a step or in the bootstrap; names the row.

    Source: Schulman et al., arXiv 1506.02438, eq. 16.
    """
    for name, value in (("gamma", gamma), ("lam", lam)):
        if not 0 <= value <= 1:
            raise DQOError(f"gae needs `{name}` in [0, 1], got {value!r}; change it.")
    if not rewards.shape == values.shape == mask.shape or rewards.dim() != 2:
        raise DQOError(
            f"gae needs rewards, values and mask of one shape (N, T), got {tuple(rewards.shape)}, "
            f"{tuple(values.shape)} and {tuple(mask.shape)}; pad them alike."
        )
    dtype = torch.promote_types(torch.promote_types(rewards.dtype, values.dtype), torch.float32)
    step = mask.bool()  # (N, T)
    rewards, values = (x.detach().to(dtype).masked_fill(~step, 0) for x in (rewards, values))  # (N, T) each
    after = values.new_zeros(len(values)) if bootstrap is None else bootstrap.detach().to(dtype)  # (N,)
    _check_finite(rewards, values, after)
    advantages = torch.zeros_like(values)  # (N, T)
    carried = torch.zeros_like(after)  # (N,) A of the step behind
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
    """Half the squared error of each value, and where clipping took its gradient away.

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
    far = (values - old_values).abs() > clip  # (N, T); within, rounding alone could make one error the larger
    near = torch.where(far, old_values + (values - old_values).clamp(-clip, clip), values)  # (N, T)
    clipped = (near - returns).square()  # (N, T)
    return torch.maximum(error, clipped) / 2, clipped > error


def explained_variance(count: Tensor, moments: Tensor) -> Tensor:
    """Share of the returns' variance that the values explain: 1 − Var(R − V) / Var(R).

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


def _check_finite(rewards: Tensor, values: Tensor, bootstrap: Tensor) -> None:
    for name, tensor in (("rewards", rewards), ("values", values), ("bootstrap", bootstrap)):
        bad = ~torch.isfinite(tensor)  # (N, T), or (N,) of bootstrap
        if bad.any():
            row = int(bad.nonzero()[0, 0])
            raise NonFiniteError(
                f"gae needs finite {name}, row {row} of {len(tensor)} holds NaN or infinity; check the reward or lower "
                "the learning rate of the critic."
            )
