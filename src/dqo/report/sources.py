"""What a report is built from: the files of run folders and of evaluation folders, read as they are now."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dqo.errors import DataError
from dqo.evaluation.arms import read_run_settings
from dqo.files.evaluation import read_metrics, read_prompt_metrics, short_names
from dqo.files.records import Group, read_groups
from dqo.files.run import RunPaths, read_steps


@dataclass(frozen=True)
class RunFiles:
    """The content of one folder.

    Attributes:
        name: What tells it from the other folders of the report.
        folder: Where it is.
        files: Part -> its file; only parts that are there.
        config: config.yaml, {} without one.
        resolved: resolved.yaml, {} without one.
        steps: Lines of metrics.jsonl, one per step, in order of steps.
        document: metrics.json, {} without one.
        values: Prompt id -> every metric of that prompt.
        groups: Prompt id -> its responses.
        finished: Whether training is over; True for a folder that holds no training.
    """

    name: str
    folder: Path
    files: dict[str, Path]
    config: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    finished: bool = True


def read_runs(folders: Sequence[str | Path]) -> list[RunFiles]:
    """Reads every folder; the first is the baseline of the comparison."""
    paths = [Path(folder) for folder in folders]
    if not paths or len({path.resolve() for path in paths}) < len(paths):
        raise DataError(f"A report needs one or more different folders, got {', '.join(map(str, paths)) or 'none'}.")
    return _untangled([_read(path, name) for path, name in zip(paths, short_names(paths), strict=True)])


def locate(folder: Path) -> dict[str, Path]:
    """Finds the file of each part that is there; the evaluation may lie in `eval/`."""
    run = RunPaths(folder)
    evaluation = folder if (folder / "metrics.json").exists() or not run.eval.is_dir() else run.eval
    places = {
        "config": run.config,
        "resolved": run.resolved,
        "steps": run.metrics,
        "document": evaluation / "metrics.json",
        "values": evaluation / "prompt_metrics.jsonl",
        "groups": evaluation / "groups.jsonl",
    }
    return {part: path for part, path in places.items() if path.is_file()}


# A run may still be training: its log can end in half a line, its evaluation can be missing. What is missing leaves a
# section out of the page; what is there and broken is an error that names the file.
def _read(folder: Path, name: str) -> RunFiles:
    files = locate(folder)
    if not files.keys() - {"config", "resolved"}:
        raise DataError(
            f"{folder}: expected a run folder (metrics.jsonl, eval/) or an evaluation folder (metrics.json, "
            f"groups.jsonl), got {'only its settings' if files else 'neither'}; run `dqo train` or `dqo eval` first."
        )
    readers = {
        "config": read_run_settings,
        "resolved": read_run_settings,
        "steps": read_steps,
        "document": read_metrics,
        "values": read_prompt_metrics,
        "groups": lambda path: {group.id: group for group in read_groups(path)},
    }
    found = {part: readers[part](path) for part, path in files.items()}
    return RunFiles(name, folder, files, **found, finished="steps" not in files or RunPaths(folder).final.exists())


def _untangled(runs: list[RunFiles]) -> list[RunFiles]:
    """Gives later runs an id of their own where one id means different prompts, such as lines of files of one name."""
    # Their responses would otherwise be compared as answers to the same question.
    asked: dict[str, str] = {}
    for place, run in enumerate(runs):
        own = {key: f"{key} ({run.name})" for key, group in run.groups.items()
               if asked.setdefault(key, group.prompt) != group.prompt}  # fmt: skip
        if own:
            groups = {own.get(key, key): group for key, group in run.groups.items()}
            values = {own.get(key, key): row for key, row in run.values.items()}
            runs[place] = replace(run, groups=groups, values=values)
    return runs
