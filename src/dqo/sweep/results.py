"""Finished evaluations of a sweep, read back and refused where they were not made alike."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dqo._version import __version__
from dqo.errors import DataError, DQOError
from dqo.evaluation.definitions import definition_of
from dqo.evaluation.frontier import hypervolume_at_k, normalise, pareto_front
from dqo.evaluation.statistics import LEVEL
from dqo.files.evaluation import MUST_AGREE, likeness_cautions, read_metrics, read_prompt_metrics, unlike
from dqo.files.records import Prompt, read_groups, write_json, write_text
from dqo.sweep.plan import BASE, Evaluation, Run


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


# The results of a sweep as files for people and programs: results.json, results.csv, results.md.

_TITLES = {
    "quality": "quality", "vendi_1": "Vendi", "heldout/vendi_1": "Vendi, held-out", "max@k": "max@{n}",
    "pass@k": "pass@{n}", "distinct_2": "distinct-2", "words": "words", "truncated": "truncated",
}  # fmt: skip


def write_tables(out: Path, document: dict[str, Any], evaluated: Sequence[Evaluated]) -> str:
    """Write results.json, results.csv (a line a run) and results.md.

    Args:
        out: Folder of the results.
        document: As `summarise` returns it, with what the caller adds.
        evaluated: The runs behind it.

    Returns:
        The content of results.md.
    """
    write_json(out / "results.json", document)
    write_text(out / "results.csv", _csv(evaluated))
    text = markdown(document)
    write_text(out / "results.md", text)
    return text


def markdown(document: dict[str, Any]) -> str:
    """The two tables, a row a point and a row an arm, and what must be said beside them.

    Args:
        document: The content of results.json.

    Returns:
        Markdown.
    """
    n = document["n_samples"]
    shown = [name for name in _TITLES if any(point["metrics"].get(name) for point in document["points"])]
    head = ["arm", "alpha", "seeds", *(_TITLES[name].format(n=n) for name in shown)]
    rows = [
        [
            point["arm"] + (" ★" if point["on_front"] else ""),
            "–" if point["alpha"] is None else str(point["alpha"]),
            ", ".join(map(str, point["seeds"])) or "–",
            *(_cell(point["metrics"].get(name)) for name in shown),
        ]
        for point in document["points"]
    ]
    kinds = sorted({point["interval"] for point in document["points"]})
    level = f"{document['level'] * 100:g} %"
    lines = [_table(head, rows, left=1), f"Mean [{level} interval] over {', or '.join(kinds)}; {n} responses a prompt."]
    if any(point["on_front"] for point in document["points"]):
        lines.append("★ on the front: no other point has as much quality and as much diversity.")
    if document["hypervolume"]:
        lines += ["", _hypervolumes(document, n, level)]
    missing: dict[str, list[str]] = {}  # reason -> runs, so that a sweep cut short says so in one sentence
    for one in document.get("missing", []):
        missing.setdefault(one["reason"], []).append(one["run"])
    lines += [f"\nNot in the tables: {', '.join(runs)}, {reason}." for reason, runs in missing.items()]
    lines += [f"\n{note}" for note in [*_nulls(document), *document["notes"]]]
    return "\n".join(lines) + "\n"


def _nulls(document: dict[str, Any]) -> list[str]:
    """Why there is no number in a column, or no column."""
    found = []
    for name, title in _TITLES.items():
        told = [point["metrics"][name] for point in document["points"] if name in point["metrics"]]
        if None in told:
            where = "is – where" if any(told) else "has no column:"
            found.append(f"{title.format(n=document['n_samples'])} {where} {definition_of(name).undefined}.")
    return found


def _hypervolumes(document: dict[str, Any], n: int, level: str) -> str:
    volumes = document["hypervolume"]
    most = max(map(len, volumes.values()))
    head = ["arm", *(f"{k} point{'s' * (k > 1)}" for k in range(1, most + 1))]
    rows = [[arm, *(_cell(found.get(str(k))) for k in range(1, most + 1))] for arm, found in volumes.items()]
    return (
        _table(head, rows, left=1)
        + f"\nHypervolume of quality on [0, 1] and {document['axes'][0]} on [1, {n}] above their lower ends, as a "
        "share of the plane;\nat k points the mean over all choices of k of an arm's points, so compare inside a "
        f"column. [{level} interval] over prompts."
    )


def _cell(interval: dict[str, float] | None) -> str:
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]" if interval else "–"


def _table(head: list[str], rows: list[list[str]], left: int) -> str:
    """A markdown table that is aligned as plain text too."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = []
    for row in [head, rule, *rows]:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _csv(evaluated: Sequence[Evaluated]) -> str:
    names = list(dict.fromkeys(name for one in evaluated for name in one.document["metrics"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "arm", "alpha", "seed", *names])
    for one in evaluated:
        metrics = one.document["metrics"]
        means = [metrics[name]["mean"] if metrics.get(name) else "" for name in names]
        writer.writerow([one.run.name, one.run.arm, *("" if x is None else x for x in (one.run.alpha, one.run.seed)),
                         *means])  # fmt: skip
    return text.getvalue()


# What the evaluated runs of a sweep show: a point for every arm and alpha, and how much of the plane each arm covers.
#
# Two kinds of interval, named at every point. Several seeds: Student's t over the seeds' means, because the spread that
# matters is that of training. One seed: the evaluation's bootstrap over prompts, which knows nothing of that spread.
# Intervals of hypervolumes resample prompts, the same ones for all runs.

OVER_SEEDS, OVER_PROMPTS = "seeds (Student's t)", "prompts (bootstrap)"
_RESAMPLES = 1000


def summarise(evaluated: Sequence[Evaluated]) -> dict[str, Any]:
    """The numbers of a sweep.

    Args:
        evaluated: Runs evaluated alike, at least one.

    Returns:
        {"version", "level", "axes": [diversity, quality], "n_samples", "points": [{"arm", "alpha", "seeds",
        "interval", "on_front", "metrics": {name: {"mean", "low", "high"} or None}}], "hypervolume": {arm: {"1":
        {"mean", "low", "high"}, ...}}, "notes": [...]}. A hypervolume at k is the mean over all choices of k of an
        arm's points, quality on [0, 1] and Vendi on [1, n_samples] divided by their ranges; the base model has none.
    """
    points: dict[tuple[str, Any], list[Evaluated]] = {}
    for one in evaluated:
        points.setdefault((one.run.arm, one.run.alpha), []).append(one)
    axes = _axes(evaluated)
    document: dict[str, Any] = {
        "version": __version__,
        "level": LEVEL,
        "axes": axes,
        "n_samples": evaluated[0].document["n_samples"],
        "points": [_point(arm, alpha, runs) for (arm, alpha), runs in points.items()],
        "hypervolume": {},
        "notes": likeness_cautions({one.run.name: one.document for one in evaluated}),
    }
    if axes is None:
        document["notes"].append("No front and no hypervolume: a run has no quality or no diversity.")
        return document
    try:
        _add_fronts(document, list(points.values()), axes)
    except DQOError as error:
        document["notes"].append(f"No front and no hypervolume: {error}")
    return document


def student_interval(values: Sequence[float]) -> dict[str, float]:
    """Mean of a few independent values with its 95 % interval by Student's t, std with ddof 1.

    Args:
        values: Two or more.

    Returns:
        {"mean", "low", "high"}; very wide for two values, as it must be.
    """
    from scipy.stats import t

    mean = statistics.fmean(values)
    reach = t.ppf((1 + LEVEL) / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - float(reach), "high": mean + float(reach)}


def _axes(evaluated: Sequence[Evaluated]) -> list[str] | None:
    """Diversity by the held-out judge where there is one, and quality; None where a run lacks either."""
    metrics = evaluated[0].document["metrics"]
    axes = ["heldout/vendi_1" if "heldout/vendi_1" in metrics else "vendi_1", "quality"]
    return axes if all(one.document["metrics"].get(axis) for one in evaluated for axis in axes) else None


def _point(arm: str, alpha: float | str | None, runs: list[Evaluated]) -> dict[str, Any]:
    documents = [one.document["metrics"] for one in runs]
    metrics = {}
    for name in documents[0]:
        values = [document.get(name) for document in documents]
        if None in values:
            metrics[name] = None
        else:
            metrics[name] = values[0] if len(values) == 1 else student_interval([value["mean"] for value in values])
    return {
        "arm": arm,
        "alpha": alpha,
        "seeds": [one.run.seed for one in runs if one.run.seed is not None],
        "interval": OVER_PROMPTS if len(runs) == 1 else OVER_SEEDS,
        "on_front": None,
        "metrics": metrics,
    }


def _add_fronts(document: dict[str, Any], runs: list[list[Evaluated]], axes: list[str]) -> None:
    """Say of every point whether no other of all arms beats it, and measure what each arm covers."""
    diversity, quality = _by_prompt(runs, axes)  # (K, P) each, a row a point
    n_samples = document["n_samples"]
    means = normalise(quality.mean(axis=1), diversity.mean(axis=1), n_samples)  # (K, 2)
    unbeaten = pareto_front(means.tolist())
    for place, point in enumerate(document["points"]):
        point["on_front"] = place in unbeaten
    n_prompts = quality.shape[1]
    draws = np.random.default_rng(0).multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=_RESAMPLES)
    weights = draws / n_prompts  # (R, P) the same prompts for every point
    resampled = normalise((weights @ quality.T).clip(0.0, 1.0), weights @ diversity.T, n_samples)  # (R, K, 2)
    for arm in dict.fromkeys(point["arm"] for point in document["points"] if point["arm"] != BASE):
        own = [place for place, point in enumerate(document["points"]) if point["arm"] == arm]
        document["hypervolume"][arm] = {
            str(k): _covered(means[own], resampled[:, own], k) for k in range(1, len(own) + 1)
        }


def _covered(means: np.ndarray, resampled: np.ndarray, k: int) -> dict[str, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(hypervolume_at_k(resampled, k), [tail, 1 - tail])
    return {"mean": float(hypervolume_at_k(means, k)), "low": float(low), "high": float(high)}


def _by_prompt(runs: list[list[Evaluated]], axes: list[str]) -> list[np.ndarray]:
    """(K, P) values of each axis, means over seeds, over the prompts where both are defined in every run."""
    everyone = [one for point in runs for one in point]
    defined = [key for key in everyone[0].values["quality"]
               if all(one.values[axis].get(key) is not None for one in everyone for axis in axes)]  # fmt: skip
    if not defined:
        raise DQOError(f"it needs a prompt with {' and '.join(axes)} in every run, got none.")
    return [
        np.array([[statistics.fmean(one.values[axis][key] for one in point) for key in defined] for point in runs])
        for axis in axes
    ]
