"""Settings of the trainers: TRL's own, plus what diversity means. One flat dataclass each, as TRL's users expect."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from trl import GRPOConfig, RLOOConfig

from dqo.core import REWARD_SCALES
from dqo.errors import DQOError, RecipeError
from dqo.hub import first_words
from dqo.integrations.trl.alpha_config import AlphaArguments
from dqo.models import best_device, native_bf16
from dqo.response import TraceMarkers
from dqo.signals import SIGNALS
from dqo.spec import DiversitySpec

LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")  # the host's


@contextmanager
def _refusals_explained() -> Iterator[None]:
    """Turns what TRL raises about settings into a RecipeError; a failing launcher or device keeps its traceback."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, ImportError, NotImplementedError) as error:
        raise RecipeError(f"trainer: TRL refuses these settings: {first_words(error)}; change them.") from error
    except OSError as error:
        if error.filename is None:  # a connection; with a name it is a file that a setting gives
            raise
        raise RecipeError(f"trainer: TRL cannot read {error.filename!r}: {error.strerror}; correct it.") from error


@dataclass
class DiversityArguments(AlphaArguments):
    """What DQO adds to a trainer's settings; `diversity_spec()` is the part the mathematics sees."""

    centres_groups: ClassVar[bool] = True  # whether advantages are rewards less a mean over their group

    diversity: str = field(
        default="dqo",
        metadata={
            "help": "Signal: 'dqo', 'none', or a rival of docs/signals.md: 'pairwise', 'vendi', 'elliptical', "
            "'partition', 'graph_cut', 'unlikeliness', 'pass_at_k', 'entropy', 'entropy_correct'."
        },
    )
    kernel: str = field(
        default="cosine", metadata={"help": "Similarity of two responses: 'cosine', 'gaussian' or 'linear'."}
    )
    sigma: float | None = field(
        default=None, metadata={"help": "Bandwidth of the Gaussian kernel, in distance between unit vectors (0 to 2)."}
    )
    ridge: float = field(
        default=1.0, metadata={"help": "Regularisation strength of log det(I + L/ridge), > 0; 1 in the paper."}
    )
    credit_scale: str = field(
        default="nats",
        metadata={
            "help": "Unit of the credit: 'nats' (the paper's) or 'unit' (share of its range at this group size)."
        },
    )
    combine: str = field(
        default="add",
        metadata={
            "help": "How credit joins quality: 'add' (the paper's), 'gate', 'spread', 'quality_weighted' or 'multiply'."
        },
    )
    quality_threshold: float | None = field(
        default=None,
        metadata={"help": "Lowest task reward that counts as good; for gate, spread, pass_at_k and entropy_correct."},
    )
    quality_center: float | None = field(
        default=None, metadata={"help": "Task reward of weight 1/2; only for combine='quality_weighted'."}
    )
    quality_scale: float | None = field(
        default=None, metadata={"help": "Width of the quality sigmoid in reward units; goes with quality_center."}
    )
    same_threshold: float | None = field(
        default=None, metadata={"help": "diversity='partition': similarity from which two responses are the same."}
    )
    same_answer: str | None = field(
        default=None,
        metadata={"help": "diversity='partition': function pairs of texts -> booleans, 'pkg.fn' or 'file.py:fn'."},
    )
    pass_k: int | None = field(default=None, metadata={"help": "diversity='pass_at_k': draws k."})
    skip_tied_groups: bool = field(
        default=False, metadata={"help": "No advantage in groups whose task rewards are all equal."}
    )
    encoder: str = field(
        default="all-MiniLM-L6-v2",
        metadata={"help": "Name or folder of the encoder that embeds the responses, with its options."},
    )
    encoder_batch_size: int = field(default=64, metadata={"help": "Texts embedded at once."})
    encoder_device: str | None = field(
        default=None, metadata={"help": "Device of the encoder; the trainer's own where not given."}
    )
    encoder_dtype: str = field(
        default="float32", metadata={"help": "Precision inside the encoder: 'float32', 'bfloat16' or 'float16'."}
    )
    trace_markers: str = field(
        default="default",
        metadata={
            "help": "Reasoning traces that are removed from a response before it is judged and embedded: 'default' "
            "(<think>...</think> and its like), 'off', or pairs of your own, '<plan>...</plan>, default'."
        },
    )
    shared_prefix: bool = field(
        default=True,
        metadata={"help": "Compute the prompt of a group once instead of once a response, where the model allows it."},
    )

    def diversity_spec(self) -> DiversitySpec:
        """The settings of the mathematics, checked; alpha is that of a run's first step where it changes.

        Returns:
            DiversitySpec made of the fields of the same names.

        Raises:
            DQOError: a setting out of range, or two that contradict each other.
        """
        settings = {name: getattr(self, name) for name in DiversitySpec.__dataclass_fields__}
        return DiversitySpec(**settings | {"alpha": self.alpha_start if self.alpha == "auto" else self.alpha})

    def _check_diversity(self) -> None:
        """Refuse, before anything is loaded, what would train on something else than was asked for."""
        if not isinstance(self.encoder, str):
            raise RecipeError(
                f"`encoder` must be a name or folder, got a {type(self.encoder).__name__}; give a function to the "
                "trainer, as embedder=."
            )
        TraceMarkers.parse(self.trace_markers)
        self.alpha_source()
        self._check_range_of_alpha()
        spec = self.diversity_spec()
        replace(spec, alpha=self.largest_alpha)  # what alpha may become must be allowed too
        shapes_reward = self.largest_alpha > 0 and spec.signal.place in ("credit", "discount")
        if shapes_reward and spec.signal.place == "credit" and self.centres_groups and self.num_generations == 2:
            raise DQOError(
                "DQO needs num_generations of at least 3, got 2: the two credits of a group of two are equal and "
                "cancel in the group mean; sample more responses a prompt, or set alpha=0."
            )
        if shapes_reward and getattr(self, "multi_objective_aggregation", None) == "normalize_then_sum":
            raise DQOError(
                "DQO needs multi_objective_aggregation='sum_then_normalize', got 'normalize_then_sum', which blows the "
                "credit up to unit variance in every group so that alpha loses its meaning; remove the setting."
            )
        if shapes_reward and getattr(self, "reward_clip_range", None) is not None:
            raise DQOError(
                f"`reward_clip_range` clips the task reward and the credit in one sum, got {self.reward_clip_range!r}, "
                "so that responses at its end would earn no credit; remove it, and clip within the reward function."
            )
        if (self.diversity == "partition") != (self.same_threshold is not None or self.same_answer is not None) or (
            self.same_threshold is not None and self.same_answer is not None
        ):
            raise DQOError(
                "diversity='partition' needs one of `same_threshold` and `same_answer`, and nothing else takes them, "
                f"got {self.same_threshold!r} and {self.same_answer!r} with diversity={self.diversity!r}; set one."
            )
        if spec.pass_k is not None and spec.pass_k > self.num_generations:
            raise DQOError(
                f"`pass_k` must be at most num_generations={self.num_generations}, got {spec.pass_k}; lower it or "
                "sample more responses a prompt."
            )

    def _check_range_of_alpha(self) -> None:
        """A controller must have something to move, and may not move it where the signal means nothing."""
        signal = SIGNALS.get(self.diversity)  # an unknown name is refused where the others are listed
        if self.alpha != "auto" or signal is None:
            return
        if signal.place == "none":
            raise DQOError("alpha='auto' needs a signal to weigh, got diversity='none'; choose one or remove `alpha`.")
        if self.alpha_max > signal.highest_alpha:
            raise DQOError(
                f"alpha='auto' may reach alpha_max={self.alpha_max:g}, but diversity={self.diversity!r} takes at most "
                f"{signal.highest_alpha:g}; set alpha_max to that, and alpha_start within it."
            )

    def _choose_precision(self) -> None:
        """Mixed precision where it is faster, and the processor where there is no accelerator that will do.

        TRL turns bf16 on everywhere, and transformers then refuses a machine without accelerator unless `use_cpu` says
        that this is meant.
        """
        if not self.use_cpu and best_device().type == "cpu":
            self.use_cpu = True
            if torch.accelerator.is_available():
                found = torch.accelerator.current_accelerator()
                print(f"dqo: training on the processor, because {found} has no float64", file=sys.stderr)
        if self.bf16 is None and not self.fp16:
            self.bf16 = native_bf16(cpu=self.use_cpu)


