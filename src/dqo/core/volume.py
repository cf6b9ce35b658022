"""Regularised volume of a group and the leave-one-out credit of each response, in float64.

Convention everywhere: A = I + L/ridge, never L + ridge*I (the two differ by log ridge per response).
"""

import math

import torch
from torch import Tensor

from dqo.core.groups import slack
from dqo.errors import DQOError, NonFiniteError, NotPSDError, check_choice

_SYMMETRY_TOLERANCE = 1e-8


def log_volume(L: Tensor, ridge: float = 1.0) -> Tensor:
    """Computes the regularised log-volume V = log det(I + L/ridge) of each group.

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
    """Computes the log-volume that each response adds to its group: c_i = V(y_1..y_G) - V(y_-i) = -log (A^-1)_ii.

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
    """Refuses a ridge that is not a finite number above 0."""
    if not 0.0 < ridge < float("inf"):
        raise DQOError(f"`ridge` must be a finite number above 0, got {ridge!r}; the paper uses 1.0.")


def _factor(L: Tensor, ridge: float) -> Tensor:
    """Lower Cholesky factor of A = I + L/ridge, after the checks that keep a silent number from coming out."""
    check_ridge(ridge)
    if L.dim() < 2 or L.shape[-1] != L.shape[-2]:
        raise DQOError(f"A kernel matrix must have shape (..., G, G), got {tuple(L.shape)}; pass that of a kernel.")
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
    """Raises the error for the first group that is not ok, naming it by its index."""
    if not bool(ok.all()):
        which = f"that of group {(~ok).nonzero()[0].tolist()}" if ok.dim() else "this one"
        raise error(f"Expected a finite, symmetric, positive semi-definite kernel, but {which} {problem}.")


# Nats are the paper's unit; the other is a share of the credit's range.
CREDIT_SCALES = ("nats", "unit")


def credit_range(n: int, ridge: float = 1.0) -> tuple[float, float]:
    """Computes the tight range of the credit in a group of n unit-diagonal responses.

    Args:
        n: number of non-empty responses, at least 1.
        ridge: regularisation strength > 0.

    Returns:
        (low, high) in nats: low = log((ridge+n)/(ridge+n-1)) is reached by n copies, high = log(1+1/ridge) by a
        response orthogonal to all others. Equal at n = 1. (The paper's lemma states the looser [0, log(1+n)].)

    Raises:
        DQOError: ridge is not a finite number above 0.

    Source: docs/math.md eq. 3.4.
    """
    check_ridge(ridge)
    return math.log1p(1.0 / (ridge + n - 1.0)), math.log1p(1.0 / ridge)


def scale_credit(credit: Tensor, scale: str, *, filled: Tensor, ridge: float = 1.0, weighted: bool = False) -> Tensor:
    """Converts credits in nats to the asked unit.

    "nats" returns it as it is. "unit" maps the range of a group with n non-empty rows to [0, 1]:
    u = max(0, (c - low)/(high - low)), and u = 1 at n = 1; for the quality-weighted volume, whose low end is 0,
    u = c/high. So one alpha can mean the same at different group sizes. Both keep the order of credits in a group.

    Args:
        credit: (..., G) credits in nats of a unit-diagonal kernel (cosine or gaussian).
        scale: "nats" or "unit".
        filled: (..., G) bool, True where the response is not empty and takes part.
        ridge: the ridge the credit was computed with.
        weighted: True for credits of the quality-weighted volume.

    Returns:
        (..., G) float64; nats, or a share in [0, 1] with 0 for empty rows.

    Raises:
        DQOError: unknown scale.

    Source: docs/math.md eq. 3.5.
    """
    check_choice("credit_scale", scale, CREDIT_SCALES)
    credit = credit.to(torch.float64)  # (..., G)
    if scale == "nats":
        return credit
    check_ridge(ridge)
    high = math.log1p(1.0 / ridge)
    if weighted:
        return credit / high
    n = filled.sum(dim=-1, keepdim=True).to(torch.float64)  # (..., 1)
    low = torch.log1p(1.0 / (ridge + n - 1.0).clamp_min(ridge))  # (..., 1)
    spread = (high - low).masked_fill(n <= 1, 1.0)  # (..., 1)
    share = ((credit - low) / spread).clamp_min(0.0)  # (..., G)
    alone = filled & (n == 1)  # (..., G)
    return share.masked_fill(alone, 1.0) * filled


