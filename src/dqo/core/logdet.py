"""Regularised volume of a group and the leave-one-out credit of each response, in float64.

Convention everywhere: A = I + L/ridge, never L + ridge*I (the two differ by log ridge per response).
"""

import torch
from torch import Tensor

from dqo.core.rounding import slack
from dqo.errors import DQOError, NonFiniteError, NotPSDError

_SYMMETRY_TOLERANCE = 1e-8


def log_volume(L: Tensor, ridge: float = 1.0) -> Tensor:
    """Regularised log-volume V = log det(I + L/ridge) of each group.

    Args:
        L: (..., G, G) symmetric positive semi-definite kernel matrix of any float dtype.
        ridge: regularisation strength > 0; 1 in the paper.

    Returns:
        (...,) float64 in nats, >= 0 and always finite; 0 for a group of none or of empty responses only. For unit
        diagonals it lies in [log(1 + G/ridge), G log(1 + 1/ridge)]: copies at the low end, orthogonal at the high.

    Raises:
        DQOError: ridge is not a finite number above 0, or L is not square.
        NotPSDError: L is not symmetric or A is not positive definite; the message names the group.
        NonFiniteError: L holds NaN or infinity.

    Source: docs/math.md eq. 3.1.
    """
    C = _factor(L, ridge)  # (..., G, G)
    return 2.0 * C.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)  # (...,)


def leave_one_out(L: Tensor, ridge: float = 1.0) -> Tensor:
    """Log-volume each response adds to its group: c_i = V(y_1..y_G) - V(y_-i) = -log (A^-1)_ii.

    All G credits of a group come from one Cholesky factorisation: with A = C C^T, (A^-1)_ii is the squared norm of
    column i of C^-1. The sum of the credits never exceeds V, with equality for an orthogonal group.

    Args:
        L: (..., G, G) symmetric positive semi-definite kernel matrix of any float dtype.
        ridge: regularisation strength > 0; 1 in the paper.

    Returns:
        (..., G) float64 in nats. Zero rows earn exactly 0; for unit diagonals each credit lies in
        [log((ridge+n)/(ridge+n-1)), log(1+1/ridge)], n the number of non-empty rows (see credit_range).

    Raises:
        DQOError: ridge is not a finite number above 0, or L is not square.
        NotPSDError: L is not symmetric or A is not positive definite; the message names the group.
        NonFiniteError: L holds NaN or infinity.

    Source: docs/math.md eq. 3.2 (the paper's log[det(L+I)/det(L_-i+I)] at ridge 1).
    """
    C = _factor(L, ridge)  # (..., G, G)
    eye = torch.eye(C.shape[-1], dtype=C.dtype, device=C.device).expand_as(C)  # (..., G, G)
    C_inverse = torch.linalg.solve_triangular(C, eye, upper=False)  # (..., G, G)
    # A credit is never negative; clamping removes the -1e-17 that rounding leaves on a zero row's neighbours.
    return -C_inverse.square().sum(dim=-2).log().clamp_max(0.0)  # (..., G)


def check_ridge(ridge: float) -> None:
    """Refuse a ridge that is not a finite number above 0."""
    if isinstance(ridge, bool) or not isinstance(ridge, (int, float)) or not (0.0 < ridge < float("inf")):
        raise DQOError(
            f"`ridge` must be a finite number above 0, got {ridge!r}; the paper uses 1.0, and 0 would give -inf for "
            "any two equal responses."
        )


def _factor(L: Tensor, ridge: float) -> Tensor:
    """Lower Cholesky factor of A = I + L/ridge, after the checks that keep a silent number from coming out."""
    check_ridge(ridge)
    if L.dim() < 2 or L.shape[-1] != L.shape[-2] or not L.is_floating_point():
        raise DQOError(
            f"A kernel matrix must be a floating-point tensor of shape (..., G, G), got {L.dtype} of shape "
            f"{tuple(L.shape)}; pass the output of a kernel."
        )
    # A batched product E E^T in float32 is symmetric only up to a few of its own last bits.
    relative = max(_SYMMETRY_TOLERANCE, 16.0 * torch.finfo(L.dtype).eps)
    L = L.to(torch.float64)  # (..., G, G)
    _check_each(
        torch.isfinite(L).flatten(-2).all(dim=-1),
        NonFiniteError,
        "holds NaN or infinity; check the embeddings and quality weights it was made from",
    )
    tolerance = slack(L.flatten(-2), relative).squeeze(-1) if L.shape[-1] else torch.tensor(1.0)  # (...,)
    asymmetry = (L - L.mT).abs().flatten(-2).amax(dim=-1) if L.shape[-1] else torch.tensor(0.0)
    # Cholesky reads one triangle only: an asymmetric matrix would give a number, and a wrong one.
    _check_each(asymmetry <= tolerance, NotPSDError, "is not symmetric; pass a kernel matrix, not a cross-similarity")
    A = L / ridge + torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)  # (..., G, G)
    C, info = torch.linalg.cholesky_ex(A)  # (..., G, G), (...,)
    _check_each(
        info == 0,
        NotPSDError,
        f"gives an I + L/{ridge:g} that is not positive definite; use a positive semi-definite kernel or raise `ridge`",
    )
    return C


def _check_each(ok: Tensor, error: type[DQOError], problem: str) -> None:
    """Raise the error for the first group that is not ok, naming it by its index."""
    if not bool(ok.all()):
        index = tuple((~ok).nonzero()[0].tolist())
        name = (
            "the kernel matrix" if not index else f"the kernel matrix of group {index[0] if len(index) == 1 else index}"
        )
        raise error(f"Expected a finite, symmetric, positive semi-definite kernel, but {name} {problem}.")