@dataclass
class DQOConfig(DiversityArguments, GRPOConfig):
    """Settings of `DQOTrainer`: TRL's `GRPOConfig` and the diversity settings.

    Three defaults differ from TRL's. `scale_rewards="batch"` instead of "group": dividing by a group's own std makes
    alpha meaningless in groups whose task rewards tie. `logging_steps=1` instead of 10: collapse happens within ten
    steps. `bf16` stays off on a CPU that has no instructions for it.
    """

    scale_rewards: str = field(
        default="batch",
        metadata={"help": "Divide advantages by the std of the whole batch ('batch'), of each group, or not ('none')."},
    )
    std_floor: float = field(
        default=0.0, metadata={"help": "Least std that advantages are divided by, in reward units; guards tie groups."}
    )
    decouple_credit: bool = field(
        default=False,
        metadata={"help": "Scale the task reward alone and add the credit after, so that no std touches it."},
    )
    logging_steps: float = field(default=1, metadata={"help": "Log every so many optimizer steps."})

    def __post_init__(self) -> None:
        self._choose_precision()
        with _refusals_explained():
            super().__post_init__()
        self._check_diversity()
        self._check_scaling()
        if self.loss_type not in LOSS_TYPES:  # the host finds out after its first rollout
            raise DQOError(
                f"`loss_type` must be one of {', '.join(LOSS_TYPES)}, got {self.loss_type!r}; choose one of these."
            )

    def _check_scaling(self) -> None:
        """Guards that would do nothing, or whose entropy term the host adds a second time, are refused."""
        if self.scale_rewards not in REWARD_SCALES:
            raise DQOError(
                f"`scale_rewards` must be one of {', '.join(REWARD_SCALES)}, got {self.scale_rewards!r}; choose one."
            )
        if not 0.0 <= self.std_floor < float("inf"):
            raise DQOError(f"`std_floor` must be a finite number >= 0 in reward units, got {self.std_floor!r}.")
        if self.multi_objective_aggregation != "sum_then_normalize" and (self.std_floor or self.decouple_credit):
            raise DQOError(
                "`std_floor` and `decouple_credit` scale the sum of the rewards, got multi_objective_aggregation="
                f"{self.multi_objective_aggregation!r}; remove them or use 'sum_then_normalize'."
            )
        if self.scale_rewards == "none" and (self.std_floor or self.decouple_credit):
            raise DQOError(
                "`std_floor` and `decouple_credit` guard against a std, got scale_rewards='none', which divides by "
                "none; remove them" + (" or set scale_rewards='group' or 'batch'." if self.centres_groups else ".")
            )
        if self.decouple_credit and self.diversity_spec().signal.place not in ("credit", "discount"):
            raise DQOError(
                "`decouple_credit` needs a signal that acts on the reward, got "
                f"diversity={self.diversity!r}; remove it."
            )
        if self.diversity in ("entropy", "entropy_correct") and (self.entropy_coef or self.use_adaptive_entropy):
            raise DQOError(
                f"diversity={self.diversity!r} adds an entropy term, and so do `entropy_coef` and "
                "`use_adaptive_entropy`; keep one of them."
            )


