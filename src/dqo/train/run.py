"""`dqo train`: recipe -> task, policy and trainer -> run folder."""

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from dqo.errors import DataError, DQOError, RecipeError, TrainingError
from dqo.files.jsonio import parse_object, read_text, writing
from dqo.files.records import Prompt
from dqo.files.run import STATE, newest_whole, remembered
from dqo.integrations.trl import DQOPPOTrainer, DQORLOOTrainer, DQOTrainer
from dqo.integrations.trl.faults import SaveOnSignal
from dqo.integrations.trl.log import RunLog, showing_progress
from dqo.models.chat import conversation
from dqo.models.policy import load_policy
from dqo.models.weights import first_words
from dqo.tasks import Task, option_flags
from dqo.train.dry_run import DryRun
from dqo.train.folder import RunFolder, check_same_run, machine_notes, resolved_settings, save_settings
from dqo.train.prepare import Prepared, PromptsDigest, task_options
from dqo.train.recipe import Recipe, load_recipe, outside_training, peft_config, read_settings

TRAINERS = {"grpo": DQOTrainer, "rloo": DQORLOOTrainer, "ppo": DQOPPOTrainer}


def run(args: argparse.Namespace) -> int | None:
    """Trains a policy; everything that can be refused is refused before the policy is loaded."""
    recipe = load_recipe(args.recipe, args.settings)
    if args.dry_run:
        return DryRun(recipe, args.resume).run()
    folder = RunFolder(recipe.output_dir)
    # One process of several owns the folder: a lock by each would be a quarrel among themselves.
    with folder.owned(args.resume) if _is_main_process() else nullcontext():
        return _train(recipe, folder, args.resume)


def _train(recipe: Recipe, folder: RunFolder, resume: bool) -> int | None:
    """Trains in a folder that this run owns."""
    prepared = Prepared(recipe)
    settings = prepared.recipe.settings()
    # Before the models are looked up: a resume with another model is refused as that.
    found = _resumed(settings, folder, prepared.prompts) if resume and _is_main_process() else (None, False)
    prepared.look_up()
    for sentence in prepared.notes:
        _say(sentence)
    # The main process alone has read every file of the checkpoint.
    checkpoint, finished = broadcast_object_list(list(found))
    if finished:
        _say(f"{folder.path} has finished with these settings; there is nothing left to train")
        return None
    trainer = build_trainer(prepared, folder)
    start, stop = time.monotonic(), SaveOnSignal()
    try:
        with stop.listening(), showing_progress(trainer), _explaining_out_of_memory(prepared, trainer):
            if _is_main_process():
                resolved = resolved_settings(settings, trainer)
                for note in machine_notes(folder.resolved, resolved) if checkpoint else ():
                    _say(note)
                save_settings(folder.config, settings)
                save_settings(folder.resolved, resolved)
            trainer.add_callback(stop)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            if stop.asked:
                step = trainer.state.global_step
                _say(f"{stop.reason}: step {step} is saved; the same command with --resume goes on")
                return 128 + stop.signal
            _save_final(trainer, folder)
    except DQOError:
        # What was refused leaves the folder free for the corrected recipe.
        if _is_main_process() and checkpoint is None:
            folder.forget_start()
        raise
    if _is_main_process():
        print(_farewell(prepared.recipe, prepared.task, folder, trainer.state.global_step, time.monotonic() - start))
    return None


def build_trainer(prepared: Prepared, folder: RunFolder) -> Any:
    """Loads the policy and makes the trainer, with the run's log."""
    from datasets import Dataset

    recipe, prompts = prepared.recipe, prepared.prompts
    model, tokenizer = load_policy(recipe.model, dtype=recipe.dtype)
    own = model.generation_config.eos_token_id
    # Chat models often end a turn with another token than a text.
    stops = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    asked = [
        conversation(prompt.prompt, recipe.system_prompt) if tokenizer.chat_template else prompt.prompt
        for prompt in prompts
    ]
    trainer = TRAINERS[recipe.algorithm](
        model,
        reward_funcs=prepared.rewards(stops),
        args=prepared.config,
        # A prompt's references and meta stay here: rewards find them by the row.
        train_dataset=Dataset.from_dict({"prompt": asked, "row": range(len(prompts))}),
        processing_class=tokenizer,
        answer_span=prepared.task.answer_span,
        peft_config=peft_config(recipe.lora),
        callbacks=[RunLog(folder.metrics)],
    )
    trainer.fault_folder = folder.path
    trainer.remember("prompts", PromptsDigest(prompts))
    return trainer


