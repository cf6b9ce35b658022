"""Diversity of meaning: how the embeddings of one prompt's responses are spread.

The numbers come from `dqo.core`; here they take whatever holds rows (tensor, array, list) and return a float. One
convention in all of them: a zero row is an empty response and adds no diversity. At similarity 0 to everything it would
otherwise count as the most different response of all. Of no response at all, what counts is 0 and what averages is NaN.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dqo.core import cosine_distance, cosine_kernel, log_volume, vendi
from dqo.errors import DQOError


def vendi_score(E: Tensor | Sequence, q: float = 1.0) -> float:
    """Vendi score of order q: the effective number of different responses, exp of the Rényi entropy of spec(K/n).

    With eigenvalues l_i of K/n, K the cosine kernel of the n non-zero rows: exp(-Σ l log l) at q = 1,
    exp(log(Σ l^q) / (1 - q)) otherwise, the rank of K at q = 0 and 1/max(l) at q = inf. Small q counts rare modes,
    large q the dominant ones; the score never rises with q.

    Args:
        E: (G, D) embeddings as tensor, array or list of rows; rows are normalised here.
        q: Order, from 0 to infinity.

    Returns:
        Effective number of responses in [1, G]; 0.0 where there is no non-zero row.

    Raises:
        DQOError: If q is negative or NaN, or E is not a matrix.
        NonFiniteError: If E holds NaN or infinity; names the row.

    Source: docs/math.md eq. 6.1. The unmaintained package Vendi-Score 0.0.3 ignores q for embeddings.
    """
    return float(vendi(cosine_kernel(as_matrix(E)), q))


def mean_cosine_distance(E: Tensor | Sequence) -> float:
    """Mean of 1 - cosine similarity over all pairs of responses.

    Blind to clusters: two tight clusters reach two thirds of an orthogonal group's distance at G = 4. The Vendi score
    and the volume tell them apart.

    Args:
        E: (G, D) embeddings as tensor, array or list of rows; rows are normalised here.

    Returns:
        A number in [0, 2]; 0.0 for one non-zero row, NaN where there is none.

    Raises:
        DQOError: If E is not a matrix.
        NonFiniteError: If E holds NaN or infinity; names the row.

    Source: docs/math.md eq. 6.2.
    """
    return float(cosine_distance(cosine_kernel(as_matrix(E))).clamp_min(0.0))  # copies differ in the last bit


def group_log_volume(E: Tensor | Sequence, ridge: float = 1.0) -> float:
    """Regularised log-volume of one group under the cosine kernel: the trained quantity, `dqo.core.log_volume`.

    Args:
        E: (G, D) embeddings as tensor, array or list of rows; rows are normalised here.
        ridge: Regularisation strength above 0; 1 in the paper.

    Returns:
        Nats; for G non-zero rows in [log(1 + G/ridge), G log(1 + 1/ridge)], and 0.0 for none.

    Raises:
        DQOError: If the ridge is not above 0 or E is not a matrix.
        NonFiniteError: If E holds NaN or infinity; names the row.

    Source: docs/math.md eq. 3.1.
    """
    return float(log_volume(cosine_kernel(as_matrix(E)), ridge))


def effective_rank(E: Tensor | Sequence) -> float:
    """Effective rank: exp of the entropy of the singular values of the normalised rows, divided by their sum.

    `vendi_score` at q = 1 is the same with *squared* singular values, so it is smaller and weighs rare directions
    less; the two are equal where all values are.

    Args:
        E: (G, D) embeddings as tensor, array or list of rows; rows are normalised here.

    Returns:
        Effective number of directions in [1, min(G, D)]; 0.0 where there is no non-zero row.

    Raises:
        DQOError: If E is not a matrix.
        NonFiniteError: If E holds NaN or infinity; names the row.

    Source: Roy and Vetterli 2007, "The effective rank".
    """
    return float(_effective_rank(cosine_kernel(as_matrix(E))))


def geometry(E: Tensor) -> dict[str, Tensor]:
    """The measures of this module for many groups of one size at once: one kernel serves all of them.

    Args:
        E: (P, G, D) embeddings.

    Returns:
        Metric name -> (P,) float64, the numbers that the functions above give for each group.

    Raises:
        NonFiniteError: If E holds NaN or infinity; names the row.
    """
    L = cosine_kernel(E)  # (P, G, G)
    return {
        "cosine_distance": cosine_distance(L).clamp_min(0.0),
        "vendi_1": vendi(L, 1.0),
        "vendi_2": vendi(L, 2.0),
        "vendi_inf": vendi(L, float("inf")),
        "effective_rank": _effective_rank(L),
        "log_volume": log_volume(L),
    }


def _effective_rank(L: Tensor) -> Tensor:
    trace = L.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)  # (..., 1)
    values = torch.linalg.eigvalsh(L).clamp_min(0.0)  # (..., G)
    # As in `dqo.core.vendi`: rounding leaves eigenvalues of 1e-16, whose square root would count as a direction.
    values = values.masked_fill(values < 1e-12 * trace, 0.0).sqrt()  # (..., G)
    total = values.sum(-1, keepdim=True)  # (..., 1)
    shares = values / total.masked_fill(total <= 0, 1.0)  # (..., G)
    return torch.exp(-torch.xlogy(shares, shares).sum(-1)).masked_fill(total.squeeze(-1) <= 0, 0.0)


def as_matrix(E: Tensor | Sequence) -> Tensor:
    """Embeddings as a (G, D) float64 tensor, from whatever holds G rows of D numbers."""
    try:
        if not isinstance(E, Tensor):
            rows = [torch.as_tensor(row, dtype=torch.float64) for row in E]  # G x (D,)
            E = torch.stack(rows) if rows else torch.zeros(0, 1)  # (G, D)
        E = E.detach().to(torch.float64)  # (G, D)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DQOError(f"Embeddings must be G rows of D numbers each, got what torch cannot stack: {error}.") from error
    if E.dim() != 2:
        raise DQOError(f"Embeddings of one group must have shape (G, D), got {tuple(E.shape)}; pass one group.")
    return E
