"""The one composition of the method: embeddings -> kernel -> credit -> reward.

Every caller (the plain reward function, the trainers, evaluation) goes through `group_credit` and `shape_reward`,
so that a number means the same wherever it is printed.
"""

from dataclasses import dataclass

from torch import Tensor

from dqo.core import (
    COMBINE_RULES,
    CREDIT_SCALES,
    combine_reward,
    cosine_distance,
    cosine_kernel,
    kernel_matrix,
    leave_one_out,
    log_volume,
    quality_weights,
    scale_credit,
    vendi,
    weight_kernel,
)
from dqo.core.kernels import check_kernel
from dqo.core.logdet import check_ridge
from dqo.errors import DQOError


@dataclass(frozen=True)
class DiversitySpec:
    """What diversity means in a run and how it joins the task reward; checked when made.

    Attributes:
        alpha: weight of the credit against the task reward, >= 0, in reward units per credit unit; 0 is plain RL.
        kernel: "cosine" (the paper's Gram matrix of normalised embeddings), "gaussian" or "linear".
        sigma: bandwidth of the Gaussian kernel, in distance between unit vectors (0 to 2).
        ridge: regularisation strength of I + L/ridge, > 0; 1 in the paper.
        credit_scale: "nats" (the paper's) or "unit" (share of the credit's range, comparable across group sizes).
        combine: "add" (the paper's), "gate", "quality_weighted" or "multiply".
        quality_threshold: lowest task reward that counts as good, in reward units; only for combine="gate".
        quality_center: task reward of weight 1/2 of the sigmoid; only for combine="quality_weighted".
        quality_scale: width > 0 of that sigmoid in reward units; given together with quality_center or not at all.
    """

    alpha: float = 1.0
    kernel: str = "cosine"
    sigma: float | None = None
    ridge: float = 1.0
    credit_scale: str = "nats"
    combine: str = "add"
    quality_threshold: float | None = None
    quality_center: float | None = None
    quality_scale: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)) or not 0 <= self.alpha < 1e9:
            raise DQOError(
                f"`alpha` must be a finite number >= 0, got {self.alpha!r}; 0 trains on the task reward alone."
            )
        check_kernel(self.kernel, self.sigma)
        check_ridge(self.ridge)
        for name, value, allowed in (
            ("credit_scale", self.credit_scale, CREDIT_SCALES),
            ("combine", self.combine, COMBINE_RULES),
        ):
            if value not in allowed:
                raise DQOError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}; choose one of these.")
        if self.credit_scale == "unit" and self.kernel == "linear":
            raise DQOError(
                "credit_scale='unit' needs a kernel with unit diagonal, got kernel='linear', whose credit has no upper "
                "end; use kernel='cosine' or credit_scale='nats'."
            )
        self._check_quality_settings()

    def _check_quality_settings(self) -> None:
        """A setting that would do nothing is refused, and so is half a sigmoid."""
        if (self.combine == "gate") != (self.quality_threshold is not None):
            raise DQOError(
                f"`quality_threshold` belongs to combine='gate', got combine={self.combine!r} with "
                f"quality_threshold={self.quality_threshold!r}; give both or neither."
            )
        sigmoid = (self.quality_center, self.quality_scale)
        if (None in sigmoid) and sigmoid != (None, None):
            raise DQOError(
                f"`quality_center` and `quality_scale` make one sigmoid, got {sigmoid[0]!r} and {sigmoid[1]!r}; "
                "give both or neither."
            )
        if sigmoid != (None, None) and self.combine != "quality_weighted":
            raise DQOError(
                f"`quality_center` and `quality_scale` belong to combine='quality_weighted', got {self.combine!r}; "
                "remove them or change the rule."
            )
        if self.quality_scale is not None and not self.quality_scale > 0:
            raise DQOError(f"`quality_scale` must be above 0, got {self.quality_scale!r}; it is the sigmoid's width.")


@dataclass(frozen=True)
class GroupCredit:
    """Credit of each response and the diversity of each group.

    Attributes:
        credit: (P, G) in the spec's unit; 0 for empty and left-out responses.
        log_volume: (P,) nats, of the kernel that earned the credit (weighted by quality where the rule says so).
        quality_volume: (P,) nats, what log_volume would be if all responses of the group were alike: the part that
            pays size and quality rather than difference.
        vendi: (P,) effective number of different responses, always of the unweighted cosine kernel.
        cosine_distance: (P,) mean 1 - cos over pairs.
    """

    credit: Tensor
    log_volume: Tensor
    quality_volume: Tensor
    vendi: Tensor
    cosine_distance: Tensor


def group_credit(E: Tensor, spec: DiversitySpec, reward: Tensor | None = None) -> GroupCredit:
    """Credit of every response of every group.

    Args:
        E: (P, G, D) embeddings; a zero row is an empty or left-out response and touches no other row's credit.
        spec: what diversity means.
        reward: (P, G) task rewards; needed by combine="gate" and "quality_weighted".

    Returns:
        GroupCredit, float64 on E's device.

    Raises:
        DQOError: a rule that weighs by quality got no reward.
        NonFiniteError: NaN or infinity in E; names the row.

    Source: docs/math.md sections 3 and 4.
    """
    L = kernel_matrix(E, spec.kernel, spec.sigma)  # (P, G, G)
    filled = L.diagonal(dim1=-2, dim2=-1) > 0  # (P, G)
    weights = None
    if spec.combine in ("gate", "quality_weighted"):
        if reward is None:
            raise DQOError(
                f"combine={spec.combine!r} weighs responses by their task reward, got none; pass the quality reward or "
                "use combine='add'."
            )
        weights = quality_weights(
            reward, spec.combine, threshold=spec.quality_threshold, center=spec.quality_center, scale=spec.quality_scale
        )  # (P, G)
    L_credit = L if weights is None else weight_kernel(L, weights)  # (P, G, G)
    if spec.combine == "gate":
        filled = filled & (weights > 0)  # (P, G)
    credit = leave_one_out(L_credit, spec.ridge)  # (P, G)
    credit = scale_credit(
        credit, spec.credit_scale, filled=filled, ridge=spec.ridge, weighted=spec.combine == "quality_weighted"
    )
    L_cosine = L if spec.kernel == "cosine" else cosine_kernel(E)  # (P, G, G)
    return GroupCredit(
        credit=credit,
        log_volume=log_volume(L_credit, spec.ridge),
        quality_volume=(L_credit.diagonal(dim1=-2, dim2=-1).sum(-1) / spec.ridge).log1p(),
        vendi=vendi(L_cosine),
        cosine_distance=cosine_distance(L_cosine),
    )


def shape_reward(reward: Tensor, E: Tensor, spec: DiversitySpec) -> tuple[Tensor, GroupCredit]:
    """Reward that is optimised, and the credit in it.

    Args:
        reward: (P, G) task rewards; NaN marks an unscorable response, which is left out of the kernel and stays NaN.
        E: (P, G, D) embeddings.
        spec: what diversity means and how it joins.

    Returns:
        (P, G) float64 combined reward, and the GroupCredit.

    Source: docs/math.md eq. 4.3.
    """
    scored = ~reward.isnan()  # (P, G)
    group = group_credit(E * scored.unsqueeze(-1), spec, reward)
    return combine_reward(reward, group.credit, spec.combine, spec.alpha), group
