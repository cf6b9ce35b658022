"""Several evaluated runs side by side: their means and differences over the prompts they share, and their tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from dqo.errors import DataError
from dqo.evaluation.arms import Arm, find_arms
from dqo.evaluation.definitions import HEALTH, explain, headline, tabled
from dqo.evaluation.statistics import (
    FEW,
    FEW_PROMPTS,
    NOTE,
    SHOWN_BELOW,
    Difference,
    Means,
    on_common_prompts,
    paired_differences,
    pareto_front,
)
from dqo.files.evaluation import (
    MUST_AGREE,
    likeness_cautions,
    read_metrics,
    read_prompt_metrics,
    run_notes,
    short_names,
    unlike,
)
from dqo.files.records import Group, read_groups, write_json
from dqo.files.run import owning

if TYPE_CHECKING:
    from rich.table import Table

_PAIRS_SHOWN = 3
_LINES = 14


@dataclass(frozen=True)
class Run:
    """An evaluated run: metrics.json, its groups, and the value of every metric for every prompt id."""

    name: str
    folder: Path
    document: dict[str, Any]
    groups: dict[str, Group]
    values: dict[str, dict[str, float | None]]


def compare(runs: Sequence[str | Path], out: str | Path) -> dict[str, Any]:
    """Writes comparison.json for runs that `evaluate` has measured.

    All numbers are over the prompts that all runs answered. Runs that differ in their seed alone are one arm, see
    `dqo.evaluation.arms.find_arms`. `dqo report` draws the same runs and shows their responses.

    Args:
        runs: Two or more folders, each an evaluation's or one that holds it as `eval/`; the first is of the baseline.
        out: Folder of the file.

    Returns:
        The content of comparison.json. "runs" holds each metrics.json and "arms" the names of the runs of each arm.
        "shared" are the means of each arm over the shared prompts, "pairs" the differences of pairs of arms,
        "differences" those to the baseline. "primary" are the metrics that were declared to decide. "front" are the
        arms that no other beats in quality and diversity, None without quality.

    Raises:
        DataError: If a folder is not a complete evaluation, or the runs cannot be compared: different sample counts,
            encoders, tasks or thresholds, or no shared prompt.
        FolderBusyError: If another process writes to `out`.
    """
    loaded = _load(runs)
    shared = _shared_prompts(loaded)
    names, documents = [run.name for run in loaded], [run.document for run in loaded]
    arms = find_arms([run.folder for run in loaded], names, documents, [run.values for run in loaded])
    means = on_common_prompts([arm.values for arm in arms], [arm.summary for arm in arms])
    primary = headline(documents[0]["metrics"], primary=True)
    pairs = _pairs(arms, shared, tabled(list(documents[0]["metrics"]), documents[0]["n_samples"]), primary)
    comparison = {
        "baseline": arms[0].name,
        "n_shared": len(shared),
        "runs": dict(zip(names, documents, strict=True)),
        "arms": {arm.name: [names[place] for place in arm.places] for arm in arms},
        "primary": primary,
        "shared": {arm.name: {name: column[i] for name, column in means.items()} for i, arm in enumerate(arms)},
        "differences": {pair["b"]: pair["metrics"] for pair in pairs if pair["a"] == arms[0].name},
        "pairs": pairs,
        "front": _front(arms, means),
        "cautions": _cautions(loaded, arms, shared, means),
        "note": NOTE,
    }
    with owning(out):
        write_json(Path(out) / "comparison.json", comparison)
    return comparison


def _pairs(arms: list[Arm], shared: list[str], metrics: list[str], primary: list[str]) -> list[dict[str, Any]]:
    """The differences of pairs of arms; None for a metric that too few prompts have."""
    values = [[{key: run[key] for key in shared} for run in arm.values] for arm in arms]
    found = paired_differences(values, metrics, primary)
    return [
        {"a": arms[a].name, "b": arms[b].name}
        | {"metrics": {m: there[m]._asdict() if m in there else None for m in metrics}}
        for (a, b), there in found.items()
    ]


def short_comparison(comparison: dict[str, Any], width: int) -> list[str]:
    """Says in at most 14 lines what the comparison shows: the primary metrics, length, the front, and cautions.

    Args:
        comparison: What `compare` returns.
        width: Characters of a line; where arms do not fit, their intervals are left out first, then the last arms.

    Returns:
        The lines; the last one says how much is left out.
    """
    runs = comparison["runs"]
    first = next(iter(runs.values()))
    known = headline(first["metrics"])
    rows = [name for name in known if name in comparison["primary"] or explain(name).kind == HEALTH]
    columns = {name: [shared.get(name) for shared in comparison["shared"].values()] for name in rows}
    # Of rewards of 0 and 1 the best and the pass rate are the same number.
    twice = {"max@k"} if "pass@k" in rows and columns.get("max@k") == columns["pass@k"] else set()
    rows = [name for name, column in columns.items() if any(column) and name not in twice]
    table, left_out = _fitting(comparison, rows, width)
    head = (
        f"{comparison['n_shared']} prompts × {first['n_samples']} responses; better or worse than "
        f"{comparison['baseline']} where Holm's p < {SHOWN_BELOW} [95 % interval of the difference]"
    )
    lines = [*wrap(head, width), *table]
    if comparison["front"]:
        lines += wrap(f"no other beats in both quality and diversity: {', '.join(comparison['front'])}", width)
    own = run_notes(runs)
    cautions = [caution for caution in comparison["cautions"] if caution not in own]
    for caution in list(cautions):
        wrapped = wrap(f"note: {caution}", width)
        if len(lines) + len(wrapped) >= _LINES:
            break
        lines += wrapped
        cautions.remove(caution)
    counts = {"arm": len(left_out), "note": len(own) + len(cautions)}
    more = [f"{count} {what}{'s' * (count > 1)}" for what, count in counts.items() if count]
    return [*lines, f"--all prints every metric of every pair{''.join(f', {part}' for part in more)}"]


def _fitting(comparison: dict[str, Any], rows: Sequence[str], width: int) -> tuple[list[str], list[str]]:
    """The lines of the short table in the fullest form that fits, and the arms that do not."""
    arms = list(comparison["arms"])
    forms = [(True, len(arms)), *((False, count) for count in range(len(arms), 1, -1))]
    for intervals, count in forms:
        columns = [["", *rows]]
        for name in arms[:count]:
            seeds = len(comparison["arms"][name])
            title = f"{name} ({seeds} seeds)" if seeds > 1 else name
            columns.append([title, *(_said(comparison, name, metric, intervals) for metric in rows)])
        widths = [max(map(len, column)) for column in columns]
        cells = zip(*columns, strict=True)
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
        if max(map(len, lines)) <= width:
            break
    return lines, arms[count:]


def _said(comparison: dict[str, Any], name: str, metric: str, intervals: bool) -> str:
    """The mean of an arm, with the difference to the baseline in numbers and in a word."""
    value = comparison["shared"][name].get(metric)
    if value is None:
        return "–"
    difference = comparison["differences"].get(name, {}).get(metric)
    if difference is None:
        return number(value["mean"])
    low, high = (number(difference[end], sign=True) for end in ("low", "high"))
    interval = f" [{low}, {high}]" if intervals else ""
    return f"{number(value['mean'])} {in_words(metric, Difference(**difference))}{interval}"


def number(value: float, sign: bool = False) -> str:
    """Formats a number for a table, such as "0.713", "12.41", "1,204" or "−0.050"."""
    size = abs(value)
    decimals = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    text = f"{value:+,.{decimals}f}" if sign else f"{value:,.{decimals}f}"
    return text.replace("-", "−")


def in_words(metric: str, difference: Difference) -> str:
    """Says of a difference whether it is better or worse, or that none is shown."""
    better = explain(metric).better
    if difference.verdict == "same":
        return "not shown"
    return "differs" if not better else "better" if (better == "higher") == (difference.verdict == "up") else "worse"


def comparison_table(comparison: dict[str, Any]) -> "Table":
    """A rich table: metrics down, arms across."""
    columns = {
        name: {metric: with_interval(value) for metric, value in values.items()}
        for name, values in comparison["shared"].items()
    }
    return _table("metric", list(comparison["pairs"][0]["metrics"]), columns, "95 % intervals over the shared prompts")


def difference_table(comparison: dict[str, Any]) -> "Table":
    """A rich table: metrics down, pairs of arms across; of many only those with the baseline. A star marks p < 0.05."""
    pairs = comparison["pairs"]
    if len(pairs) > _PAIRS_SHOWN:
        pairs = [pair for pair in pairs if pair["a"] == comparison["baseline"]]
    columns = {
        f"{pair['b']} − {pair['a']}": {m: v and _tested(v) for m, v in pair["metrics"].items()} for pair in pairs
    }
    return _table("difference", list(pairs[0]["metrics"]), columns, f"* p < 0.05. {NOTE}")


def _tested(value: dict[str, float]) -> str:
    star = "*" if value["p_holm"] < SHOWN_BELOW else " "
    return f"{with_interval(value, sign='+')} p {value['p_holm']:.4f}{star}"


def _table(head: str, rows: Sequence[str], columns: dict[str, dict[str, str | None]], caption: str) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(head, caption=escape(caption))
    for name in columns:
        table.add_column(escape(name), justify="right")
    for row in rows:
        table.add_row(escape(row), *(escape(cells.get(row) or "–") for cells in columns.values()))
    return table


def with_interval(value: Mapping[str, float] | None, sign: str = "") -> str:
    """Formats a mean with its interval for a table; a dash where there is none."""
    if not value:
        return "–"
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
    return Run(name, folder, document, groups, {key: row for key, row in values.items() if key in groups})


def _cautions(runs: list[Run], arms: list[Arm], shared: list[str], means: Means) -> list[str]:
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
    found += single_runs(arms)
    if len(shared) < FEW_PROMPTS:
        found.append(f"{len(shared)} shared prompt{'s' * (len(shared) > 1)}; {FEW}.")
    found += likeness_cautions({run.name: run.document for run in runs})
    return found + run_notes({run.name: run.document for run in runs})


def single_runs(arms: Sequence[Arm]) -> list[str]:
    """Says which arms are one run where others have several seeds."""
    alone = [arm.name for arm in arms if len(arm.places) == 1]
    if not alone or len(alone) == len(arms):
        return []
    return [f"There is one run of {', '.join(alone)}, so that no spread between training seeds is counted there."]


def _front(arms: list[Arm], means: Means) -> list[str] | None:
    """The arms that no other beats in both quality and diversity, by the held-out judge where every run has one."""
    common = [name for name, column in means.items() if all(column)]
    diversity = next((name for name in ("heldout/vendi_1", "vendi_1") if name in common), None)
    if diversity is None or "quality" not in common:
        return None
    points = [[means[axis][i]["mean"] for axis in (diversity, "quality")] for i in range(len(arms))]
    return [arms[place].name for place in pareto_front(points)]
