"""What a start-up looks up once: task, prompts, rewards, the policy's outline, warnings and the memory estimate.

A dry run prints it and training goes on from it. Nothing here loads the weights of a policy.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase, Trainer
from transformers.integrations import get_reporting_integration_callbacks

from dqo.errors import DataError, ModelError, refuse
from dqo.files.records import Prompt
from dqo.integrations.trl.config import DQOConfig, explaining_refusals
from dqo.integrations.trl.faults import list_misfits
from dqo.models.chat import check_system, rendered
from dqo.models.policy import check_whole, load_outline
from dqo.models.weights import first_words
from dqo.rewards.calling import CheckedReward, RecordReward, task_quality
from dqo.rewards.loading import QUALITY, Entry, load_reward
from dqo.tasks import OWN_FEATURES, Task, load_encoder, load_task
from dqo.train.recipe import Recipe, peft_config

_READ_LATE = ("optim", "report_to", "use_vllm", "use_liger_kernel")
_LATE_PACKAGES = {"use_vllm": "vllm", "use_liger_kernel": "liger_kernel"}
GIB = 2**30
# Numbers a transformer layer keeps for the backward pass, per token and unit of width, attention matrices not stored
# (34 bytes in 16-bit arithmetic: Korthikanti et al., arXiv 2205.05198, eq. 1 and section 5).
_KEPT = 17
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_ABOUT_SHAPE = ("length", "format", "ended")  # rewards that do not say whether a response is good


class Prepared:
    """Everything that a run needs beside its weights, each part looked up when it is first asked for.

    Args:
        recipe: Checked settings.

    Attributes:
        task: The task of the recipe.
        recipe: The recipe, with the task's length of a response where it sets none.
        config: TRL's settings.
        own_features: The task's own features where the recipe asks for them; None leaves the encoder to the trainer.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.task: Task = load_task(recipe.task, **recipe.task_options | recipe.data)
        # How long a good answer is belongs to the task; a recipe may say otherwise.
        length = {"max_completion_length": self.task.max_completion_length}
        self.recipe = replace(recipe, trainer=length | recipe.trainer)
        self.config = self.recipe.config
        self.own_features = load_encoder(OWN_FEATURES, self.task) if self.config.encoder == OWN_FEATURES else None

    def check_machine(self) -> None:
        """Refuses what TRL notices late, after the policy is loaded: several GPUs, missing packages."""
        config = self.config
        refuse(list_misfits(config, type(config)))
        given = {name: value for name, value in self.recipe.trainer.items() if name in _READ_LATE}
        with explaining_refusals(given, kinds=(ValueError, RuntimeError, ImportError)):
            for logger in get_reporting_integration_callbacks(config.report_to):
                logger()
            Trainer.get_optimizer_cls_and_kwargs(config)
            for setting, package in _LATE_PACKAGES.items():
                if getattr(config, setting, False):
                    version(package)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """What is trained on."""
        prompts = self.task.prompts("train")
        groups = self.config.generation_batch_size // self.config.num_generations
        if len(prompts) < groups:
            raise DataError(
                f"task {self.task.name!r}: expected at least {groups} prompts to train on, one per group of a step, "
                f"got {len(prompts)}; add prompts or lower trainer.per_device_train_batch_size."
            )
        return prompts

    @cached_property
    def outline(self) -> "tuple[PreTrainedTokenizerBase, PolicyShape]":
        """Tokenizer and shapes of the policy, after the rules that it must obey."""
        recipe = self.recipe
        # First, since it reads names and shapes alone and says which weight is missing.
        check_whole(recipe.model)
        config, tokenizer = load_outline(recipe.model)
        check_system(recipe.system_prompt, tokenizer.chat_template, recipe.model)
        return tokenizer, policy_shape(config, peft_config(recipe.lora))

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each prompt as the policy gets it, after a check that each leaves room for a response."""
        tokenizer, shape = self.outline
        texts = [self.rendered(prompt) for prompt in self.prompts]
        # A chat template writes the special tokens itself.
        ids = tokenizer(texts, add_special_tokens=not tokenizer.chat_template, verbose=False)["input_ids"]
        lengths = [len(row) for row in ids]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        most = self.config.max_completion_length
        if shape.positions and lengths[longest] + most > shape.positions:
            raise DataError(
                f"prompt {self.prompts[longest].id!r}: expected at most {shape.positions} tokens with the response, "
                f"the context of the model, got {lengths[longest]} and up to {most} of the response; shorten the "
                "prompt (max_article_words of cnn_dailymail does) or lower trainer.max_completion_length."
            )
        return lengths

    def rendered(self, prompt: Prompt) -> str:
        """Writes a prompt as the policy gets it, chat template included."""
        options = self.recipe.trainer.get("chat_template_kwargs")
        return rendered(prompt.prompt, self.outline[0], self.recipe.system_prompt, options)

    @cached_property
    def memory(self) -> str:
        """Estimate of a process's memory, by what it is for."""
        parts = memory_parts(self.outline[1], self.config, self.recipe.dtype, max(self.lengths))
        listed = ", ".join(f"{name} {value:.2g}" for name, value in parts.items())
        return f"about {sum(parts.values()):.2g} GiB without encoder and reward models: {listed}"

    @cached_property
    def notes(self) -> list[str]:
        """What to say before training: what was left out of the data, and settings without their effect."""
        # A task notes what it leaves out while it reads.
        _ = self.prompts
        config = self.config
        warnings = (
            outcome_warning(self.task, self.recipe.entries, config.largest_alpha, config.combine),
            _scaling_warning(config),
        )
        notes = [f"{note}." for note in getattr(self.task, "notes", [])]
        return [*notes, *(f"warning: {warning}" for warning in warnings if warning)]

    def reward_functions(self, folder: str | None = None) -> list[CheckedReward]:
        """Loads the rewards in the order of their weights; a judge keeps its replies in the folder."""
        return [
            CheckedReward(task_quality(self.task)) if entry.reward == QUALITY else load_reward(entry, folder)
            for entry in self.recipe.entries
        ]

    def rewards(self, stops: Collection[int]) -> list[RecordReward]:
        """Loads the rewards as TRL calls them, by the row of a prompt."""
        functions = zip(self.recipe.entries, self.reward_functions(self.recipe.output_dir), strict=True)
        return [
            RecordReward(reward, self.prompts, stops, QUALITY if entry.reward == QUALITY else reward.__name__)
            for entry, reward in functions
        ]


