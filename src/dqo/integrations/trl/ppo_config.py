"""Settings of `DQOPPOTrainer`: those of `DQOConfig`, the critic's, and how advantages come about."""

import os
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from accelerate.utils import str_to_bool
from pydantic import Field

from dqo.errors import RecipeError
from dqo.integrations.trl.config import DQOConfig
from dqo.settings.checking import check_fields, setting


@dataclass
class DQOPPOConfig(DQOConfig):
    """Settings of `DQOPPOTrainer`. `num_iterations` are PPO's epochs over a rollout, `epsilon` its policy clip.

    Several minibatches an epoch: `steps_per_generation` above `gradient_accumulation_steps`. `scale_rewards` is "none":
    advantages come from the critic and are whitened over the tokens of the whole batch instead. Groups of two are
    allowed, because no group mean cancels their credit.
    """

    centres_groups: ClassVar[bool] = False

    scale_rewards: Literal["none"] = setting(
        "none", "Only 'none': PPO scales by `whiten_advantages`, not by a group's std."
    )
    critic_model: str | None = setting(
        None,
        "Folder or hub name that the critic starts from, such as a reward model with the policy's tokens; a copy of "
        "the policy where not given.",
    )
    critic_learning_rate: Annotated[float, Field(ge=0)] = setting(1e-5, "Of the critic's own AdamW.")
    gamma: Annotated[float, Field(ge=0, le=1)] = setting(1.0, "Discount per token.")
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = setting(0.95, "λ of the advantage estimate; 1 is Monte Carlo.")
    value_clip: Annotated[float | None, Field(gt=0)] = setting(
        0.2, "Furthest that a value profits from moving in one rollout; null clips nothing."
    )
    whiten_advantages: bool = setting(True, "Advantages of mean 0 and std 1 over the tokens of the whole batch.")
    kl_in: Literal["loss", "reward"] = setting(
        "loss", "Where `beta` times the KL to the reference goes: 'loss' or 'reward'."
    )
    truncated: Literal["bootstrap", "terminal"] = setting(
        "bootstrap",
        "A response cut off at max_completion_length: 'bootstrap' puts the value of its last state in the place of its "
        "reward, 'terminal' takes the reward it was given.",
    )

    def __post_init__(self) -> None:
        self._check_ppo()
        super().__post_init__()
        if self.fp16:
            raise RecipeError("PPO's critic has no loss scaling, got fp16=True; use bf16, or neither.")

    def _check_ppo(self) -> None:
        check_fields(self)
        if self.deepspeed or str_to_bool(os.environ.get("ACCELERATE_USE_DEEPSPEED", "false")):
            raise RecipeError(
                "DeepSpeed drives one network per process, got PPO, which trains a critic as well; start with FSDP or "
                "plain data parallelism."
            )
        if self.kl_in == "reward" and self.beta == 0:
            raise RecipeError("kl_in='reward' needs `beta` above 0, got 0; set beta, or remove kl_in.")

    def _check_diversity(self) -> None:
        """The parent's checks, and what acts on the group's advantages that PPO has none of."""
        super()._check_diversity()
        if self.multi_objective_aggregation == "normalize_then_sum":
            raise RecipeError(
                "PPO needs multi_objective_aggregation='sum_then_normalize', got 'normalize_then_sum', whose rewards "
                "without scale have no value to learn; remove the setting."
            )
        if self.off_policy_mask_threshold is not None or self.loss_type == "vespo":
            raise RecipeError(
                "`off_policy_mask_threshold` and loss_type='vespo' go by the sign of a response's one advantage, got "
                "one of them with PPO, whose advantages differ by token; remove it or use algorithm grpo."
            )
        if self.diversity_spec().signal.place == "advantage" or self.skip_tied_groups:
            raise RecipeError(
                "diversity='pass_at_k' and `skip_tied_groups` replace the advantages of a group, got them with PPO, "
                "whose advantages come from its critic; remove them or use algorithm grpo."
            )
