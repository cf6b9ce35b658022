"""Finished evaluations of a sweep, read back and refused where they were not made alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqo.errors import DataError
from dqo.evaluation_files import MUST_AGREE, read_metrics, read_prompt_metrics, unlike
from dqo.records import Prompt, read_groups
from dqo.sweep.plan import Evaluation, Run


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
        document = read_metrics(folder / "metrics.json")
        if standard is None:
            standard = (run.name, document)
        for fact, told in unlike({standard[0]: standard[1], run.name: document}).items():
            if fact in MUST_AGREE:
                raise DataError(
                    f"{folder}: expected every run to be evaluated alike, but {fact} is {told[run.name]!r} here and "
                    f"{told[standard[0]]!r} in {standard[0]}; delete the folder of the one that is wrong."
                )
        _check_prompts(folder, prompts)
        found.append(Evaluated(run, document, _values(folder)))
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
    rows = read_prompt_metrics(folder / "prompt_metrics.jsonl")
    names = next(iter(rows.values()))
    for key, row in rows.items():
        if row.keys() != names.keys():
            raise DataError(
                f"{folder / 'prompt_metrics.jsonl'}, prompt {key!r}: expected the metrics {', '.join(names)}, got "
                f"{', '.join(row)}; delete {folder} to have it made anew."
            )
    return {name: {key: row[name] for key, row in rows.items()} for name in names}
