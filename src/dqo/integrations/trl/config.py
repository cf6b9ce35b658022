"""Settings of the trainers: TRL's own, plus what diversity means. One flat dataclass each, as TRL's users expect."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from accelerate.utils import str_to_bool
from pydantic import Field
from trl import GRPOConfig, RLOOConfig

from dqo.core import REWARD_SCALES
from dqo.diversity.alpha_settings import AlphaArguments
from dqo.diversity.settings import EncoderFields
from dqo.errors import RecipeError
from dqo.models.chat import TraceMarkers
from dqo.models.policy import best_device, native_bf16
from dqo.models.weights import first_words
from dqo.rewards.loading import import_function
from dqo.settings.checking import check_fields, setting

LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")  # TRL's


_REFUSALS = (ValueError, TypeError, KeyError, AttributeError, AssertionError, ImportError, NotImplementedError)


@contextmanager
def explaining_refusals(
    given: Mapping[str, Any], by: str = "trainer: TRL", kinds: tuple[type[Exception], ...] = _REFUSALS
) -> Iterator[None]:
    """Turns what a library raises about settings into a RecipeError; `by` is their section and the library."""
    try:
        yield
    except (*kinds, FileNotFoundError) as error:  # a setting may name a file
        named = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "these settings"
        said = first_words(error).removeprefix("ValueError: ")
        raise RecipeError(f"{by} refuses {named}: {said}; change them.") from error


@dataclass
class DiversityArguments(EncoderFields, AlphaArguments):
    """What DQO adds to a trainer's settings; `diversity_spec()` is the part the mathematics sees."""

    centres_groups: ClassVar[bool] = True  # whether advantages are rewards less a mean over their group
    # Settings where advantages are divided by a std; RLOO divides by none.
    std_floor: ClassVar[float] = 0.0
    decouple_credit: ClassVar[bool] = False

    skip_tied_groups: bool = setting(False, "No advantage in groups whose task rewards are all equal.")
    shared_prefix: bool = setting(
        True, "Compute the prompt of a group once instead of once per response, where the model allows it."
    )

    def _check_diversity(self) -> None:
        """Refuses, before anything is loaded, what would train on something else than was asked for."""
        check_fields(self)
        TraceMarkers.parse(self.trace_markers)
        self.check_alpha()
        for name, arguments in (("same_answer", "pairs"), ("set_function", "prompt, answers, rewards")):
            if getattr(self, name) is not None:
                import_function(getattr(self, name), name, arguments)

    def _contradictions(self) -> Iterator[tuple[bool, str]]:
        """Lists settings that do not go together: whether these hold them, and what to say of it."""
        yield from super()._contradictions()
        signal, G = self.diversity_spec().signal, self.num_generations
        shapes_reward = self.largest_alpha > 0 and signal.acts_on_reward
        yield (
            shapes_reward and signal.place == "credit" and self.centres_groups and G == 2,
            "DQO needs num_generations of at least 3, got 2: the two credits of a group of two are equal and cancel in "
            "the group mean; sample more responses per prompt, or set alpha=0.",
        )
        yield (
            shapes_reward and getattr(self, "multi_objective_aggregation", None) == "normalize_then_sum",
            "DQO needs multi_objective_aggregation='sum_then_normalize', got 'normalize_then_sum', which blows the "
            "credit up to unit variance in every group so that alpha loses its meaning; remove the setting.",
        )
        group_std = getattr(self, "scale_rewards", "none") == "group" and not getattr(self, "decouple_credit", False)
        yield (
            shapes_reward and self.set_function is not None and group_std,
            "diversity='set' needs advantages that no group's own std divides, got scale_rewards='group', under which "
            "the set function is not what is optimised; set scale_rewards='batch', or decouple_credit=true.",
        )
        clip = getattr(self, "reward_clip_range", None)
        yield (
            shapes_reward and clip is not None,
            f"`reward_clip_range` clips the task reward and the credit in one sum, got {clip!r}, so that responses at "
            "its end would earn no credit; remove it, and clip within the reward function.",
        )
        yield (
            (self.vendi_target or 0) > G,
            f"`vendi_target` counts different responses of a group, got {self.vendi_target!r} with "
            f"num_generations={G}; set it to that at most.",
        )
        yield (
            (self.pass_k or 0) > G,
            f"`pass_k` must be at most num_generations={G}, got {self.pass_k}; lower it or sample more responses per "
            "prompt.",
        )

    def _choose_precision(self) -> None:
        """Mixed precision where it is faster, and the processor where there is no accelerator that will do."""
        # TRL turns bf16 on everywhere, and transformers then refuses a machine without accelerator unless `use_cpu`.
        if not self.use_cpu and best_device().type == "cpu":
            self.use_cpu = True
            if found := torch.accelerator.is_available() and torch.accelerator.current_accelerator():
                print(f"dqo: training on the processor, because {found} has no float64", file=sys.stderr)
        if self.bf16 is None and not self.fp16:
            self.bf16 = native_bf16(cpu=self.use_cpu)

    def __post_init__(self) -> None:
        # TRL's that are not at their defaults; a recipe never says the last two, and always gives them.
        left_out = {*DiversityArguments.__dataclass_fields__, "output_dir", "reward_weights"}
        own = {name: value for name, value in vars(self).items() if name not in left_out}
        given = {name: value for name, value in own.items() if value != getattr(type(self), name, value)}
        with explaining_refusals(given):
            self._choose_precision()
            super().__post_init__()  # TRL's
        self._check_diversity()


