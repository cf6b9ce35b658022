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

from accelerate.utils import broadcast_object_list
from accelerate.utils.memory import should_reduce_batch_size

from dqo.errors import RecipeError, TrainingError
from dqo.files.jsonio import writing
from dqo.files.records import write_text
from dqo.files.run import RunPaths, damage, newest_whole, owning
from dqo.integrations.trl import DQOPPOTrainer, DQORLOOTrainer, DQOTrainer
from dqo.integrations.trl.faults import SaveOnSignal
from dqo.integrations.trl.log import RunLog, showing_progress
from dqo.models.chat import conversation
from dqo.models.policy import load_policy, stop_tokens
from dqo.models.weights import first_words
from dqo.settings.yaml import to_yaml
from dqo.tasks import option_flags
from dqo.train.card import write_card
from dqo.train.dry_run import DryRun
from dqo.train.folder import check_free, check_same_run, machine_change, resolved_settings
from dqo.train.prepare import Prepared, count_prompts, digest
from dqo.train.recipe import Recipe, load_recipe, outside_training, peft_config

TRAINERS = {"grpo": DQOTrainer, "rloo": DQORLOOTrainer, "ppo": DQOPPOTrainer}


def run(args: argparse.Namespace) -> int | None:
    """Trains a policy; everything that can be refused is refused before the policy is loaded."""
    recipe = load_recipe(args.recipe, args.settings)
    if args.dry_run:
        return DryRun(recipe, args.resume).run()
    folder = RunPaths(recipe.output_dir)
    # One process of several owns the folder: a lock by each would be a quarrel among themselves.
    with owning(folder.path) if _is_main_process() else nullcontext():
        if _is_main_process():
            check_free(folder, args.resume)
        return _train(recipe, folder, args.resume)


def _train(recipe: Recipe, folder: RunPaths, resume: bool) -> int | None:
    """Trains in a folder that this run owns."""
    prepared = Prepared(recipe)
    settings, prompts = prepared.recipe.settings(), digest(prepared.prompts)
    # Before the models are looked up: a resume with another model is refused as that.
    checkpoint = _resumed(settings, folder, prompts) if resume and _is_main_process() else None
    prepared.check_machine()
    # Asking is looking up: the tokenizer and every length come before the policy.
    _ = prepared.lengths
    for sentence in prepared.notes:
        _say(sentence)
    # The main process alone has read every file of the checkpoint.
    [checkpoint] = broadcast_object_list([checkpoint])
    trainer = build_trainer(prepared, folder)
    start, stop = time.monotonic(), SaveOnSignal()
    with stop.listening(), showing_progress(trainer), _explaining_out_of_memory(prepared, trainer):
        if _is_main_process():
            resolved = resolved_settings(settings, prompts, trainer)
            if checkpoint and (change := machine_change(folder.resolved, resolved)):
                _say(f"this machine continues the run differently: {change}")
            write_text(folder.config, to_yaml(settings))
            write_text(folder.resolved, to_yaml(resolved))
        trainer.add_callback(stop)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if stop.signal:
            step = trainer.state.global_step
            _say(f"{stop.reason}: step {step} is saved; the same command with --resume goes on")
            return 128 + stop.signal
        _save_final(trainer, folder)
    if _is_main_process():
        print(_farewell(prepared, folder, trainer.state.global_step, time.monotonic() - start))
    return None


def build_trainer(prepared: Prepared, folder: RunPaths) -> Any:
    """Loads the policy and makes the trainer, with the run's log."""
    from datasets import Dataset

    recipe, prompts = prepared.recipe, prepared.prompts
    model, tokenizer = load_policy(recipe.model, dtype=recipe.dtype)
    asked = [
        conversation(prompt.prompt, recipe.system_prompt) if tokenizer.chat_template else prompt.prompt
        for prompt in prompts
    ]
    trainer = TRAINERS[recipe.algorithm](
        model,
        reward_funcs=prepared.rewards(stop_tokens(model, tokenizer)),
        args=prepared.config,
        # A prompt's references and meta stay here: rewards find them by the row.
        train_dataset=Dataset.from_dict({"prompt": asked, "row": range(len(prompts))}),
        processing_class=tokenizer,
        embedder=prepared.own_features,
        answer_span=prepared.task.answer_span,
        peft_config=peft_config(recipe.lora),
        callbacks=[RunLog(folder.metrics)],
    )
    trainer.fault_folder = folder.path
    return trainer


