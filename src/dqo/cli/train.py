"""`dqo train`: recipe -> task, policy and trainer -> run folder."""

import argparse
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dqo.cli.recipe import Recipe, load_recipe, save_resolved
from dqo.cli.run_folder import RunFolder
from dqo.cli.yaml_reader import read_yaml_file
from dqo.errors import DataError, RecipeError
from dqo.integrations.trl import DQORLOOTrainer, DQOTrainer
from dqo.integrations.trl.progress import compact_progress
from dqo.integrations.trl.run_log import RunLog
from dqo.models import load_policy
from dqo.records import Prompt, read_prompts
from dqo.rewards import TaskReward
from dqo.rewards.task_reward import encode_record
from dqo.tasks import Task, load_task

if TYPE_CHECKING:
    from datasets import Dataset

TRAINERS = {"grpo": DQOTrainer, "rloo": DQORLOOTrainer}
# What may change between a run and its continuation: how long it goes on, and what it costs to watch and keep.
_MAY_CHANGE = ("max_steps", "num_train_epochs", "save_", "logging_", "log_", "disable_tqdm", "report_to", "dataloader_")


def run(args: argparse.Namespace) -> None:
    """Train a policy; everything that can be refused is refused before the policy is loaded.

    Args:
        args: `recipe`, `settings` (overrides) and `resume`.

    Raises:
        DQOError: A recipe, task, data file, folder, model or encoder that does not do.
    """
    recipe = load_recipe(args.recipe, args.settings)
    folder = RunFolder(recipe.output_dir)
    if _is_main_process():
        folder.prepare(args.resume)
    task = load_task(recipe.task, **recipe.task_options)
    recipe = replace(recipe, trainer={"max_completion_length": task.max_completion_length} | recipe.trainer)
    prompts = training_prompts(recipe, task)
    settings = recipe.resolved()  # now, because a trainer changes the arguments it is given
    checkpoint = _resumed(settings, folder) if args.resume else None
    trainer = build_trainer(recipe, task, prompts, folder)
    start = time.monotonic()
    try:
        with folder.writing(), compact_progress(trainer):
            if _is_main_process():
                save_resolved(folder.config, settings)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            _save_final(trainer, folder)
    except KeyboardInterrupt:
        _say("stopped; the same command with --resume continues from the newest checkpoint")
        raise
    if _is_main_process():
        print(_farewell(recipe, task, folder, trainer.state.global_step, time.monotonic() - start))


def training_prompts(recipe: Recipe, task: Task) -> list[Prompt]:
    """The prompts to train on: those of the task, or of the recipe's own file.

    Args:
        recipe: Names the file and the batch.
        task: Has the prompts of the split "train".

    Returns:
        The prompts.

    Raises:
        DataError: A bad file, or fewer prompts than one generation batch holds groups.
    """
    path = recipe.data.get("path")
    prompts = read_prompts(path) if path else task.prompts("train")
    config = recipe.config
    groups = config.generation_batch_size // config.num_generations
    if len(prompts) < groups:
        raise DataError(
            f"{path or 'task ' + repr(task.name)}: expected at least {groups} prompts to train on, one a group of a "
            f"step, got {len(prompts)}; add prompts or lower trainer.per_device_train_batch_size."
        )
    return prompts


def build_trainer(recipe: Recipe, task: Task, prompts: list[Prompt], folder: RunFolder) -> Any:
    """The trainer, its policy and data loaded, with the run's log.

    Args:
        recipe: Checked settings.
        task: Scores the responses and chooses what is embedded.
        prompts: What to train on.
        folder: Where the log goes.

    Returns:
        DQOTrainer or DQORLOOTrainer.

    Raises:
        DQOError: A model or encoder that cannot be loaded.
    """
    model, tokenizer = load_policy(recipe.model)
    own = model.generation_config.eos_token_id
    stops = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    return TRAINERS[recipe.algorithm](
        model,
        reward_funcs=TaskReward(task, eos_token_ids=stops),
        args=recipe.config,
        train_dataset=_dataset(prompts, chat=bool(tokenizer.chat_template)),
        processing_class=tokenizer,
        answer_span=task.answer_span,
        callbacks=[RunLog(folder.metrics)],
    )


def _dataset(prompts: list[Prompt], chat: bool) -> "Dataset":
    """Rows as the host takes them, with the record that TaskReward reads."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": prompt.prompt}] if chat else prompt.prompt,
                "record": encode_record(prompt),
            }
            for prompt in prompts
        ]
    )


def _resumed(settings: Mapping[str, Any], folder: RunFolder) -> Any:
    """The checkpoint to continue from, after a check that it belongs to this recipe; None starts from scratch."""
    checkpoint = folder.newest_checkpoint()
    if checkpoint is None:
        _say(f"{folder.path} holds no complete checkpoint yet, so the run starts from scratch")
        return None
    before, now = (
        {name: value for name, value in document.items() if name != "trainer"} | document["trainer"]
        for document in (read_yaml_file(folder.config), settings)
    )
    for name, value in now.items():
        if name != "output_dir" and not name.startswith(_MAY_CHANGE) and before.get(name) != value:
            raise RecipeError(
                f"{folder.config}: expected the recipe of the run that --resume continues, but {name!r} was "
                f"{before.get(name)!r} and is now {value!r}; set it back, or start anew in another output_dir."
            )
    _say(f"continuing from {checkpoint}")
    return checkpoint


def _farewell(recipe: Recipe, task: Task, folder: RunFolder, steps: int, seconds: float) -> str:
    """What there is now, and the command that comes next."""
    command = ["dqo", "eval", "--model", str(folder.path), "--task", recipe.task]
    for name, value in recipe.task_options.items():
        command += ["--task-option", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    command += [*_unseen_prompts(recipe, task), "--max-new-tokens", str(recipe.config.max_completion_length)]
    command += ["--encoder", recipe.config.encoder]
    if recipe.heldout_encoder:
        command += ["--heldout-encoder", recipe.heldout_encoder]
    command += ["--out", str(folder.eval)]
    return (
        f"Trained to step {steps} in {seconds / 60:.1f} min.\n"
        f"  policy: {folder.final}\n  log:    {folder.metrics}\n  next:   {shlex.join(command)}"
    )


def _unseen_prompts(recipe: Recipe, task: Task) -> list[str]:
    """Flags of `dqo eval` for the best prompts there are: the task's test split before dev, before those trained on."""
    for split in ("test", "dev", "train"):
        try:
            if task.prompts(split):
                return ["--split", split]
        except DataError:  # a task that reads files may have been given no file for this split
            continue
    return ["--data", recipe.data["path"]]


def _save_final(trainer: Any, folder: RunFolder) -> None:
    """Policy and tokenizer under a passing name first, so that a `final` that exists is whole."""
    partial = folder.final.with_name("final.partial")
    trainer.save_model(str(partial))
    trainer.accelerator.wait_for_everyone()
    if _is_main_process():
        shutil.rmtree(folder.final, ignore_errors=True)  # of a finished run that is continued
        partial.replace(folder.final)


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say(sentence: str) -> None:
    if _is_main_process():
        print(f"dqo: {sentence}", file=sys.stderr)