@dataclass
class DQOConfig(DiversityArguments, GRPOConfig):
    """Settings of `DQOTrainer`: TRL's `GRPOConfig` and the diversity settings.

    Three defaults differ from TRL's. `scale_rewards="batch"` instead of "group": dividing by a group's own std makes
    alpha meaningless in groups whose task rewards tie. `logging_steps=1` instead of 10: collapse happens within ten
    steps. `bf16` stays off on a CPU that has no instructions for it.
    """

    scale_rewards: Literal[REWARD_SCALES] = setting(
        "batch", "Divide advantages by the std of the whole batch ('batch'), of each group, or not ('none')."
    )
    # TRL's own setting and default; TRL finds a wrong one out after its first rollout.
    loss_type: Literal[LOSS_TYPES] = setting("dapo", "How the loss is summed over tokens and responses; see TRL.")
    std_floor: Annotated[float, Field(ge=0)] = setting(
        0.0, "Least std that advantages are divided by, in reward units; guards tie groups."
    )
    decouple_credit: bool = setting(
        False, "Scale the task reward alone and add the credit after, so that no std touches it."
    )
    logging_steps: float = setting(1, "Log every so many optimizer steps.")

    def _contradictions(self) -> Iterator[tuple[bool, str]]:
        yield from super()._contradictions()
        yield (
            self.scale_rewards == "none" and bool(self.std_floor or self.decouple_credit),
            "`std_floor` and `decouple_credit` guard against a std, got scale_rewards='none', which divides by none; "
            "remove them" + (" or set scale_rewards='group' or 'batch'." if self.centres_groups else "."),
        )


@dataclass
class DQORLOOConfig(DiversityArguments, RLOOConfig):
    """Settings of `DQORLOOTrainer`: TRL's `RLOOConfig` and the diversity settings.

    `num_generations=8` instead of 2, where the credit has no effect, `logging_steps=1` instead of 10, and `bf16` stays
    off on a CPU that has no instructions for it.
    """

    num_generations: int | None = setting(8, "Responses per prompt, at least 3.")
    logging_steps: float = setting(1, "Log every so many optimizer steps.")

    def _contradictions(self) -> Iterator[tuple[bool, str]]:
        yield from super()._contradictions()
        signal, setter = self.diversity_spec().signal, f"diversity={self.diversity!r}"
        yield (
            "old_logps" in signal.needs,
            f"{setter} weighs each token by its probability under the policy that sampled it, which RLOO does not "
            "keep; use algorithm grpo or diversity='entropy'.",
        )
        sets_advantages = signal.place == "advantage" or self.skip_tied_groups
        yield (
            sets_advantages and bool(self.beta or self.normalize_advantages),
            f"{'`skip_tied_groups`' if self.skip_tied_groups else setter} sets the advantages, in which RLOO keeps its "
            f"KL and normalisation, got beta={self.beta!r} and normalize_advantages={self.normalize_advantages!r}; set "
            "beta=0 and leave the other off, or use grpo.",
        )


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
        # TRL would start DeepSpeed.
        if self.deepspeed or str_to_bool(os.environ.get("ACCELERATE_USE_DEEPSPEED", "false")):
            raise RecipeError(
                "DeepSpeed drives one network per process, got PPO, which trains a critic as well; start with FSDP or "
                "plain data parallelism."
            )
        super().__post_init__()

    def _contradictions(self) -> Iterator[tuple[bool, str]]:
        yield from super()._contradictions()
        yield self.fp16, "PPO's critic has no loss scaling, got fp16=True; use bf16, or neither."
        yield (
            self.kl_in == "reward" and self.beta == 0,
            "kl_in='reward' needs `beta` above 0, got 0; set beta, or remove kl_in.",
        )
        yield (
            self.off_policy_mask_threshold is not None or self.loss_type == "vespo",
            "`off_policy_mask_threshold` and loss_type='vespo' go by the sign of a response's one advantage, got one "
            "of them with PPO, whose advantages differ by token; remove it or use algorithm grpo.",
        )
        yield (
            self.diversity_spec().signal.place == "advantage" or self.skip_tied_groups,
            "diversity='pass_at_k' and `skip_tied_groups` replace the advantages of a group, got them with PPO, whose "
            "advantages come from its critic; remove them or use algorithm grpo.",
        )