def vendi(L: Tensor, q: float = 1.0) -> Tensor:
    """Computes the Vendi score of order q: exponential of the Renyi entropy of the eigenvalues of L / trace(L).

    For q = 1 this is exp(-sum lambda log lambda); q = inf is 1/lambda_max; q = 0 counts non-zero eigenvalues. Zero
    rows (empty responses) add zero eigenvalues and nothing to the trace, so they do not count.

    Args:
        L: (..., G, G) positive semi-definite kernel matrix.
        q: order >= 0; small q stresses rare modes, large q common ones.

    Returns:
        (...,) float64, the effective number of different responses: 1 for copies, n for n orthogonal ones, 0 for a
        group without a non-empty response.

    Raises:
        DQOError: q is negative or NaN.

    Source: docs/math.md eq. 6.1 (Friedman and Dieng 2023; Pasarkar and Dieng 2024 for q).
    """
    if not q >= 0:
        raise DQOError(f"The order `q` of a Vendi score must be >= 0, got {q!r}; 1 is the usual one.")
    return effective_number(spectrum(L), q) if L.shape[-1] else L.new_zeros(L.shape[:-2], dtype=torch.float64)


def spectrum(L: Tensor) -> Tensor:
    """Computes the eigenvalues of L / trace(L), (..., G, G) -> (..., G) float64, all 0 for a group of zero rows."""
    L = L.to(torch.float64)  # (..., G, G)
    trace = L.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)  # (..., 1)
    shares = torch.linalg.eigvalsh(L).clamp_min(0.0) / trace.masked_fill(trace <= 0, 1.0)  # (..., G)
    # Rounding, which a small q would count as a mode.
    return shares.masked_fill((shares < 1e-12) | (trace <= 0), 0.0)


def effective_number(shares: Tensor, q: float) -> Tensor:
    """Computes the exponential of the Renyi entropy of order q of shares, (..., G) -> (...,); 0 where all are 0."""
    empty = shares.sum(-1) <= 0  # (...,)
    # Close to 1 the general formula loses its digits to cancellation; its limit is exact to 1e-8 there.
    if abs(q - 1.0) < 1e-8:
        score = torch.exp(-torch.xlogy(shares, shares).sum(-1))  # (...,)
    elif q == float("inf"):
        score = 1.0 / shares.norm(float("inf"), dim=-1).masked_fill(empty, 1.0)  # (...,)
    elif q == 0:
        score = (shares > 0).sum(-1).to(torch.float64)  # (...,)
    else:
        score = torch.exp(torch.logsumexp(q * shares.log(), dim=-1) / (1.0 - q))  # (...,) in logs: powers underflow
    return score.masked_fill(empty, 0.0)


def cosine_distance(L: Tensor) -> Tensor:
    """Computes the mean of 1 - cos over the pairs of non-empty responses of a group.

    Args:
        L: (..., G, G) cosine kernel; rows with a zero diagonal are empty and left out.

    Returns:
        (...,) float64 in [0, G/(G-1)]; 0 where one response is non-empty, NaN where none is.

    Source: docs/math.md eq. 6.2.
    """
    L = L.to(torch.float64)  # (..., G, G)
    filled = (L.diagonal(dim1=-2, dim2=-1) > 0).to(L.dtype)  # (..., G)
    pairs = filled.unsqueeze(-1) * filled.unsqueeze(-2)  # (..., G, G)
    pairs = pairs - torch.diag_embed(filled)  # (..., G, G)
    count = pairs.sum((-2, -1))  # (...,)
    distance = ((1.0 - L) * pairs).sum((-2, -1)) / count.clamp_min(1.0)  # (...,)
    return distance.masked_fill(filled.sum(-1) < 1, torch.nan)
