"""Several evaluated runs side by side: their means and differences over the prompts they share, and two tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.errors import DataError
from dqo.evaluation.definitions import shown_in
from dqo.evaluation.statistics import (
    FEW,
    FEW_PROMPTS,
    NOTE,
    SHOWN_BELOW,
    on_common_prompts,
    paired_differences,
    pareto_front,
)
from dqo.files.evaluation import MUST_AGREE, likeness_cautions, read_metrics, read_prompt_metrics, short_names, unlike
from dqo.files.records import Group, read_groups, write_json
from dqo.files.run import owning

if TYPE_CHECKING:
    from rich.table import Table

_PAIRS_SHOWN = 3

Means = dict[str, list[dict[str, float] | None]]  # metric -> each run's mean and interval over the shared prompts


@dataclass(frozen=True)
class Run:
    """An evaluated run: metrics.json, its groups, and the value of every metric for every prompt id."""

    name: str
    document: dict[str, Any]
    groups: dict[str, Group]
    values: dict[str, dict[str, float | None]]


def compare(runs: Sequence[str | Path], out: str | Path) -> dict[str, Any]:
    """Writes comparison.json for runs that `evaluate` has measured.

    All numbers are over the prompts that all runs answered. `dqo report` draws the same runs and shows their responses.

    Args:
        runs: Two or more folders, each an evaluation's or one that holds it as `eval/`; the first is the baseline.
        out: Folder of the file.

    Returns:
        The content of comparison.json. "runs" holds each metrics.json, "shared" the means over the shared prompts,
        "pairs" the differences of pairs of runs, "differences" those to the baseline, "front" the runs that
        no other beats in quality and diversity, None without quality.

    Raises:
        DataError: If a folder is not a complete evaluation, or the runs cannot be compared: different sample counts,
            encoders, tasks or thresholds, or no shared prompt.
        FolderBusyError: If another process writes to `out`.
    """
    loaded = _load(runs)
    shared = _shared_prompts(loaded)
    means = on_common_prompts([run.values for run in loaded], [run.document["metrics"] for run in loaded])
    pairs = _pairs(loaded, shared)
    comparison = {
        "baseline": loaded[0].name,
        "n_shared": len(shared),
        "runs": {run.name: run.document for run in loaded},
        "shared": {run.name: {name: column[i] for name, column in means.items()} for i, run in enumerate(loaded)},
        "differences": {pair["b"]: pair["metrics"] for pair in pairs if pair["a"] == loaded[0].name},
        "pairs": pairs,
        "front": _front(loaded, means),
        "cautions": _cautions(loaded, shared, means),
        "note": NOTE,
    }
    with owning(out):
        write_json(Path(out) / "comparison.json", comparison)
    return comparison


def _pairs(runs: list[Run], shared: list[str]) -> list[dict[str, Any]]:
    """The differences of pairs of runs; None for a metric that too few prompts have."""
    metrics = shown_in(runs[0].document["metrics"], "compare")
    found = paired_differences([{key: run.values[key] for key in shared} for run in runs], metrics)
    return [
        {"a": runs[a].name, "b": runs[b].name}
        | {"metrics": {m: there[m]._asdict() if m in there else None for m in metrics}}
        for (a, b), there in found.items()
    ]


def comparison_table(comparison: dict[str, Any]) -> "Table":
    """A rich table: metrics down, runs across."""
    columns = {
        name: {metric: value and _cell(value) for metric, value in values.items()}
        for name, values in comparison["shared"].items()
    }
    metrics = shown_in(comparison["runs"][comparison["baseline"]]["metrics"], "compare")
    return _table("metric", metrics, columns, "95 % intervals over the shared prompts")


def difference_table(comparison: dict[str, Any]) -> "Table":
    """A rich table: metrics down, pairs of runs across; of many only those with the baseline. A star marks p < 0.05."""
    pairs = comparison["pairs"]
    if len(pairs) > _PAIRS_SHOWN:
        pairs = [pair for pair in pairs if pair["a"] == comparison["baseline"]]
    columns = {
        f"{pair['b']} − {pair['a']}": {m: v and _tested(v) for m, v in pair["metrics"].items()} for pair in pairs
    }
    return _table("difference", list(pairs[0]["metrics"]), columns, f"* p < 0.05. {NOTE}")


def _tested(value: dict[str, float]) -> str:
    star = "*" if value["p_holm"] < SHOWN_BELOW else " "
    return f"{_cell(value, sign='+')} p {value['p_holm']:.4f}{star}"


def _table(head: str, rows: Sequence[str], columns: dict[str, dict[str, str | None]], caption: str) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(head, caption=escape(caption))
    for name in columns:
        table.add_column(escape(name), justify="right")
    for row in rows:
        table.add_row(escape(row), *(escape(cells.get(row) or "–") for cells in columns.values()))
    return table


def _cell(value: dict[str, float], sign: str = "") -> str:
    mean, low, high = (f"{value[part]:{sign}.3f}" for part in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _load(folders: Sequence[str | Path]) -> list[Run]:
    paths = [path / "eval" if (path / "eval" / "metrics.json").exists() else path for path in map(Path, folders)]
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise DataError(f"A comparison needs two or more different folders, got {', '.join(map(str, folders))}.")
    runs = [_read(path, name) for path, name in zip(paths, short_names(paths), strict=True)]
    for fact, values in unlike({run.name: run.document for run in runs}).items():
        if fact in MUST_AGREE:
            got = " and ".join(f"{value!r} in {name}" for name, value in values.items())
            raise DataError(f"Runs must agree on {fact} to be compared, got {got}; evaluate all alike.")
    return runs


def _shared_prompts(runs: list[Run]) -> list[str]:
    first = runs[0]
    shared = [key for key in first.groups if all(key in run.groups and key in run.values for run in runs)]
    if not shared:
        raise DataError("A comparison needs prompts that all runs answered, got none with the same id in all of them.")
    for run in runs[1:]:
        for key in shared:  # ids made of file name and line number are the same for different files of one name
            if run.groups[key].prompt != first.groups[key].prompt:
                raise DataError(
                    f"Runs must have answered the same prompts, got two different ones with id {key!r} in {first.name} "
                    f"and {run.name}; evaluate both on one file."
                )
    return shared


def _read(folder: Path, name: str) -> Run:
    document, values = read_metrics(folder / "metrics.json"), read_prompt_metrics(folder / "prompt_metrics.jsonl")
    groups = {group.id: group for group in read_groups(folder / "groups.jsonl")}
    return Run(name, document, groups, {key: row for key, row in values.items() if key in groups})


def _cautions(runs: list[Run], shared: list[str], means: Means) -> list[str]:
    """What to know before a difference is read as one of models."""
    found = []
    if any(len(run.values) > len(shared) for run in runs):
        sizes = ", ".join(f"{run.name}: {len(run.values)}" for run in runs)
        found.append(
            f"The runs did not answer the same prompts ({sizes}): all that is compared is over the {len(shared)} that "
            "all of them answered."
        )
    if all(run.document["metrics"].get("quality") for run in runs):
        scored = means["quality"][0]["prompts"] if "quality" in means else 0
        if scored < len(shared):
            found.append(f"Quality is over the {scored} of {len(shared)} shared prompts that are scored in all runs.")
    if len(shared) < FEW_PROMPTS:
        found.append(f"{len(shared)} shared prompt{'s' * (len(shared) > 1)}; {FEW}.")
    found += likeness_cautions({run.name: run.document for run in runs})
    return found + [f"{run.name}: {note}" for run in runs for note in run.document.get("notes", [])]


def _front(runs: list[Run], means: Means) -> list[str] | None:
    """The runs that no other beats in both quality and diversity, by the held-out judge where every run has one."""
    common = [name for name, column in means.items() if all(column)]
    diversity = next((name for name in ("heldout/vendi_1", "vendi_1") if name in common), None)
    if diversity is None or "quality" not in common:
        return None
    points = [[means[axis][i]["mean"] for axis in (diversity, "quality")] for i in range(len(runs))]
    return [runs[place].name for place in pareto_front(points)]