def count_prompts(task: Task) -> dict[str, int]:
    """Counts the prompts of each split that a task has."""
    counts = {}
    for split in ("train", "dev", "test"):
        # A task that reads files may have been given none for this split.
        with suppress(DataError):
            counts[split] = len(task.prompts(split))
    return counts


def digest(prompts: Sequence[Prompt]) -> str:
    """Makes a number of what a run is trained on, by which a resume notices other data."""
    # Of the content, not the path: the same data may lie elsewhere on the next machine.
    content = json.dumps([asdict(prompt) for prompt in prompts])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def outcome_warning(task: Task, entries: Sequence[Entry], alpha: float, combine: str) -> str | None:
    """Warns where diversity is added to a reward that only tells right from wrong."""
    # A reward of form pays for no answer, so it does not make the reward more than right or wrong.
    paid = [entry for entry in entries if entry.weight > 0 and entry.reward not in _ABOUT_SHAPE]
    outcome = all(
        entry.reward == "math" or (entry.reward == QUALITY and getattr(task, "outcome_only", False)) for entry in paid
    )
    if alpha == 0 or not paid or not outcome:
        return None
    ways = []
    if not getattr(task, "cuts_span", False):
        ways.append("to answer and then to write something unique (embed the answer alone, by a task that cuts it out)")
    if combine in ("add", "multiply"):
        ways.append("to be wrong in new ways (set combine: spread and quality_threshold, or combine: quality_weighted)")
    warning = (
        f"the reward tells right from wrong and nothing else, so with alpha={alpha:g} and combine={combine!r} a policy"
    )
    return f"{warning} can learn {' and '.join(ways)}." if ways else None