@contextmanager
def _explaining_out_of_memory(prepared: Prepared, trainer: Any) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch raises a bare RuntimeError.
        cpu = "can't allocate memory" in str(error)
        if not cpu and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        parts = prepared.memory
        # The estimate of the dry run, which says what to make smaller.
        listed = ", ".join(f"{name} {value:.2g}" for name, value in parts.items())
        raise TrainingError(
            f"step {trainer.state.global_step + 1}: out of memory ({first_words(error)}); a process takes about "
            f"{sum(parts.values()):.2g} GiB ({listed}); set trainer.gradient_checkpointing=true or lora={{r: 16}}, or "
            "start anew with half of trainer.per_device_train_batch_size and twice trainer.gradient_accumulation_steps."
        ) from error


def _resumed(settings: Mapping[str, Any], folder: RunFolder, prompts: list[Prompt]) -> tuple[Path | None, bool]:
    """Finds the checkpoint to continue from, None to start anew, and says whether the run has finished with it."""
    search = newest_whole(folder.checkpoints)
    for passed_over, reason in search.skipped:
        _say(f"{passed_over} is skipped: {reason}")
    if search.newest is None:
        if search.damaged:
            raise RecipeError(
                f"{folder.checkpoints}: expected a whole checkpoint to continue from, got {len(search.damaged)} that "
                "were written and are no longer whole; restore one, or start anew in another output_dir."
            )
        if folder.final.exists():
            raise RecipeError(
                f"{folder.path}: expected a run to continue, but it has finished and its checkpoints are gone; a run "
                "of other settings needs another output_dir."
            )
        _say(f"{folder.path} holds no complete checkpoint yet, so the run starts from scratch")
        return None, False
    check_same_run(folder.config, settings)
    step, until = int(search.newest.name.rpartition("-")[2]), settings["trainer"].get("max_steps", -1)
    if 0 < until < step:
        raise RecipeError(
            f"`trainer.max_steps` must be at least {step}, the step that {search.newest} goes on from, got {until}; "
            "raise it."
        )
    if kept := remembered(search.newest).get("prompts"):
        PromptsDigest(prompts).load(kept)
    if _has_finished(folder, search.newest, settings):
        return search.newest, True
    _say(f"continuing from {search.newest}")
    return search.newest, False


def _has_finished(folder: RunFolder, checkpoint: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a run has come to its end, which these settings leave where it was."""
    before = read_settings(folder.config)
    if any(before.get(f"trainer.{name}") != settings["trainer"][name] for name in ("max_steps", "num_train_epochs")):
        return False
    state = parse_object(read_text(checkpoint / STATE, "state of a checkpoint"), str(checkpoint / STATE))
    return folder.final.is_dir() and state["global_step"] >= state["max_steps"]


def _farewell(recipe: Recipe, task: Task, folder: RunFolder, steps: int, seconds: float) -> str:
    """What there is now, and the command that comes next."""
    command = ["dqo", "eval", "--model", str(folder.path), "--task", recipe.task]
    command += option_flags(task_options(recipe))
    command += [*_unseen_prompts(recipe, task), "--max-new-tokens", str(recipe.config.max_completion_length)]
    command += ["--encoder", outside_training(recipe.config.encoder, recipe.model)]
    if recipe.heldout_encoder:
        command += ["--heldout-encoder", outside_training(recipe.heldout_encoder, recipe.model)]
    command += ["--out", str(folder.eval)]
    report = ["dqo", "report", str(folder.path), "-o", str(folder.path / "report.html")]
    return (
        f"Trained to step {steps} in {seconds / 60:.1f} min.\n  policy: {folder.final}\n  log:    {folder.metrics}\n"
        f"  look:   {shlex.join(report)}\n  next:   {shlex.join(command)}"
    )


def _unseen_prompts(recipe: Recipe, task: Task) -> list[str]:
    """Flags of `dqo eval` for the best prompts there are: the task's test split before dev, before those trained on."""
    for split in ("test", "dev", "train"):
        try:
            if task.prompts(split):
                return ["--split", split]
        except DataError:
            # A task that reads files may have been given no file for this split.
            continue
    return ["--data", recipe.data["path"]]


def _save_final(trainer: Any, folder: RunFolder) -> None:
    """Policy and tokenizer under a passing name first, so that a `final` that exists is whole."""
    partial = folder.final.with_name("final.partial")
    with writing(folder.checkpoints, "add --resume"):
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
