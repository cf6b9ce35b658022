"""The settings that the mathematics sees: what diversity means in a run and how it joins the task reward."""

import math
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from torch import Tensor

from dqo.core import COMBINE_RULES, CREDIT_SCALES
from dqo.core.combine import reaches
from dqo.core.kernels import check_kernel
from dqo.core.volume import check_ridge
from dqo.diversity.signals import SIGNALS, Signal
from dqo.errors import DQOError

# Rules that need to know from which task reward on a response is good.
GATES = ("gate", "spread")


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DiversitySpec:
    """What diversity means in a run and how it joins the task reward; checked when made.

    The help text of each field is its documentation; settings of the trainers inherit both (see `settings_like`).

    Raises:
        DQOError: a value out of range, a setting that would do nothing, or two that contradict each other.
    """

    alpha: float = _setting(
        1.0,
        "Weight of diversity against the task reward, >= 0, in the signal's unit: for 'dqo' reward units per credit "
        "unit; 0 trains on the task alone.",
    )
    diversity: str = _setting("dqo", f"Signal: {', '.join(f'{name!r} ({s.rewards})' for name, s in SIGNALS.items())}.")
    kernel: str = _setting("cosine", "Similarity of two responses: 'cosine', 'gaussian' or 'linear'.")
    sigma: float | None = _setting(None, "Bandwidth of the Gaussian kernel, in distance between unit vectors (0 to 2).")
    ridge: float = _setting(1.0, "Regularisation strength of log det(I + L/ridge), > 0; 1 in the paper.")
    credit_scale: str = _setting(
        "nats", "Unit of the credit: 'nats' (the paper's) or 'unit' (share of its range at this group size)."
    )
    combine: str = _setting(
        "add", "How credit joins quality: 'add' (the paper's), 'gate', 'spread', 'quality_weighted' or 'multiply'."
    )
    quality_threshold: float | None = _setting(
        None, "Lowest task reward that counts as good; for gate, spread, pass_at_k and entropy_correct."
    )
    quality_center: float | None = _setting(None, "Task reward of weight 1/2; only for combine='quality_weighted'.")
    quality_scale: float | None = _setting(
        None, "Width of the quality sigmoid in reward units; goes with quality_center."
    )
    same_threshold: float | None = _setting(
        None, "diversity='partition': similarity from which two responses are the same."
    )
    same_answer: str | None = _setting(
        None, "diversity='partition': function pairs of texts -> booleans, 'pkg.fn' or 'file.py:fn'."
    )
    pass_k: int | None = _setting(None, "diversity='pass_at_k': draws k.")

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1e9:
            raise DQOError(
                f"`alpha` must be a finite number >= 0, got {self.alpha!r}; 0 trains on the task reward alone."
            )
        for name, allowed in (("diversity", SIGNALS), ("credit_scale", CREDIT_SCALES), ("combine", COMBINE_RULES)):
            if getattr(self, name) not in allowed:
                raise DQOError(
                    f"`{name}` must be one of {', '.join(allowed)}, got {getattr(self, name)!r}; choose one of these."
                )
        for name in ("quality_threshold", "quality_center", "quality_scale"):
            if not math.isfinite(getattr(self, name) or 0.0):
                raise DQOError(
                    f"`{name}` must be a finite number, got {getattr(self, name)!r}; write a number such as 0.8."
                )
        check_kernel(self.kernel, self.sigma)
        check_ridge(self.ridge)
        self._check_signal()
        self._check_own_settings()
        self._check_quality()

    @property
    def signal(self) -> Signal:
        """The row of the signal."""
        return SIGNALS[self.diversity]

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields of Evidence that the trainer must gather beside embeddings."""
        return self.signal.needs + (("same",) if self.same_answer is not None else ())

    def correct(self, reward: Tensor) -> Tensor | None:
        """True where a task reward counts as good; of reward's shape, None where the signal does not ask for it."""
        return reaches(reward, self.quality_threshold) if "correct" in self.needs else None

    def _check_signal(self) -> None:
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
        if self.kernel == "linear" and not signal.takes_quality_weights and signal.place != "none":
            raise DQOError(
                f"diversity={name!r} needs a kernel with unit diagonal, got kernel='linear'; use kernel='cosine'."
            )
        if self.kernel == "linear" and self.credit_scale == "unit":
            raise DQOError(
                "credit_scale='unit' needs a kernel with unit diagonal, got kernel='linear', whose credit has no upper "
                "end; use kernel='cosine' or credit_scale='nats'."
            )

    def _check_own_settings(self) -> None:
        """Refuses settings of another signal, and a signal without the setting that it needs."""
        defaults = {setting.name: setting.default for setting in fields(DiversitySpec)}
        own = self.signal.settings
        for name, signal in SIGNALS.items():
            for setting in set(signal.settings).difference(own):
                if getattr(self, setting) != defaults[setting]:
                    raise DQOError(
                        f"`{setting}` belongs to diversity={name!r}, got {setting}={getattr(self, setting)!r} with "
                        f"diversity={self.diversity!r}; remove it."
                    )
        needed = [setting for setting in own if defaults[setting] is None]
        if needed and sum(getattr(self, setting) is not None for setting in needed) != 1:
            raise DQOError(
                f"diversity={self.diversity!r} needs {'one of ' * (len(needed) > 1)}"
                f"{' and '.join(f'`{setting}`' for setting in needed)}, got "
                f"{' and '.join(repr(getattr(self, setting)) for setting in needed)}; set one."
            )
        if self.same_threshold is not None and not 0.0 < self.same_threshold <= 1.0:
            raise DQOError(
                f"`same_threshold` must lie in (0, 1], got {self.same_threshold!r}; 0.8 is a start for cosines of "
                "all-MiniLM-L6-v2."
            )
        if self.pass_k is not None and self.pass_k < 1:
            raise DQOError(f"`pass_k` must be at least 1, got {self.pass_k!r}; it is the number of draws of pass@k.")

    def _check_quality(self) -> None:
        """Refuses a threshold or sigmoid that would do nothing, one that is missing, and half a sigmoid."""
        if (self.combine in GATES or "correct" in self.needs) != (self.quality_threshold is not None):
            judges = [name for name, signal in SIGNALS.items() if "correct" in signal.needs]
            raise DQOError(
                f"`quality_threshold` belongs to combine='gate' and 'spread' and to diversity={' and '.join(judges)}, "
                f"got quality_threshold={self.quality_threshold!r} with combine={self.combine!r} and "
                f"diversity={self.diversity!r}; "
                + (
                    "set it to the lowest reward that counts as good."
                    if self.quality_threshold is None
                    else "remove it (null in a recipe), or set one of these."
                )
            )
        center, scale = self.quality_center, self.quality_scale
        if (center is None) != (scale is None):
            raise DQOError(
                f"`quality_center` and `quality_scale` make one sigmoid, got {center!r} and {scale!r}; give both or "
                "neither."
            )
        if center is not None and self.combine != "quality_weighted":
            raise DQOError(
                f"`quality_center` and `quality_scale` belong to combine='quality_weighted', got {self.combine!r}; "
                "remove them or change the rule."
            )
        if scale is not None and not scale > 0:
            raise DQOError(f"`quality_scale` must be above 0, got {scale!r}; it is the sigmoid's width.")


def settings_like(spec: type) -> type:
    """Declares the fields of a frozen dataclass again, with defaults and help texts, for classes that must be mutable.

    Args:
        spec: the frozen dataclass.

    Returns:
        a dataclass of the same fields and nothing else.
    """
    again = [(one.name, one.type, field(default=one.default, metadata=one.metadata)) for one in fields(spec)]
    return make_dataclass(f"{spec.__name__}Fields", again)
