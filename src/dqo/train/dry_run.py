"""`dqo train --dry-run`: everything a run needs is looked up and shown, nothing is trained and nothing is written.

What cannot be had from here, a model of the hub without a network above all, is listed at the end with its reason; the
rest is shown all the same, and the exit status is 1.
"""

import math
import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from dqo.errors import DQOError, RecipeError
from dqo.evaluation.quality import check_scoring
from dqo.files.records import Prompt
from dqo.integrations.trl.faults import check_one_device
from dqo.models.chat import check_system, rendered
from dqo.models.weights import check_login
from dqo.rewards.calling import task_quality
from dqo.rewards.loading import QUALITY, Entry, load_reward, read_entries
from dqo.tasks import Task
from dqo.train.failures import refusals_told
from dqo.train.folder import RunFolder
from dqo.train.inputs import check_lengths, recipe_task, run_notes, training_prompts
from dqo.train.memory import PolicyShape, memory_parts, policy_shape
from dqo.train.recipe import LoraSettings, Recipe, outside_training, peft_config

_LATE_PACKAGES = {"use_vllm": "vllm", "use_liger_kernel": "liger_kernel"}
SHOWN_PROMPTS, SHOWN_CHARACTERS = 3, 400

Found = TypeVar("Found")


class DryRun:
    """One dry run: lines as they are found out, and what could not be.

    Args:
        recipe: Checked settings.
        resume: Whether the folder may hold a run, which is to be continued.
    """

    def __init__(self, recipe: Recipe, resume: bool = False):
        self.task: Task = recipe_task(recipe)
        length = {"max_completion_length": self.task.max_completion_length}
        self.recipe = replace(recipe, trainer=length | recipe.trainer)
        self.config = self.recipe.config
        self.resume = resume
        self.unresolved: list[str] = []

    def run(self) -> int:
        """Print everything.

        Returns:
            0 if the run could start here, 1 if something could not be resolved.
        """
        _show("run", f"{self.recipe.algorithm}, alpha={self.config.alpha}, combine={self.config.combine}")
        _show("output", f"{self.recipe.output_dir} (a dry run writes nothing)")
        self._try("output", self._folder)
        self._try("packages", self._packages)
        self._try("devices", lambda: check_one_device(self.config))
        prompts = self._try("data", self._data) or []
        tokenizer, shape = self._try("policy", self._policy) or (None, None)
        self._rewards(prompts)
        self._try("encoder", self._encoder)
        self._try("held-out encoder", self._heldout)
        self._batch(len(prompts))
        if prompts and tokenizer is not None and shape is not None:
            self._try("lengths", lambda: self._lengths(prompts, tokenizer, shape))
        for number, prompt in enumerate(prompts[:SHOWN_PROMPTS], start=1):
            text = self._try("prompt", lambda text=prompt.prompt: self._rendered(text, tokenizer)) or prompt.prompt
            shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} … ({len(text):,} characters)"
            print(f"\n--- prompt {number}, {prompt.id}\n{shown}")
        for problem in self.unresolved:
            print(f"\nNOT RESOLVED  {problem}")
        count = len(self.unresolved)
        found = f"{count} thing{'s' * (count > 1)} could not be resolved." if count else "This run can start."
        print(f"\n{found}")
        return 1 if self.unresolved else 0

    def _rendered(self, prompt: str, tokenizer: Any) -> str:
        options = self.recipe.trainer.get("chat_template_kwargs")
        return prompt if tokenizer is None else rendered(prompt, tokenizer, self.recipe.system_prompt, options)

    def _try(self, what: str, find: Callable[[], Found]) -> Found | None:
        try:
            return find()
        except DQOError as error:
            _show(what, "not resolved, see below")
            self.unresolved.append(f"{what}: {' '.join(str(error).split())}")
            return None

    def _folder(self) -> None:
        """Whether the run's folder will do; where there is none, the nearest above it must take a new one."""
        path = Path(self.recipe.output_dir).expanduser().absolute()
        if path.is_dir():
            RunFolder(self.recipe.output_dir).check_content(self.resume)
        there = next(above for above in (path, *path.parents) if above.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise RecipeError(f"expected a place that can be written, got {str(there)!r}; set output_dir to another.")

    def _packages(self) -> None:
        """What the host imports late, after the policy is loaded."""
        from transformers.integrations import get_reporting_integration_callbacks

        with refusals_told():
            for logger in get_reporting_integration_callbacks(self.config.report_to):
                logger()
        for setting, package in _LATE_PACKAGES.items():
            if getattr(self.config, setting, False) and find_spec(package) is None:
                raise RecipeError(
                    f"trainer.{setting} needs the package {package!r}; install it, or remove the setting."
                )
        if self.config.push_to_hub:
            check_login()

    def _data(self) -> list[Prompt]:
        prompts = training_prompts(self.recipe, self.task)
        counts = [f"{len(prompts):,} to train on"]
        for split in ("dev", "test"):
            try:
                counts.append(f"{len(self.task.prompts(split)):,} {split}")
            except DQOError:  # a task that reads files may have been given none for this split
                counts.append(f"no {split}")
        _show("task", f"{self.recipe.task}: {', '.join(counts)} (from {self.recipe.data.get('path') or 'its source'})")
        for note in run_notes(self.recipe, self.task):
            _show("", note)
        return prompts

    def _policy(self) -> tuple[Any, PolicyShape]:
        from dqo.models.policy import check_whole, load_outline

        check_whole(self.recipe.model)
        model_config, tokenizer = load_outline(self.recipe.model)
        check_system(self.recipe.system_prompt, tokenizer.chat_template, self.recipe.model)
        peft_config(self.recipe.lora)
        lora = LoraSettings(**self.recipe.lora)
        shape = policy_shape(model_config, lora.r if self.recipe.lora else None, lora.target_modules)
        if not shape.trained:
            raise RecipeError(f"lora.target_modules: expected names of its layers, got {lora.target_modules!r}.")
        trained = "all trained" if shape.trained == shape.parameters else f"LoRA trains {shape.trained / 1e6:,.1f} M"
        _show(
            "policy",
            f"{self.recipe.model}: {shape.kind}, {shape.parameters / 1e6:,.1f} M weights in {self.recipe.dtype}, "
            f"{trained}; {shape.layers} layers of width {shape.width}, {shape.positions or 'any number of'} positions",
        )
        return tokenizer, shape

    def _rewards(self, prompts: list[Prompt]) -> None:
        for entry in read_entries(self.recipe.rewards):
            options = ", ".join(f"{name}={value!r}" for name, value in entry.options.items())
            label = f"{entry.weight:g} × {entry.reward}" + (f" ({options})" if options else "")
            if self._try(f"reward {entry.reward}", lambda entry=entry: self._check(entry, prompts[:1])):
                _show("reward", label)

    def _check(self, entry: Entry, prompts: list[Prompt]) -> bool:
        """What no model is needed for scores one response: a dead judge, a missing column or a bug shows here."""
        if entry.reward == QUALITY:
            if getattr(self.task, "scores_in_dry_run", False):
                for prompt in prompts:
                    check_scoring(prompt, task_quality(self.task))
        elif entry.reward == "reward_model":
            from dqo.rewards.reward_model import check_outline

            check_outline(str(entry.options.get("model")))
        elif entry.reward in ("fluency", "likelihood"):
            from dqo.models.policy import DEFAULT_POLICY, load_outline

            load_outline(entry.options.get("model", DEFAULT_POLICY))
        else:
            reward = load_reward(entry)
            for prompt in prompts:
                check_scoring(prompt, reward)
        return True

    def _encoder(self) -> None:
        from dqo.embedders import load_embedder
        from dqo.models.policy import load_outline

        name = outside_training(self.config.encoder, self.recipe.model)
        if name.startswith("policy:"):  # the weights themselves may be large
            source = name.removeprefix("policy:")
            width = load_outline(source)[0].get_text_config().hidden_size
        else:
            chosen = {"device": self.config.encoder_device, "batch_size": self.config.encoder_batch_size}
            width = load_embedder(name, dtype=self.config.encoder_dtype, **chosen)(["a word"]).shape[1]
        _show(
            "encoder", f"{self.config.encoder}: {width} wide; kernel {self.config.kernel}, ridge {self.config.ridge:g}"
        )

    def _heldout(self) -> None:
        if self.recipe.heldout_encoder is not None:
            from dqo.embedders import load_embedder

            name = outside_training(self.recipe.heldout_encoder, self.recipe.model)
            _show("held out", f"{name}: {load_embedder(name)(['a word']).shape[1]} wide, for evaluation only")

    def _batch(self, available: int) -> None:
        config, processes = self.config, int(os.environ.get("WORLD_SIZE", "1"))
        group, total = config.num_generations, config.generation_batch_size
        _show(
            "batch",
            f"{processes} process(es) × {config.per_device_train_batch_size} rows × {config.steps_per_generation} "
            f"passes = {total} responses = {total // group} prompts × {group} responses, sampled at a time",
        )
        at_a_time = total // group
        passes_a_rollout = config.steps_per_generation * getattr(config, "num_iterations", 1)
        prompts_a_step = at_a_time * config.gradient_accumulation_steps / passes_a_rollout
        steps = config.max_steps
        if steps <= 0:  # the host leaves out what fills no rollout at the end of an epoch
            an_epoch = math.ceil(available // at_a_time * passes_a_rollout / config.gradient_accumulation_steps)
            steps = math.ceil(config.num_train_epochs * an_epoch)
        seen = steps * prompts_a_step
        passes = f", {seen / available:.2f} passes over the data" if available else ""
        if available % at_a_time and seen >= available - available % at_a_time:
            passes += f", of which each leaves out {available % at_a_time} prompts that fill no rollout"
        _show("steps", f"{steps:,} optimizer steps of {prompts_a_step:g} prompts: {seen:,.0f} prompts{passes}")

    def _lengths(self, prompts: list[Prompt], tokenizer: Any, shape: PolicyShape) -> None:
        lengths = check_lengths(prompts, tokenizer, shape.positions, self.recipe)
        longest = max(lengths)
        _show(
            "tokens",
            f"prompts of {statistics.median(lengths):.0f} (median) to {longest} tokens, responses of up to "
            f"{self.config.max_completion_length}",
        )
        parts = memory_parts(shape, self.config, self.recipe.dtype, longest)
        _show(
            "memory",
            f"about {sum(parts.values()):.1f} GiB a process, not sharded and without encoder and reward models: "
            + ", ".join(f"{name} {value:.1f}" for name, value in parts.items()),
        )


def _show(what: str, text: str) -> None:
    print(f"{what:9} {text}")