def _scaling_warning(config: Any) -> str | None:
    """An alpha that is to move has no effect in tied groups that are divided by their own std."""
    acts = config.alpha_moves and config.diversity_spec().signal.acts_on_reward
    tied_are_scaled = isinstance(config, DQOConfig) and config.scale_rewards == "group"
    if not acts or not tied_are_scaled or config.std_floor or config.decouple_credit or config.skip_tied_groups:
        return None
    return (
        "scale_rewards='group' gives a group whose task rewards tie the same advantages whatever alpha is, so that an "
        "alpha that moves changes nothing there; set trainer.std_floor, of which 0.1 acts below an alpha of about 1, "
        "or trainer.decouple_credit=true."
    )


# How much accelerator memory a run will take, from shapes alone: an estimate to plan with, no measurement.


@dataclass(frozen=True)
class PolicyShape:
    """What the estimate needs to know of a policy.

    Attributes:
        kind: Class of the model.
        parameters: Number of weights.
        trained: Those that are trained: all of them, or the LoRA additions.
        text: Config of the part that writes, which of a model that takes images is a part.
    """

    kind: str
    parameters: int
    trained: int
    text: PretrainedConfig

    @property
    def positions(self) -> int | None:
        """Longest sequence; None where the model does not say."""
        return getattr(self.text, "max_position_embeddings", None)


def policy_shape(config: PretrainedConfig, lora: LoraConfig | None) -> PolicyShape:
    """Shapes of a model that is built without memory for its weights."""
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise ModelError(f"expected a causal language model, but got a {config.model_type} ({first_words(error)}); "
                         "choose another.") from error  # fmt: skip
    kind, parameters = type(model).__name__, model.num_parameters()
    if lora is not None:
        with explaining_refusals({"target_modules": lora.target_modules}, "lora: peft"):
            model = get_peft_model(model, lora)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return PolicyShape(kind, parameters, trained, config.get_text_config())


def kv_width(config: PretrainedConfig) -> int:
    """Width of one token's keys, or values, over all layers; 0 for models without attention, such as Mamba."""
    alike = not getattr(config, "is_heterogeneous", False)  # else numbers of heads differ from layer to layer
    layers = [config] * config.num_hidden_layers if alike else config.per_layer_config
    total = 0
    for layer in layers:
        if heads := getattr(layer, "num_attention_heads", None):
            width = getattr(layer, "head_dim", None) or layer.hidden_size // heads
            total += (getattr(layer, "num_key_value_heads", None) or heads) * width
    return total


def memory_parts(shape: PolicyShape, config: Any, dtype: str, longest_prompt: int) -> dict[str, float]:
    """Estimates the memory of one process without sharding, in GiB under what it is for."""
    size = _BYTES[dtype]
    working = 2 if config.bf16 or config.fp16 else size  # bytes of a number in the forward pass
    tuned = size if shape.trained == shape.parameters else 4  # peft keeps additions in float32
    text = shape.text
    rows, tokens = config.per_device_train_batch_size, longest_prompt + config.max_completion_length
    layer = rows * tokens * text.hidden_size * working * _KEPT
    checkpointed = rows * tokens * text.hidden_size * working * text.num_hidden_layers + layer
    generated = min(rows * (config.steps_per_generation or 1), config.generation_batch_size)
    parts = {
        "weights": shape.parameters * size,
        "gradients": shape.trained * tuned,
        "Adam's moments": 2 * shape.trained * tuned,
        "critic": 4 * 4 * shape.parameters if hasattr(config, "critic_learning_rate") else 0,
        "reference": shape.parameters * size if config.beta and shape.trained == shape.parameters else 0,
        "activations": checkpointed if config.gradient_checkpointing else layer * text.num_hidden_layers,
        "logits": 2 * rows * config.max_completion_length * text.vocab_size * 4,
        "keys and values": 0 if config.use_vllm else 2 * generated * tokens * kv_width(text) * working,
    }
    return {name: value / GIB for name, value in parts.items() if value}
