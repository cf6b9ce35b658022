"""Finished evaluations of a sweep, read back and refused where they were not made alike."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqo.errors import DataError
from dqo.records import Prompt, read_groups
from dqo.sweep.plan import Evaluation, Run

# What must be the same in two evaluations for their numbers to differ by the models alone.
_FACTS = {
    "metrics.json": ("task", "n_prompts", "n_samples", "encoder", "heldout_encoder", "pass_threshold", "seed"),
    "sampling.json": ("n", "seed", "temperature", "max_new_tokens", "chat_template"),
}


@dataclass(frozen=True)
class Evaluated:
    """A run with its evaluation.

    Attributes:
        run: The run.
        document: Content of metrics.json.
        values: Metric -> prompt id -> value, None where a response could not be scored.
    """

    run: Run
    document: dict[str, Any]
    values: dict[str, dict[str, float | None]]


def read_evaluations(runs: Sequence[Run], evaluation: Evaluation, prompts: Sequence[Prompt]) -> list[Evaluated]:
    """The runs whose evaluation is finished.

    Args:
        runs: Of a sweep; those without a finished evaluation are left out.
        evaluation: Of the sweep.
        prompts: That every run must have answered, no more and no fewer.

    Returns:
        Evaluated runs, in the order given.

    Raises:
        DataError: A broken file, other prompts, or two runs that were sampled or judged differently.
    """
    found: list[Evaluated] = []
    standard: tuple[str, dict[str, Any]] | None = None
    for run in runs:
        folder = run.folder / evaluation.folder
        if not (folder / "metrics.json").exists():
            continue
        documents = {name: _json(folder / name) for name in _FACTS}
        facts = {f"{name}: {key}": documents[name].get(key) for name, keys in _FACTS.items() for key in keys}
        if standard is None:
            standard = (run.name, facts)
        for key, value in facts.items():
            if standard[1][key] != value:
                raise DataError(
                    f"{folder}: expected every run to be evaluated alike, but {key} is {value!r} here and "
                    f"{standard[1][key]!r} in {standard[0]}; delete the folder of the one that is wrong."
                )
        _check_prompts(folder, prompts)
        found.append(Evaluated(run, documents["metrics.json"], _values(folder)))
    return found


def _check_prompts(folder: Path, prompts: Sequence[Prompt]) -> None:
    answered = {group.id: group.prompt for group in read_groups(folder / "groups.jsonl")}
    asked = {prompt.id: prompt.prompt for prompt in prompts}
    if answered != asked:
        odd = next(key for key in [*asked, *answered] if asked.get(key) != answered.get(key))
        raise DataError(
            f"{folder}: expected answers to the {len(asked)} prompts of this sweep, got {len(answered)} and a "
            f"difference at id {odd!r}; set evaluation.folder to another name, or put the prompts back."
        )


def _values(folder: Path) -> dict[str, dict[str, float | None]]:
    path = folder / "prompt_metrics.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return {name: {row["id"]: row[name] for row in rows} for name in rows[0] if name != "id"}
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path}: expected one line of metrics a prompt, got {error!r}; delete {folder}.") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: expected a JSON object of a finished evaluation, got {error}; delete its folder "
                        "to have it made anew.") from error  # fmt: skip
