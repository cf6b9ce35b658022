"""Settings of the trainers: TRL's own, plus what diversity means. One flat dataclass each, as TRL's users expect."""

from dataclasses import dataclass, field

import torch
from transformers.utils import is_torch_npu_available, is_torch_xpu_available
from trl import GRPOConfig, RLOOConfig

from dqo.diversity import DiversitySpec
from dqo.errors import DQOError


@dataclass
class DiversityArguments:
    """What DQO adds to a trainer's settings; `diversity_spec()` is the part the mathematics sees."""

    alpha: float = field(
        default=1.0,
        metadata={"help": "Weight of the diversity credit against the task reward, >= 0; 0 trains on the task alone."},
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
        metadata={"help": "How credit joins quality: 'add' (the paper's), 'gate', 'quality_weighted' or 'multiply'."},
    )
    quality_threshold: float | None = field(
        default=None, metadata={"help": "Lowest task reward that counts as good; only for combine='gate'."}
    )
    quality_center: float | None = field(
        default=None, metadata={"help": "Task reward of weight 1/2; only for combine='quality_weighted'."}
    )
    quality_scale: float | None = field(
        default=None, metadata={"help": "Width of the quality sigmoid in reward units; goes with quality_center."}
    )
    encoder: str = field(
        default="all-MiniLM-L6-v2", metadata={"help": "Name or folder of the encoder that embeds the responses."}
    )
    encoder_batch_size: int = field(default=64, metadata={"help": "Texts embedded at once."})
    encoder_device: str | None = field(
        default=None, metadata={"help": "Device of the encoder; the trainer's own where not given."}
    )
    shared_prefix: bool = field(
        default=True,
        metadata={"help": "Compute the prompt of a group once instead of once a response, where the model allows it."},
    )

    def diversity_spec(self) -> DiversitySpec:
        """The settings of the mathematics, checked.

        Returns:
            DiversitySpec made of the fields of the same names.

        Raises:
            DQOError: a setting out of range, or two that contradict each other.
        """
        names = DiversitySpec.__dataclass_fields__
        return DiversitySpec(**{name: getattr(self, name) for name in names})

    def _check_diversity(self) -> None:
        """Refuse, before anything is loaded, what would train on something else than was asked for."""
        spec = self.diversity_spec()
        if spec.alpha > 0 and self.num_generations == 2:
            raise DQOError(
                "DQO needs num_generations of at least 3, got 2: the two credits of a group of two are equal and "
                "cancel in the group mean; sample more responses a prompt, or set alpha=0."
            )
        if spec.alpha > 0 and getattr(self, "multi_objective_aggregation", None) == "normalize_then_sum":
            raise DQOError(
                "DQO needs multi_objective_aggregation='sum_then_normalize', got 'normalize_then_sum', which blows the "
                "credit up to unit variance in every group so that alpha loses its meaning; remove the setting."
            )

    def _prefer_full_precision_on_cpu(self) -> None:
        """TRL turns bf16 on wherever it can; on a CPU that is slower than float32 and less exact."""
        accelerated = torch.cuda.is_available() or is_torch_xpu_available() or is_torch_npu_available()
        if self.bf16 is None and (self.use_cpu or not accelerated):
            self.bf16 = False


@dataclass
class DQOConfig(DiversityArguments, GRPOConfig):
    """Settings of `DQOTrainer`: TRL's `GRPOConfig` and the diversity settings.

    Three defaults differ from TRL's. `scale_rewards="batch"` instead of "group": dividing by a group's own std makes
    alpha meaningless in groups whose task rewards tie. `logging_steps=1` instead of 10: collapse happens within ten
    steps. `bf16` stays off on a CPU.
    """

    scale_rewards: str = field(
        default="batch",
        metadata={"help": "Divide advantages by the std of the whole batch ('batch'), of each group, or not ('none')."},
    )
    logging_steps: float = field(default=1, metadata={"help": "Log every so many optimizer steps."})

    def __post_init__(self) -> None:
        self._prefer_full_precision_on_cpu()
        super().__post_init__()
        self._check_diversity()


@dataclass
class DQORLOOConfig(DiversityArguments, RLOOConfig):
    """Settings of `DQORLOOTrainer`: TRL's `RLOOConfig` and the diversity settings.

    `num_generations=8` instead of 2, where the credit has no effect, `logging_steps=1` instead of 10, and `bf16` stays
    off on a CPU.
    """

    num_generations: int | None = field(default=8, metadata={"help": "Responses a prompt, at least 3."})
    logging_steps: float = field(default=1, metadata={"help": "Log every so many optimizer steps."})

    def __post_init__(self) -> None:
        self._prefer_full_precision_on_cpu()
        super().__post_init__()
        self._check_diversity()
