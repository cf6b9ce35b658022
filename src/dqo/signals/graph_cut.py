"""DRA: a reward divided by how much its response overlaps with the group (graph-cut mutual information)."""

import torch
from torch import Tensor


def graph_cut_share(L: Tensor) -> Tensor:
    """1 / (1 + sum_{j != i} max(0, s_ij)): what response i keeps of its reward.

    Negative similarities count as 0; the published sum can reach 0 or pass it, and the weight then explodes or flips.

    Args:
        L: (..., G, G) cosine kernel; a row of zero diagonal is empty or left out.

    Returns:
        (..., G) float64 in [1/G, 1]; 1 for a response that overlaps with none.

    Source: DRA-GRPO, arXiv 2505.09655; docs/signals.md "graph_cut".
    """
    eye = torch.eye(L.shape[-1], dtype=torch.bool, device=L.device)  # (G, G)
    overlap = L.double().clamp_min(0.0).masked_fill(eye, 0.0).sum(-1)  # (..., G)
    return 1.0 / (1.0 + overlap)
