"""Groups evaluated runs into arms: runs of the same settings that differ in the seed of their training alone."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqo.errors import DataError
from dqo.evaluation.statistics import Values
from dqo.files.evaluation import SAMPLED
from dqo.files.jsonio import read_text
from dqo.files.run import RunPaths
from dqo.settings.yaml import parse_yaml

# Settings of a run that do not say what was trained.
_NO_SETTINGS = ("seed", "output_dir")
_SEED = re.compile(r"[-_. ]?seed[-_= ]?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed alone, or one run.

    Attributes:
        name: That of the runs without their seeds.
        places: Of its runs among all runs.
        values: Prompt id -> metric -> value, of each of its runs.
        summary: Metric -> mean and interval of its first run over all prompts, None where one of its runs has none.
    """

    name: str
    places: list[int]
    values: list[Values]
    summary: Mapping[str, dict[str, float] | None]


def find_arms(
    folders: Sequence[Path], names: Sequence[str], documents: Sequence[Mapping[str, Any]], values: Sequence[Values]
) -> list[Arm]:
    """Puts runs into arms, in the order of the first run of each.

    Runs share an arm where their config.yaml is the same but for the seed, or, without one, where their names are the
    same but for a part such as `seed0`. Their responses must have been drawn in the same way, and no seed may occur
    twice. Where that would leave one arm, every run is its own: its runs are what there is to compare.
    A folder is a run's or its evaluation's, a document its metrics.json, {} without one.
    """
    alike: dict[str, list[int]] = {}
    seeds = []
    for place, (folder, name, document) in enumerate(zip(folders, names, documents, strict=True)):
        seed, rest = _told_apart(folder, name)
        drawn = {fact: (document.get("sampling") or {}).get(fact) for fact in SAMPLED}
        seeds.append(seed)
        alike.setdefault(json.dumps([rest, drawn], sort_keys=True, default=str), []).append(place)
    groups = []
    for places in alike.values():
        known = [seeds[place] for place in places]
        whole = None not in known and len(set(known)) == len(known)
        groups += [places] if whole else [[place] for place in places]
    if len(groups) == 1:
        groups = [[place] for place in range(len(names))]
    groups.sort()
    titles = [_title([names[place] for place in places]) for places in groups]
    # Two arms of one title are told apart by the names of their first runs.
    titles = [
        title if titles.count(title) == 1 else names[places[0]] for title, places in zip(titles, groups, strict=True)
    ]
    return [
        Arm(title, places, [values[place] for place in places], _summary([documents[place] for place in places]))
        for title, places in zip(titles, groups, strict=True)
    ]


def _summary(documents: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float] | None]:
    tables = [document.get("metrics", {}) for document in documents]
    return {name: value if all(table.get(name) for table in tables) else None for name, value in tables[0].items()}


def _told_apart(folder: Path, name: str) -> tuple[Any, Any]:
    """The seed of a run, None where it is not known, and all else that says which arm it is of."""
    run = next((path for path in (folder, folder.resolve().parent) if RunPaths(path).config.is_file()), None)
    if run is None:
        found = _SEED.search(name)
        return found and found[0], _SEED.sub("", name)
    settings = read_run_settings(RunPaths(run).config)
    # Two evaluations of one run, say of two checkpoints, are two arms.
    evaluation = "" if run == folder else folder.name
    return settings.get("seed"), [evaluation, {k: v for k, v in settings.items() if k not in _NO_SETTINGS}]


def read_run_settings(path: Path) -> dict[str, Any]:
    """Reads the config.yaml or resolved.yaml of a run that somebody may have sent: what would grow is refused."""
    settings = parse_yaml(read_text(path, "file of settings of a run"), str(path), sent=True)
    if not isinstance(settings, dict):
        raise DataError(f"{path}: expected the settings of a run, got {type(settings).__name__}; restore the file.")
    return settings


def _title(names: Sequence[str]) -> str:
    """What the names of an arm's runs have in common."""
    if len(names) == 1:
        return names[0]
    without = {_SEED.sub("", name) for name in names}
    return without.pop() if len(without) == 1 else f"{names[0]} and {len(names) - 1} more"
