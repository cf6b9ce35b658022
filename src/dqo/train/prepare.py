"""What a start-up looks up once: task, prompts, rewards, the policy's outline, warnings and the memory estimate.

A dry run prints it and training goes on from it. Nothing here loads the weights of a policy.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dqo.errors import DataError, RecipeError
from dqo.files.records import Prompt, read_prompts
from dqo.integrations.trl.config import DQOConfig, explaining_refusals
from dqo.integrations.trl.faults import check_one_device
from dqo.models.chat import check_system, rendered
from dqo.models.policy import check_whole, load_outline
from dqo.models.weights import check_login
from dqo.rewards.calling import CheckedReward, RecordReward, task_quality
from dqo.rewards.loading import QUALITY, Entry, load_reward
from dqo.tasks import Task, load_task, takes_path
from dqo.train.memory import PolicyShape, memory_parts, policy_shape
from dqo.train.recipe import LoraSettings, Recipe, peft_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_READ_LATE = ("optim", "report_to", "lr_scheduler_type", "lr_scheduler_kwargs")
_LATE_PACKAGES = {"use_vllm": "vllm", "use_liger_kernel": "liger_kernel"}
_ABOUT_SHAPE = ("length", "format", "ended")  # rewards that do not say whether a response is good


class Prepared:
    """Everything that a run needs beside its weights, each part looked up when it is first asked for.

    Args:
        recipe: Checked settings.

    Attributes:
        task: The task of the recipe.
        recipe: The recipe, with the task's length of a response where it sets none.
        config: TRL's settings.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.task: Task = load_task(recipe.task, **task_options(recipe))
        # How long a good answer is belongs to the task; a recipe may say otherwise.
        length = {"max_completion_length": self.task.max_completion_length}
        self.recipe = replace(recipe, trainer=length | recipe.trainer)
        self.config = self.recipe.config

    def look_up(self) -> None:
        """Looks up all that a run needs, and refuses all that can be refused before the policy is loaded."""
        self.check_machine()
        # Asking is looking up: prompts, task, tokenizer and every length come before the policy.
        _ = self.notes, self.lengths

    def check_machine(self) -> None:
        """Refuses what TRL notices late, after the policy is loaded: several GPUs, missing packages, no login."""
        from transformers import Trainer, get_scheduler
        from transformers.integrations import get_reporting_integration_callbacks

        config = self.config
        check_one_device(config)
        # A stand-in for what TRL builds after the policy is loaded, which would be the time to learn of a wrong word.
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        given = {name: value for name, value in self.recipe.trainer.items() if name in _READ_LATE}
        with explaining_refusals(given, kinds=(ValueError, RuntimeError, ImportError, TypeError)):
            for logger in get_reporting_integration_callbacks(config.report_to):
                logger()
            get_scheduler(config.lr_scheduler_type, optimizer, 1, 1, config.lr_scheduler_kwargs)
            Trainer.get_optimizer_cls_and_kwargs(config)
        for setting, package in _LATE_PACKAGES.items():
            if getattr(self.config, setting, False) and find_spec(package) is None:
                raise RecipeError(
                    f"trainer.{setting} needs the package {package!r}; install it, or remove the setting."
                )
        if self.config.push_to_hub:
            check_login()

    @cached_property
    def prompts(self) -> list[Prompt]:
        """What is trained on: the prompts of the task, or of the recipe's own file."""
        path = self.recipe.data.get("path")
        own = path is not None and not takes_path(self.recipe.task)
        prompts = read_prompts(Path(path).expanduser()) if own else self.task.prompts("train")
        if own:
            self._check_unseen(prompts, path)
        groups = self.config.generation_batch_size // self.config.num_generations
        if len(prompts) < groups:
            raise DataError(
                f"{path or 'task ' + repr(self.task.name)}: expected at least {groups} prompts to train on, one per "
                f"group of a step, got {len(prompts)}; add prompts or lower trainer.per_device_train_batch_size."
            )
        return prompts

    def _check_unseen(self, prompts: Sequence[Prompt], path: str) -> None:
        try:
            test = {prompt.prompt for prompt in self.task.prompts("test")}
        except DataError:
            # A task that reads files may have been given none for this split.
            return
        seen = [prompt.id for prompt in prompts if prompt.prompt in test]
        if seen:
            raise DataError(
                f"{path}: expected no prompt of the split 'test', which is for evaluation, got {len(seen)}, such as "
                f"{seen[0]!r}; leave them out."
            )

    @cached_property
    def outline(self) -> "tuple[PreTrainedTokenizerBase, PolicyShape]":
        """Tokenizer and shapes of the policy, after the rules that it must obey."""
        recipe = self.recipe
        # First, since it reads names and shapes alone and says which weight is missing.
        check_whole(recipe.model)
        config, tokenizer = load_outline(recipe.model)
        check_system(recipe.system_prompt, tokenizer.chat_template, recipe.model)
        # Built for its refusals; the trainer gets one of its own.
        peft_config(recipe.lora)
        lora = LoraSettings(**recipe.lora)
        shape = policy_shape(config, lora.r if recipe.lora else None, lora.target_modules)
        if not shape.trained:
            raise RecipeError(f"lora.target_modules: expected names of its layers, got {lora.target_modules!r}.")
        return tokenizer, shape

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
    def memory(self) -> dict[str, float]:
        """Estimate of a process's memory in GiB, by what it is for."""
        return memory_parts(self.outline[1], self.config, self.recipe.dtype, max(self.lengths))

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

    def rewards(self, stops: Collection[int]) -> list[RecordReward]:
        """Loads the rewards in the order of their weights, each with a name of its own in the logs."""
        functions: list[RecordReward] = []
        for entry in self.recipe.entries:
            own = entry.reward == QUALITY
            reward = CheckedReward(task_quality(self.task)) if own else load_reward(entry, self.recipe.output_dir)
            function = RecordReward(reward, self.prompts, stops, QUALITY if own else reward.__name__)
            # One name would be one column of the log.
            same = sum(other.__name__.split("_#")[0] == function.__name__ for other in functions)
            if same:
                function.__name__ += f"_#{same + 1}"
            functions.append(function)
        return functions


