"""DARLING-style partition of a group into same answers, and the share of its reward a response keeps for being rare."""

import torch
from torch import Tensor

from dqo.errors import DQOError

FLOOR = 0.1  # DARLING's clip: a right answer that everybody gives keeps a tenth of its reward


def clusters_by_threshold(L: Tensor, threshold: float) -> Tensor:
    """Clusters of responses whose similarity is at least a threshold, closed transitively.

    Args:
        L: (..., G, G) symmetric kernel with unit diagonal; a row of zero diagonal is empty or left out.
        threshold: similarity in (0, 1] from which two responses are the same answer.

    Returns:
        (..., G) int64, the smallest row number of the response's cluster.

    Raises:
        DQOError: threshold outside (0, 1].
    """
    check_same_threshold(threshold)
    # Copies come out of a matrix product a few last bits below 1.
    return clusters_by_pairs(threshold - 1e-9 <= L)


def check_same_threshold(threshold: float) -> None:
    """DQOError unless the similarity lies in (0, 1]."""
    if not 0.0 < threshold <= 1.0:
        raise DQOError(
            f"`same_threshold` must lie in (0, 1], got {threshold!r}; 0.8 is a start for cosines of all-MiniLM-L6-v2."
        )


def clusters_by_pairs(same: Tensor) -> Tensor:
    """Connected components of a relation: union-find as repeated minima of row numbers.

    Args:
        same: (..., G, G) bool; made symmetric and reflexive here, because a classifier need be neither.

    Returns:
        (..., G) int64, the smallest row number of the response's cluster.
    """
    G = same.shape[-1]
    joined = same | same.mT | torch.eye(G, dtype=torch.bool, device=same.device)  # (..., G, G)
    label = torch.arange(G, device=same.device).expand(same.shape[:-1])  # (..., G)
    while True:
        smallest = torch.where(joined, label.unsqueeze(-2), G).amin(-1)  # (..., G)
        if torch.equal(smallest, label):
            return label
        label = smallest


def partition_share(cluster: Tensor, filled: Tensor) -> Tensor:
    """(n - |cluster(i)|) / (n - 1), at least a tenth: what response i keeps of its reward.

    Args:
        cluster: (..., G) cluster of each response.
        filled: (..., G) bool, True where the response is not empty and takes part.

    Returns:
        (..., G) float64 in [0.1, 1]; 1 for a response that is alone, a tenth for one that takes no part.

    Source: DARLING, arXiv 2509.02534; docs/signals.md "partition".
    """
    pair = (cluster.unsqueeze(-1) == cluster.unsqueeze(-2)) & filled.unsqueeze(-1) & filled.unsqueeze(-2)  # (..., G, G)
    size = pair.sum(-1).double()  # (..., G)
    n = filled.sum(-1, keepdim=True).double()  # (..., 1)
    share = ((n - size) / (n - 1.0).clamp_min(1.0)).clamp_min(FLOOR)  # (..., G)
    return torch.where(n <= 1, 1.0, share).masked_fill(~filled, FLOOR)