@contextmanager
def _explaining_out_of_memory(prepared: Prepared, trainer: Any) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
            raise
        # The estimate of the dry run, which says what to make smaller.
        raise TrainingError(
            f"step {trainer.state.global_step + 1}: out of memory ({first_words(error)}); a process takes "
            f"{prepared.memory}; set trainer.gradient_checkpointing=true or lora={{r: 16}}, or "
            "start anew with half of trainer.per_device_train_batch_size and twice trainer.gradient_accumulation_steps."
        ) from error


def _resumed(settings: Mapping[str, Any], folder: RunPaths, prompts: str) -> Path | None:
    """Finds the checkpoint to continue from; None to start anew."""
    search = newest_whole(folder.checkpoints)
    for passed_over, reason in search.skipped:
        _say(f"{passed_over} is skipped: {reason}")
    if search.newest is None:
        if search.damaged or folder.final.exists():
            raise RecipeError(
                f"{folder.checkpoints}: expected a whole checkpoint to continue from, but the run has finished or lost "
                "them; restore one, or start anew in another output_dir."
            )
        _say(f"{folder.path} holds no complete checkpoint yet, so the run starts from scratch")
        return None
    check_same_run(folder, settings, prompts)
    # A kill may leave half of an older one that was making room. Where checkpoints are limited, transformers would take
    # that half for the newest, since it changed last, and delete a whole one instead.
    for older in folder.checkpoints.glob("checkpoint-*"):
        if int(older.name[11:]) < int(search.newest.name[11:]) and damage(older):
            shutil.rmtree(older)
    _say(f"continuing from {search.newest}")
    return search.newest


def _farewell(prepared: Prepared, folder: RunPaths, steps: int, seconds: float) -> str:
    """What there is now, and the command that comes next."""
    recipe, counts = prepared.recipe, count_prompts(prepared.task)
    # On the best prompts there are: those trained on come last.
    split = next(split for split in ("test", "dev", "train") if counts.get(split))
    command = ["dqo", "eval", "--model", str(folder.path), "--task", recipe.task]
    command += option_flags(recipe.task_options | recipe.data)
    command += ["--split", split, "--max-new-tokens", str(recipe.config.max_completion_length)]
    command += ["--encoder", outside_training(recipe.config.encoder, recipe.model)]
    if recipe.heldout_encoder:
        command += ["--heldout-encoder", outside_training(recipe.heldout_encoder, recipe.model)]
    command += ["--out", str(folder.eval)]
    report = ["dqo", "report", str(folder.path), "-o", str(folder.path / "report.html")]
    return (
        f"Trained to step {steps} in {seconds / 60:.1f} min.\n  policy: {folder.final}\n  log:    {folder.metrics}\n"
        f"  look:   {shlex.join(report)}\n  next:   {shlex.join(command)}"
    )


def _save_final(trainer: Any, folder: RunPaths) -> None:
    """Policy, tokenizer and card under a passing name first, so that a `final` that exists is whole."""
    partial = folder.final.with_name("final.partial")
    with writing(folder.checkpoints, "add --resume"):
        trainer.save_model(str(partial))
        trainer.accelerator.wait_for_everyone()
        if _is_main_process():
            write_card(folder, partial)
            shutil.rmtree(folder.final, ignore_errors=True)  # of a finished run that is continued
            partial.replace(folder.final)


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say(sentence: str) -> None:
    if _is_main_process():
        print(f"dqo: {sentence}", file=sys.stderr)