def task_options(recipe: Recipe) -> dict[str, Any]:
    """Lists the arguments of the task, the local copy of its data set among them where `data.path` names one."""
    path = recipe.data.get("path")
    return {**recipe.task_options, **({"path": path} if path and takes_path(recipe.task) else {})}


class PromptsDigest:
    """What a run is trained on, by which a resume notices that the data are no longer those of its checkpoint."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        digest = hashlib.sha256()
        for prompt in prompts:
            # The content, not the path: the same data may lie elsewhere on the next machine.
            line = json.dumps(asdict(prompt), ensure_ascii=False)
            digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
        self._digest = digest.hexdigest()

    def state(self) -> str:
        """Returns the digest, which a checkpoint keeps."""
        return self._digest

    def load(self, state: str) -> None:
        """Compares with the digest in a checkpoint."""
        if state != self._digest:
            raise DataError(
                "data: expected the prompts, references and meta that the run was trained on so far, got others; put "
                "the old data back, or start anew in another output_dir."
            )


def outcome_warning(task: Task, entries: Sequence[Entry], alpha: float, combine: str) -> str | None:
    """Warns where diversity is added to a reward that only tells right from wrong."""
    # A reward of form pays for no answer, so it does not make the reward more than right or wrong.
    paid = [entry for entry in entries if entry.weight > 0 and entry.reward not in _ABOUT_SHAPE]
    outcome = all(
        entry.reward == "math" or (entry.reward == QUALITY and getattr(task, "outcome_only", False)) for entry in paid
    )
    if alpha == 0 or not paid or not outcome:
        return None
    faults, remedies = [], []
    if not getattr(task, "cuts_span", False):
        faults.append("to answer and then to write something unique, which the whole embedded response is paid for")
        remedies.append("embed the answer span only (a task whose answer_span cuts, such as gsm8k)")
    if combine in ("add", "multiply"):
        faults.append("to be wrong in new ways")
        remedies.append("set combine: quality_weighted or gate, or use a reward model")
    if not faults:
        return None
    return (
        f"the reward tells right from wrong and nothing else, so with alpha={alpha:g} and combine={combine!r} a policy "
        f"can learn {' and '.join(faults)}; {' and '.join(remedies)}."
    )


def _scaling_warning(config: Any) -> str | None:
    """An alpha that is to move has no effect in tied groups that are divided by their own std."""
    if not config.alpha_moves or not config.diversity_spec().signal.acts_on_reward:
        return None
    if not isinstance(config, DQOConfig) or config.scale_rewards != "group":
        return None
    if config.std_floor or config.decouple_credit or config.skip_tied_groups:
        return None
    return (
        "scale_rewards='group' gives a group whose task rewards tie the same advantages whatever alpha is, so that an "
        "alpha that moves changes nothing there; set trainer.std_floor, of which 0.1 acts below an alpha of about 1, "
        "or trainer.decouple_credit=true."
    )
