"""Groups of embeddings of every awkward kind, and a determinant oracle that shares no code with the library."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

KINDS = ("random", "duplicated", "clustered", "zero_rows", "more_rows_than_width")


def make_embeddings(kind: str, seed: int, P: int = 3, G: int = 6, D: int = 8) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    E = torch.randn(P, G, D, generator=gen, dtype=torch.float64)  # (P, G, D)
    if kind == "duplicated":
        E[:, 1], E[:, 4] = E[:, 0], -E[:, 0]
    elif kind == "clustered":
        centres = E[:, :2].repeat_interleave(G // 2, dim=1)  # (P, G, D)
        E = centres + 1e-6 * torch.randn(P, G, D, generator=gen, dtype=torch.float64)
    elif kind == "zero_rows":
        E[:, 2] = 0.0
        E[0, 5] = 0.0
        E[1] = 0.0
    elif kind == "more_rows_than_width":
        E = E[..., :2]
    return E


def deleted_row_credit(L: Tensor, ridge: float) -> Tensor:
    """(G,) V - V without i, from determinants of explicitly deleted matrices."""

    def volume(keep: list[int]) -> Tensor:
        K = L[keep][:, keep]
        return torch.linalg.slogdet(torch.eye(len(keep), dtype=torch.float64) + K / ridge).logabsdet

    G = L.shape[-1]
    everyone = list(range(G))
    return torch.stack([volume(everyone) - volume([j for j in everyone if j != i]) for i in everyone])


@pytest.fixture(scope="session")
def embeddings() -> Callable[..., Tensor]:
    return make_embeddings


@pytest.fixture(scope="session")
def oracle_credit() -> Callable[[Tensor, float], Tensor]:
    return deleted_row_credit


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param
