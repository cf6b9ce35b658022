"""The settings that the mathematics sees: what diversity means in a run and how it joins the task reward."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from dqo.core import COMBINE_RULES, CREDIT_SCALES, KERNELS
from dqo.core.combine import reaches
from dqo.core.kernels import check_kernel
from dqo.diversity.evidence import Signal
from dqo.diversity.signals import SIGNALS
from dqo.errors import DQOError, check_choice
from dqo.settings import DEFAULT_ENCODER
from dqo.settings.checking import check_fields, setting

# Rules of `combine` that need `quality_threshold`.
GATES = ("gate", "spread")


@dataclass
class DiversityFields:
    """What diversity means and how it joins the task reward: fields alone, shared by the settings of all trainers."""

    alpha: Annotated[float, Field(ge=0, lt=1e9)] = setting(
        1.0,
        "Weight of diversity against the task reward, in the signal's unit: for 'dqo' reward units per credit unit; 0 "
        "trains on the task alone.",
    )
    diversity: Annotated[str, Field(json_schema_extra={"enum": list(SIGNALS)})] = setting(
        "dqo", f"Signal: {', '.join(f'{name!r} ({s.rewards})' for name, s in SIGNALS.items())}."
    )
    kernel: Literal[tuple(KERNELS)] = setting("cosine", "Similarity of two responses: 'cosine' is the paper's.")
    sigma: Annotated[float | None, Field(gt=0)] = setting(
        None, "Bandwidth of the Gaussian kernel, in distance between unit vectors (0 to 2)."
    )
    ridge: Annotated[float, Field(gt=0)] = setting(
        1.0, "Regularisation strength of log det(I + L/ridge); 1 in the paper."
    )
    credit_scale: Literal[CREDIT_SCALES] = setting(
        "nats", "Unit of the credit: 'nats' (the paper's) or 'unit' (share of its range at this group size)."
    )
    combine: Literal[COMBINE_RULES] = setting("add", "How credit joins quality: 'add' is the paper's.")
    quality_threshold: float | None = setting(
        None, "Lowest task reward that counts as good; for gate, spread, pass_at_k and entropy_correct."
    )
    quality_center: float | None = setting(None, "Task reward of weight 1/2; only for combine='quality_weighted'.")
    quality_scale: Annotated[float | None, Field(gt=0)] = setting(
        None, "Width of the quality sigmoid in reward units; goes with quality_center."
    )
    same_threshold: Annotated[float | None, Field(gt=0, le=1)] = setting(
        None, "diversity='partition': similarity from which two responses are the same."
    )
    same_answer: str | None = setting(
        None, "diversity='partition': function pairs of texts -> booleans, 'pkg.fn' or 'file.py:fn'."
    )
    set_function: str | None = setting(
        None, "diversity='set': function (prompt, answers, rewards) -> number, 'pkg.fn' or 'file.py:fn'."
    )
    pass_k: Annotated[int | None, Field(ge=1)] = setting(None, "diversity='pass_at_k': draws k.")


@dataclass
class EncoderFields:
    """What measures the similarity of responses, and on which part of them."""

    encoder: str = setting(
        DEFAULT_ENCODER, "Name or folder of the encoder that embeds the responses, with its options."
    )
    encoder_batch_size: Annotated[int, Field(ge=1)] = setting(64, "Texts embedded at once.")
    encoder_device: str | None = setting(None, "Device of the encoder; the trainer's own where not given.")
    encoder_dtype: Literal["float32", "bfloat16", "float16"] = setting("float32", "Precision inside the encoder.")
    trace_markers: str = setting(
        "default",
        "Reasoning traces that are removed from a response before it is judged and embedded: 'default' "
        "(<think>...</think> and its like), 'off', or pairs of your own, '<plan>...</plan>, default'.",
    )

    def encoder_options(self, device: str | None = None) -> dict[str, Any]:
        """Makes the options of `load_embedder`; the device is that of the settings where they name one."""
        chosen = self.encoder_device or device
        return {"device": chosen, "dtype": self.encoder_dtype, "batch_size": self.encoder_batch_size}


@dataclass
class DiversitySpec(DiversityFields):
    """What the mathematics sees of a run's settings; checked when made.

    Raises:
        DQOError: A value out of range, a setting that would do nothing, or two that contradict each other.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("diversity", self.diversity, SIGNALS)
        check_kernel(self.kernel, self.sigma)
        if found := list(self._contradictions()):
            raise DQOError("\n".join(found))

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

    def passes(self, reward: Tensor) -> Tensor:
        """True where a response takes part: scored, and good where only good ones do; of reward's shape."""
        return reaches(reward, self.quality_threshold) if self.combine in GATES else ~reward.isnan()

    def _contradictions(self) -> Iterator[str]:
        """Yields, a sentence each, settings that contradict each other, that would do nothing, or that are missing."""
        name, signal = self.diversity, self.signal
        if self.alpha > signal.highest_alpha:
            yield (
                f"diversity={name!r} takes an `alpha` of at most {signal.highest_alpha:g}, got {self.alpha:g}; "
                f"{signal.usual_alpha:g} is a usual start."
            )
        if signal.place != "credit" and self.combine != "add":
            yield (
                f"`combine` says how a credit joins the reward, got combine={self.combine!r} with diversity={name!r}, "
                "which is no credit; set combine='add', without quality_threshold where the signal takes none."
            )
        elif self.combine == "multiply" and "marginal" in signal.needs:
            yield (
                f"combine='multiply' needs credits of at least 0, and those of diversity={name!r} may be negative; use "
                "combine='add', 'gate' or 'spread'."
            )
        elif self.combine == "quality_weighted" and not signal.takes_quality_weights:
            yield (
                f"combine='quality_weighted' needs a signal defined for weighted vectors, got diversity={name!r}; use "
                "combine='gate', or diversity='dqo'."
            )
        any_length = (signal.takes_quality_weights or signal.place == "none") and self.credit_scale == "nats"
        if self.kernel == "linear" and not any_length:
            yield (
                f"diversity={name!r} with credit_scale={self.credit_scale!r} needs a kernel with unit diagonal, got "
                "kernel='linear'; use kernel='cosine'."
            )
        defaults = {one.name: one.default for one in fields(self)}
        for owner, other in SIGNALS.items():
            for key in set(other.settings).difference(signal.settings):
                if getattr(self, key) != defaults[key]:
                    yield (
                        f"`{key}` belongs to diversity={owner!r}, got {key}={getattr(self, key)!r} with "
                        f"diversity={name!r}; remove it."
                    )
        needed = {key: getattr(self, key) for key in signal.settings if defaults[key] is None}
        if needed and sum(value is not None for value in needed.values()) != 1:
            yield (
                f"diversity={name!r} needs {'one of ' * (len(needed) > 1)}`{'` and `'.join(needed)}`, got "
                f"{' and '.join(map(repr, needed.values()))}; set one."
            )
        yield from self._quality_contradictions()

    def _quality_contradictions(self) -> Iterator[str]:
        if (self.combine in GATES or "correct" in self.needs) != (self.quality_threshold is not None):
            judges = [name for name, signal in SIGNALS.items() if "correct" in signal.needs]
            yield (
                f"`quality_threshold` belongs to combine='gate' and 'spread' and to diversity={' and '.join(judges)}, "
                f"got {self.quality_threshold!r} with combine={self.combine!r} and diversity={self.diversity!r}; set "
                "it to the lowest reward that counts as good, or remove it (null in a recipe)."
            )
        center, scale = self.quality_center, self.quality_scale
        if (center is None) != (scale is None) or (center is not None and self.combine != "quality_weighted"):
            yield (
                "`quality_center` and `quality_scale` make one sigmoid for combine='quality_weighted', got "
                f"{center!r} and {scale!r} with combine={self.combine!r}; give both or neither."
            )