@dataclass
class DQORLOOConfig(DiversityArguments, RLOOConfig):
    """Settings of `DQORLOOTrainer`: TRL's `RLOOConfig` and the diversity settings.

    `num_generations=8` instead of 2, where the credit has no effect, `logging_steps=1` instead of 10, and `bf16` stays
    off on a CPU that has no instructions for it.
    """

    num_generations: int | None = field(default=8, metadata={"help": "Responses a prompt, at least 3."})
    logging_steps: float = field(default=1, metadata={"help": "Log every so many optimizer steps."})

    def __post_init__(self) -> None:
        self._choose_precision()
        with _refusals_explained():
            super().__post_init__()
        self._check_diversity()
        if self.diversity == "entropy_correct":
            raise DQOError(
                "diversity='entropy_correct' weighs each token by its probability under the policy that sampled it, "
                "which RLOO does not keep; use algorithm grpo or diversity='entropy'."
            )
        if (self.diversity == "pass_at_k" or self.skip_tied_groups) and (self.beta or self.normalize_advantages):
            setter = "`skip_tied_groups`" if self.skip_tied_groups else "diversity='pass_at_k'"
            raise DQOError(
                f"{setter} sets the advantages, in which RLOO keeps its KL and normalisation, got beta={self.beta!r} "
                f"and normalize_advantages={self.normalize_advantages!r}; set beta=0 and leave the other off, or use "
                "grpo."
            )
