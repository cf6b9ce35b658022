"""Exact objective and its optimum on a response set small enough to list: the oracle the estimators are tested against.

M responses make K = M^G ordered groups. A policy is a vector of K log-probabilities: a product policy (G independent
draws, what a language model samples) or a joint one (any distribution over groups). Both meet in `exact_objective`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dqo.core.volume import log_volume
from dqo.errors import DQOError, NonFiniteError

MAX_GROUPS = 2**20
_CHUNK = 2**16


def enumerate_groups(n_responses: int, group_size: int) -> Tensor:
    """All ordered groups of G responses drawn with replacement from M.

    Args:
        n_responses: number M of responses, at least 1.
        group_size: responses G a group, at least 1.

    Returns:
        (K, G) int64 response numbers, K = M^G, in lexicographic order.

    Raises:
        DQOError: M or G below 1, or more than MAX_GROUPS groups.

    Source: docs/math.md section 5.
    """
    if n_responses < 1 or group_size < 1:
        raise DQOError(
            f"Listing groups needs M >= 1 responses and G >= 1, got M={n_responses} and G={group_size}; raise them."
        )
    if n_responses**group_size > MAX_GROUPS:
        raise DQOError(
            f"The exact objective lists all M^G groups, at most {MAX_GROUPS}, got M={n_responses} and G={group_size}, "
            f"which make {n_responses**group_size}; use fewer responses or smaller groups."
        )
    axes = [torch.arange(n_responses)] * group_size
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, group_size)  # (K, G)


def group_payoff(groups: Tensor, reward: Tensor, L: Tensor, alpha: float, ridge: float = 1.0) -> Tensor:
    """What a group is worth before the KL penalty: sum of its rewards plus alpha times its log-volume.

    Args:
        groups: (K, G) response numbers.
        reward: (M,) reward of each response.
        L: (M, M) kernel matrix of all responses; weight it first (weight_kernel) for a gate or quality weights.
        alpha: weight of the log-volume, in reward units per nat.
        ridge: regularisation strength > 0 of the volume.

    Returns:
        (K,) float64, sum_i r(y_i) + alpha * V(y_1..y_G).

    Source: docs/math.md eq. 1.2.
    """
    volume = torch.cat(
        [log_volume(L[g.unsqueeze(-1), g.unsqueeze(-2)], ridge) for g in groups.split(_CHUNK)]  # g: (K', G)
    )  # (K,)
    return reward.to(torch.float64)[groups].sum(dim=-1) + alpha * volume


def product_log_prob(logits: Tensor, groups: Tensor) -> Tensor:
    """Log-probability of each group under G independent draws from one tabular softmax policy.

    Args:
        logits: (M,) policy parameters.
        groups: (K, G) response numbers.

    Returns:
        (K,) float64, differentiable in logits; sums to 1 over all groups after exp.

    Source: docs/math.md eq. 1.1.
    """
    return logits.to(torch.float64).log_softmax(dim=-1)[groups].sum(dim=-1)


def exact_objective(log_p: Tensor, payoff: Tensor, log_ref: Tensor, beta: float) -> Tensor:
    """Exact value J = E_p[payoff] - beta * KL(p | p_ref) of a policy over groups.

    The KL is taken over the whole group; for product policies it is G times the KL of one response.

    Args:
        log_p: (K,) log-probabilities of the policy, product or joint.
        payoff: (K,) worth of each group, see group_payoff.
        log_ref: (K,) log-probabilities of the reference over groups, usually product_log_prob(reference logits).
        beta: weight of the KL, >= 0.

    Returns:
        () float64, differentiable in log_p.

    Raises:
        NonFiniteError: log_p, payoff or log_ref is not finite; names the group.

    Source: docs/math.md eq. 1.2.
    """
    for name, values in (("log_p", log_p), ("payoff", payoff), ("log_ref", log_ref)):
        if not torch.isfinite(values).all():
            group = (~torch.isfinite(values)).nonzero()[0].item()
            raise NonFiniteError(
                f"The exact objective needs finite numbers, `{name}` of group {group} is {values[group].item()}; give "
                "every group a positive probability and a finite payoff."
            )
    return (log_p.exp() * (payoff - beta * (log_p - log_ref))).sum()


def joint_optimum(payoff: Tensor, log_ref: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Best of all joint policies: p*(y_1..y_G) proportional to p_ref(y_1..y_G) exp(payoff / beta).

    With the raw determinant as volume and alpha = beta it is a k-DPP over sets of G different responses. The best
    product policy is worth less, unless the payoff is a sum over responses (alpha = 0, or a constant volume).

    Args:
        payoff: (K,) worth of each group; -inf forbids a group (the raw log-determinant of two equal responses).
        log_ref: (K,) log-probabilities of the reference over groups.
        beta: weight of the KL, > 0.

    Returns:
        (K,) float64 log-probabilities and the () objective they reach, beta * log sum p_ref exp(payoff / beta).

    Raises:
        DQOError: beta is not above 0; without a KL the optimum is any mixture of the best groups.

    Source: docs/math.md eq. 5.6 and 5.7; k-DPP 5.8.
    """
    if not beta > 0:
        raise DQOError(f"The joint optimum needs `beta` above 0, got {beta!r}; without a KL it is not unique.")
    score = log_ref.to(torch.float64) + payoff / beta  # (K,)
    log_sum = score.logsumexp(dim=-1)  # ()
    return score - log_sum, beta * log_sum


def ascend(objective: Callable[[Tensor], Tensor], start: Tensor, steps: int = 500) -> tuple[Tensor, Tensor]:
    """Numerical ascent of an exact objective by L-BFGS with line search, for checking formulas against.

    Args:
        objective: maps parameters of start's shape to a () value to be raised.
        start: initial parameters; logits over the M responses (product policies) or over the K groups (joint ones).
        steps: most L-BFGS iterations.

    Returns:
        the parameters reached (start's shape, float64, detached) and the () value there. Over product policies the
        objective is not concave: this is a local maximum, reached from start.
    """
    x = start.detach().to(torch.float64).clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=steps,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -objective(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    return x.detach(), objective(x.detach())
