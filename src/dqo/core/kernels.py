"""Kernel matrices of a group's embeddings: (..., G, D) -> (..., G, G) float64, positive semi-definite by construction.

In all of them a zero row (an empty response) has kernel row, column *and* diagonal 0: it spans nothing and earns
nothing. Otherwise a Gaussian kernel would put it far from everything and pay it the most. Formulas: docs/math.md
section 2.
"""

import warnings

import torch
from torch import Tensor

from dqo.errors import DQOError, NonFiniteError, check_choice

KERNELS = ("cosine", "gaussian", "linear")
_NORM_TOLERANCE = 1e-3


def cosine_kernel(E: Tensor) -> Tensor:
    """Computes the Gram matrix of the normalised rows: L_ij = <e_i, e_j> / (|e_i| |e_j|).

    Args:
        E: (..., G, D) embeddings of any float dtype; rows need not have unit length.

    Returns:
        (..., G, G) float64 in [-1, 1] with unit diagonal, 0 in the rows and columns of zero rows.

    Raises:
        NonFiniteError: E holds NaN or infinity; the message names the row.

    Source: docs/math.md eq. 2.1. This is the paper's matrix for normalised embeddings and the default kernel.
    """
    U, _ = _unit_rows(E)  # (..., G, D)
    return _symmetric(U @ U.mT)


def gaussian_kernel(E: Tensor, sigma: float) -> Tensor:
    """Computes the Gaussian kernel of the normalised rows: L_ij = exp(-|e_i - e_j|^2 / (2 sigma^2)).

    Args:
        E: (..., G, D) embeddings of any float dtype; rows are normalised first.
        sigma: bandwidth > 0, in distance between unit vectors (0 to 2). It is never fitted to a group, because a
            bandwidth that follows the group's own distances makes a collapsed group look diverse.

    Returns:
        (..., G, G) float64 in [0, 1] with unit diagonal, 0 in the rows and columns of zero rows.

    Raises:
        DQOError: sigma is not a finite number above 0.
        NonFiniteError: E holds NaN or infinity; the message names the row.

    Source: docs/math.md eq. 2.2.
    """
    check_kernel("gaussian", sigma)
    U, filled = _unit_rows(E)  # (..., G, D), (..., G)
    # Differences rather than 2 - 2<e_i, e_j>: exactly 0 between copies, whatever sigma divides it by.
    squared_distance = torch.cdist(U, U, compute_mode="donot_use_mm_for_euclid_dist").square()  # (..., G, G)
    L = torch.exp(-squared_distance / (2.0 * sigma**2))  # (..., G, G)
    present = filled.to(L.dtype)  # (..., G)
    return _symmetric(L * present.unsqueeze(-1) * present.unsqueeze(-2))


def linear_kernel(E: Tensor) -> Tensor:
    """Computes the Gram matrix of the rows as they are: L_ij = <e_i, e_j>.

    Args:
        E: (..., G, D) embeddings of any float dtype.

    Returns:
        (..., G, G) float64; the diagonal holds the squared norms.

    Raises:
        NonFiniteError: E holds NaN or infinity; the message names the row.

    Warns:
        UserWarning: some non-zero row does not have unit length. An orthogonal response of squared norm s earns
            log(1 + s): where the norm follows length, the policy is paid for length.

    Source: docs/math.md eq. 2.3.
    """
    E = _finite(E)  # (..., G, D)
    norms = E.norm(dim=-1)  # (..., G)
    filled = norms > 0
    if filled.any() and ((norms[filled] - 1.0).abs() > _NORM_TOLERANCE).any():
        low, high = norms[filled].min().item(), norms[filled].max().item()
        warnings.warn(
            f"linear_kernel got rows of norm {low:.3g} to {high:.3g}: longer vectors earn more credit whatever their "
            "meaning; normalise the rows or use cosine_kernel.",
            stacklevel=2,
        )
    return _symmetric(E @ E.mT)


def kernel_matrix(E: Tensor, kernel: str = "cosine", sigma: float | None = None) -> Tensor:
    """Computes the kernel matrix of a name.

    Args:
        E: (..., G, D) embeddings.
        kernel: "cosine", "gaussian" or "linear".
        sigma: bandwidth; needed by "gaussian" and refused by the others, where it would do nothing.

    Returns:
        (..., G, G) float64.

    Raises:
        DQOError: unknown kernel, or a sigma that the kernel does not take.
    """
    check_kernel(kernel, sigma)
    if kernel == "gaussian":
        return gaussian_kernel(E, sigma)
    return cosine_kernel(E) if kernel == "cosine" else linear_kernel(E)


def check_kernel(kernel: str, sigma: float | None) -> None:
    """Refuses an unknown kernel, a Gaussian without bandwidth and a bandwidth without a Gaussian."""
    check_choice("kernel", kernel, KERNELS)
    if not 0.0 < (sigma or 0.0) < float("inf") if kernel == "gaussian" else sigma is not None:
        raise DQOError(
            f"kernel='gaussian' needs a finite bandwidth `sigma` above 0, 0.5 to start, and no other kernel has one, "
            f"got sigma={sigma!r} with kernel={kernel!r}; change one of them."
        )


def _finite(E: Tensor) -> Tensor:
    """Embeddings in float64; NaN or infinity is an error that names the row."""
    if E.dim() < 2 or E.shape[-1] == 0:
        raise DQOError(f"Embeddings must have shape (..., G, D) with D >= 1, got {tuple(E.shape)}; stack vectors.")
    bad = ~torch.isfinite(E).all(dim=-1)  # (..., G)
    if bad.any():
        raise NonFiniteError(
            f"Embeddings must be finite, row {bad.nonzero()[0].tolist()} of shape {tuple(E.shape)} holds NaN or "
            "infinity; check the encoder's dtype and that response's text."
        )
    return E.to(torch.float64)


def _unit_rows(E: Tensor) -> tuple[Tensor, Tensor]:
    """Rows scaled to unit length in float64, and which of them were not zero."""
    E = _finite(E)  # (..., G, D)
    # Dividing by the largest entry first keeps the square of a very large or tiny entry inside float64's range.
    peak = E.abs().amax(dim=-1, keepdim=True)  # (..., G, 1)
    filled = peak.squeeze(-1) > 0  # (..., G)
    E = E / peak.masked_fill(peak == 0, 1.0)  # (..., G, D)
    norm = E.norm(dim=-1, keepdim=True)  # (..., G, 1)
    return E / norm.masked_fill(norm == 0, 1.0), filled


def _symmetric(L: Tensor) -> Tensor:
    """Takes away the last-bit asymmetry of a matrix product, so that later checks of symmetry are exact."""
    return 0.5 * (L + L.mT)
