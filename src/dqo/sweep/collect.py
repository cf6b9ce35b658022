"""Finished evaluations of a sweep, read back and refused where they were not made alike."""

from collections.abc import Mapping, Sequence
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


def read_evaluations(
    runs: Sequence[Run], evaluation: Evaluation, prompts: Sequence[Prompt]
) -> tuple[list[Evaluated], dict[str, str]]:
    """Reads the runs whose evaluation is finished; a bad one leaves the others in the tables.

    Args:
        runs: Of a sweep; those without a finished evaluation are left out.
        evaluation: Of the sweep.
        prompts: That every run must have answered, no more and no fewer.

    Returns:
        Evaluated runs that were judged alike, in the order given; and by the name of a run why its
        evaluation is not among them: a broken file, other prompts, or other facts than most have.
    """
    found: dict[str, Evaluated] = {}
    wrong: dict[str, str] = {}
    for run in runs:
        folder = run.folder / evaluation.folder
        if not (folder / "metrics.json").exists():
            continue
        try:
            _check_prompts(folder, prompts)
            found[run.name] = Evaluated(run, read_metrics(folder / "metrics.json"), _values(folder))
        except DataError as error:
            wrong[run.name] = str(error)
    standard = max(found, key=lambda name: sum(not _odd(found, name, other) for other in found), default="")
    for name in list(found):  # the standard is like most; of equals the first
        for fact, told in _odd(found, standard, name).items():
            wrong[name] = (
                f"{found[name].run.folder / evaluation.folder}: expected every run to be evaluated alike, but {fact} "
                f"is {told[name]!r} here and {told[standard]!r} in {standard}; delete the folder of the wrong one."
            )
    return [one for name, one in found.items() if name not in wrong], wrong


def _odd(found: Mapping[str, Evaluated], standard: str, name: str) -> dict[str, dict[str, Any]]:
    """Facts in which two evaluations must agree and do not, each with both values."""
    facts = unlike({key: found[key].document for key in (standard, name)})
    return {fact: told for fact, told in facts.items() if fact in MUST_AGREE}


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
