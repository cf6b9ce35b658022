"""What diversity means in a run and how it joins the task reward: the settings that the mathematics sees, checked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dqo.core import COMBINE_RULES, CREDIT_SCALES
from dqo.core.kernels import check_kernel
from dqo.core.volume import check_ridge
from dqo.diversity.signals import SIGNALS, Signal, check_same_threshold
from dqo.errors import DQOError

# Rules and signals that need to know from which task reward on a response is good.
GATES = ("gate", "spread")
JUDGES = ("pass_at_k", "entropy_correct")


@dataclass(frozen=True)
class DiversitySpec:
    """What diversity means in a run and how it joins the task reward; checked when made.

    Attributes:
        alpha: weight of diversity against the task reward, >= 0; its unit is the signal's (docs/signals.md), for "dqo"
            reward units per credit unit; 0 is plain RL.
        diversity: name of the signal, a key of dqo.signals.SIGNALS; "dqo" is the leave-one-out credit of the volume.
        kernel: "cosine" (the paper's Gram matrix of normalised embeddings), "gaussian" or "linear".
        sigma: bandwidth of the Gaussian kernel, in distance between unit vectors (0 to 2).
        ridge: regularisation strength of I + L/ridge, > 0; 1 in the paper.
        credit_scale: "nats" (the paper's) or "unit" (share of the credit's range, comparable across group sizes).
        combine: "add" (the paper's), "gate", "spread", "quality_weighted" or "multiply"; for signals that are credits.
        quality_threshold: lowest task reward that counts as good, in reward units; for combine="gate" and "spread"
            and for the signals "pass_at_k" and "entropy_correct".
        quality_center: task reward of weight 1/2 of the sigmoid; only for combine="quality_weighted".
        quality_scale: width > 0 of that sigmoid in reward units; given together with quality_center or not at all.
        same_threshold: similarity in (0, 1] from which two responses are the same answer; only for "partition".
        pass_k: draws k of "pass_at_k".
    """

    alpha: float = 1.0
    diversity: str = "dqo"
    kernel: str = "cosine"
    sigma: float | None = None
    ridge: float = 1.0
    credit_scale: str = "nats"
    combine: str = "add"
    quality_threshold: float | None = None
    quality_center: float | None = None
    quality_scale: float | None = None
    same_threshold: float | None = None
    pass_k: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)) or not 0 <= self.alpha < 1e9:
            raise DQOError(
                f"`alpha` must be a finite number >= 0, got {self.alpha!r}; 0 trains on the task reward alone."
            )
        for name, value, allowed in (
            ("diversity", self.diversity, tuple(SIGNALS)),
            ("credit_scale", self.credit_scale, CREDIT_SCALES),
            ("combine", self.combine, COMBINE_RULES),
        ):
            if value not in allowed:
                raise DQOError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}; choose one of these.")
        check_kernel(self.kernel, self.sigma)
        check_ridge(self.ridge)
        self._check_signal()
        self._check_scale()
        self._check_quality_settings()

    @property
    def signal(self) -> Signal:
        """Where the signal acts and what it takes."""
        return SIGNALS[self.diversity]

    def _check_signal(self) -> None:
        """What the signal cannot take, and what it needs."""
        name, signal = self.diversity, self.signal
        if self.alpha > signal.highest_alpha:
            raise DQOError(
                f"diversity={name!r} takes an `alpha` of at most {signal.highest_alpha:g}, got {self.alpha:g}; "
                f"{signal.usual_alpha:g} is a usual start."
            )
        if signal.place != "credit" and self.combine != "add":
            raise DQOError(
                f"`combine` says how a credit joins the reward, got combine={self.combine!r} with diversity={name!r}, "
                "which is no credit; set combine='add', without quality_threshold where the signal takes none."
            )
        if self.combine == "quality_weighted" and not signal.takes_quality_weights:
            raise DQOError(
                f"combine='quality_weighted' needs a signal defined for weighted vectors, got diversity={name!r}; use "
                "combine='gate', or diversity='dqo'."
            )
        for setting, owner in (("same_threshold", "partition"), ("pass_k", "pass_at_k")):
            if getattr(self, setting) is not None and name != owner:
                raise DQOError(
                    f"`{setting}` belongs to diversity={owner!r}, got {setting}={getattr(self, setting)!r} with "
                    f"diversity={name!r}; remove it."
                )
        whole = isinstance(self.pass_k, int) and not isinstance(self.pass_k, bool)
        if name == "pass_at_k" and not (whole and self.pass_k >= 1):
            raise DQOError(
                f"diversity='pass_at_k' needs `pass_k`, a whole number from 1 on, got {self.pass_k!r}; 4 is a start."
            )
        _check_numbers(self, ("same_threshold",))
        if self.same_threshold is not None:
            check_same_threshold(self.same_threshold)

    def _check_scale(self) -> None:
        """Which kernels and units go together."""
        if self.kernel == "linear" and self.diversity not in ("none", "dqo", "elliptical"):
            raise DQOError(
                f"diversity={self.diversity!r} needs a kernel with unit diagonal, got kernel='linear'; use "
                "kernel='cosine'."
            )
        if self.credit_scale == "nats":
            return
        if self.diversity != "dqo":
            raise DQOError(
                f"credit_scale='unit' is a share of the volume credit's range, got diversity={self.diversity!r}; "
                "remove it."
            )
        if self.kernel == "linear":
            raise DQOError(
                "credit_scale='unit' needs a kernel with unit diagonal, got kernel='linear', whose credit has no upper "
                "end; use kernel='cosine' or credit_scale='nats'."
            )

    def _check_quality_settings(self) -> None:
        """A setting that would do nothing is refused, and so is half a sigmoid."""
        if (self.combine in GATES or self.diversity in JUDGES) != (self.quality_threshold is not None):
            raise DQOError(
                "`quality_threshold` belongs to combine='gate' and 'spread' and to diversity='pass_at_k' and "
                f"'entropy_correct', got quality_threshold={self.quality_threshold!r} with combine={self.combine!r} "
                f"and diversity={self.diversity!r}; "
                + (
                    "set it to the lowest reward that counts as good."
                    if self.quality_threshold is None
                    else "remove it (null in a recipe), or set one of these."
                )
            )
        _check_numbers(self, ("quality_threshold", "quality_center", "quality_scale"))
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


def _check_numbers(spec: DiversitySpec, names: Sequence[str]) -> None:
    """Settings that are given are finite numbers: an infinite center, say, would switch diversity off in silence."""
    for name in names:
        value = getattr(spec, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise DQOError(f"`{name}` must be a finite number, got {value!r}; write a number such as 0.8.")
