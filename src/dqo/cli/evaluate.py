"""`dqo eval`: responses, sampled now or read, -> quality and diversity."""

import argparse
from pathlib import Path
from typing import Any

from dqo.cli.sample import DEFAULT_LENGTH, sample
from dqo.cli.yaml_reader import parse_yaml
from dqo.embedders import load_embedder
from dqo.errors import RecipeError
from dqo.evaluation.run import evaluate
from dqo.records import Group, Prompt, read_groups, read_prompts
from dqo.rewards.imported import import_reward
from dqo.tasks import Task, load_task


def run(args: argparse.Namespace) -> None:
    """Write DIR/groups.jsonl, prompt_metrics.jsonl and metrics.json, and print the metrics.

    Args:
        args: The flags of `dqo eval`.

    Raises:
        DQOError: A file, model, encoder, task or reward that does not do.
    """
    task = _task(args)
    reward = import_reward(args.reward) if args.reward else None
    encoder = load_embedder(args.encoder)
    heldout = load_embedder(args.heldout_encoder) if args.heldout_encoder else None
    groups = _groups(args, task)
    document = evaluate(
        groups, encoder=encoder, heldout_encoder=heldout, task=task, reward=reward, out=args.out, seed=args.seed
    )
    print(summary(document))
    print(f"written: {Path(args.out) / 'metrics.json'}")


def summary(document: dict[str, Any]) -> str:
    """The metrics as lines of text.

    Args:
        document: The content of metrics.json.

    Returns:
        One line a metric, mean and interval; "null" where there is no value; the notes at the end.
    """
    lines = [f"{document['n_prompts']} prompts, {document['n_samples']} responses each, mean [95 % interval]:"]
    for name, value in document["metrics"].items():
        numbers = f"{value['mean']:8.3f}  [{value['low']:.3f}, {value['high']:.3f}]" if value else "    null"
        lines.append(f"  {name:24}{numbers}")
    return "\n".join([*lines, *(f"note: {note}" for note in document.get("notes", []))])


def _task(args: argparse.Namespace) -> Task | None:
    if args.task is None:
        if args.task_option or args.split:
            raise RecipeError("--task-option and --split belong to --task, got no --task; add it or leave them out.")
        return None
    options = {}
    for option in args.task_option:
        name, equals, text = option.partition("=")
        if not equals:
            raise RecipeError(f"--task-option {option!r}: expected key=value; add the missing part.")
        options[name] = parse_yaml(text, f"--task-option {option!r}")
    return load_task(args.task, **options)


def _groups(args: argparse.Namespace, task: Task | None) -> list[Group]:
    if args.responses:
        if args.data or args.split:
            raise RecipeError("--responses holds its own prompts, got --data or --split too; leave one out.")
        return read_groups(args.responses)[: args.limit]
    return sample(args, _prompts(args, task), task.max_completion_length if task else DEFAULT_LENGTH)


def _prompts(args: argparse.Namespace, task: Task | None) -> list[Prompt]:
    if args.data:
        if args.split:
            raise RecipeError("--data and --split both choose the prompts, got both; leave one out.")
        return read_prompts(args.data)
    if task is None:
        raise RecipeError("`dqo eval --model` needs prompts, got neither --data nor --task; give one of them.")
    return task.prompts(args.split or "test")
