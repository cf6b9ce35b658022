"""`dqo train --dry-run`: everything that a run prepares is shown, nothing is trained and nothing is written.

What cannot be had from here, a model of the hub without a network above all, is listed at the end with its reason; the
rest is shown all the same, and the exit status is 1.
"""

import math
import os
import statistics
from collections.abc import Callable
from typing import Any, TypeVar

from dqo.errors import DQOError, printable
from dqo.evaluation.quality import check_scoring
from dqo.files.run import RunPaths
from dqo.models.policy import DEFAULT_POLICY, load_outline
from dqo.rewards.calling import task_quality
from dqo.rewards.loading import QUALITY, Entry, load_reward
from dqo.rewards.reward_model import check_outline
from dqo.tasks import load_encoder
from dqo.tasks.jsonl import JsonlTask
from dqo.train.folder import check_free
from dqo.train.prepare import Prepared, count_prompts
from dqo.train.recipe import Recipe, outside_training

SHOWN_PROMPTS, SHOWN_CHARACTERS = 3, 400

Found = TypeVar("Found")


class DryRun:
    """One dry run: lines as they are found out, and what could not be."""

    def __init__(self, recipe: Recipe, resume: bool = False):
        self.prepared = Prepared(recipe)
        self.recipe, self.config = self.prepared.recipe, self.prepared.config
        self.resume = resume
        self.unresolved: dict[str, str] = {}  # what -> why

    def run(self) -> int:
        """Prints everything: 0 if the run could start here, 1 if something could not be resolved."""
        prepared = self.prepared
        show("run", f"{self.recipe.algorithm}, alpha={self.config.alpha}, combine={self.config.combine}")
        show("output", f"{self.recipe.output_dir} (a dry run writes nothing)")
        self._try("output", lambda: check_free(RunPaths(self.recipe.output_dir), self.resume))
        self._try("machine", prepared.check_machine)
        prompts = self._try("data", lambda: prepared.prompts) or []
        if prompts:
            self._show_data()
        outline = self._try("policy", lambda: prepared.outline)
        if outline:
            self._show_policy(outline[1])
        for entry in self.recipe.entries:
            self._try(f"reward {entry.reward}", lambda one=entry: self._show_reward(one))
        self._try("encoder", lambda: self._show_encoder("encoder", self.config.encoder))
        if self.recipe.heldout_encoder:
            self._try("held-out encoder", lambda: self._show_encoder("held out", self.recipe.heldout_encoder))
        self._show_batch(len(prompts))
        if prompts and outline:
            self._try("lengths", self._show_lengths)
        for number, prompt in enumerate(prompts[:SHOWN_PROMPTS], start=1):
            shown = str(self._try("prompt", lambda one=prompt: prepared.rendered(one)) if outline else prompt.prompt)
            if len(shown) > SHOWN_CHARACTERS:
                shown = f"{shown[:SHOWN_CHARACTERS]} … ({len(shown):,} characters)"
            print(f"\n--- prompt {number}, {prompt.id}\n{shown}")
        for what, why in self.unresolved.items():
            print(f"\nNOT RESOLVED  {what}: {printable(why)}")
        missing = len(self.unresolved)
        ready = "This run can start. `dqo probe` on the same recipe shows whether there is anything to learn."
        print(f"\n{missing} could not be resolved." if missing else f"\n{ready}")
        return int(bool(missing))

    def _try(self, what: str, find: Callable[[], Found]) -> Found | None:
        try:
            return find()
        except DQOError as error:
            show(what, "not resolved, see below")
            self.unresolved[what] = str(error)
            return None

    def _show_data(self) -> None:
        counts = ", ".join(f"{count:,} {split}" for split, count in count_prompts(self.prepared.task).items())
        show("task", f"{self.recipe.task}: {counts} (from {self.recipe.data.get('path') or 'its source'})")
        for note in self.prepared.notes:
            show("", note)

    def _show_policy(self, shape: Any) -> None:
        text = shape.text
        trained = "all trained" if shape.trained == shape.parameters else f"LoRA trains {shape.trained / 1e6:,.1f} M"
        show(
            "policy",
            f"{self.recipe.model}: {shape.kind}, {shape.parameters / 1e6:,.1f} M weights in {self.recipe.dtype}, "
            f"{trained}; {text.num_hidden_layers} layers of width {text.hidden_size}, "
            f"{shape.positions or 'any number of'} positions",
        )

    def _show_reward(self, entry: Entry) -> None:
        """Scores one response where no model is needed: a dead judge, a missing column or a bug shows here."""
        task = self.prepared.task
        if entry.reward == "reward_model":
            check_outline(str(entry.options.get("model")))
        elif entry.reward in ("fluency", "likelihood"):
            load_outline(entry.options.get("model", DEFAULT_POLICY))
        elif entry.reward != QUALITY or isinstance(task, JsonlTask):
            reward = task_quality(task) if entry.reward == QUALITY else load_reward(entry)
            # Prompts that could not be read are reported by themselves.
            for prompt in self.prepared.prompts[:1] if "data" not in self.unresolved else ():
                check_scoring(prompt, reward)
        options = ", ".join(f"{name}={value!r}" for name, value in entry.options.items())
        show("reward", f"{entry.weight:g} × {entry.reward}" + (f" ({options})" if options else ""))

    def _show_encoder(self, what: str, encoder: str) -> None:
        name = outside_training(encoder, self.recipe.model)
        # The weights of a policy may be large: its config tells the width.
        if name.startswith("policy:"):
            width = load_outline(name.removeprefix("policy:"))[0].get_text_config().hidden_size
        else:
            embed = load_encoder(name, self.prepared.task, **self.config.encoder_options())
            width = embed(["a word"]).shape[1]
        show(what, f"{encoder}: {width} wide")

    def _show_batch(self, available: int) -> None:
        config, processes = self.config, int(os.environ.get("WORLD_SIZE", "1"))
        group, total = config.num_generations, config.generation_batch_size
        at_a_time = total // group
        show(
            "batch",
            f"{processes} process(es) × {config.per_device_train_batch_size} rows × {config.steps_per_generation} "
            f"passes = {total} responses = {at_a_time} prompts × {group} responses, sampled at a time",
        )
        passes_a_rollout = config.steps_per_generation * getattr(config, "num_iterations", 1)
        prompts_a_step = at_a_time * config.gradient_accumulation_steps / passes_a_rollout
        steps = config.max_steps
        if steps <= 0:
            # What fills no rollout at the end of an epoch is left out.
            an_epoch = math.ceil(available // at_a_time * passes_a_rollout / config.gradient_accumulation_steps)
            steps = math.ceil(config.num_train_epochs * an_epoch)
        seen = steps * prompts_a_step
        passes = f", {seen / available:.2f} passes over the data" if available else ""
        show("steps", f"{steps:,} optimizer steps of {prompts_a_step:g} prompts: {seen:,.0f} prompts{passes}")

    def _show_lengths(self) -> None:
        lengths = self.prepared.lengths
        show(
            "tokens",
            f"prompts of {statistics.median(lengths):.0f} (median) to {max(lengths)} tokens, responses of up to "
            f"{self.config.max_completion_length}",
        )
        show("memory", f"{self.prepared.memory} (a process, not sharded)")


def show(what: str, text: str) -> None:
    """Prints a line of what was looked up."""
    print(f"{what:9} {text}")
