"""What the evaluations of a sweep say together: read back, checked for likeness, summed up, written and drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dqo._version import __version__
from dqo.errors import DataError
from dqo.evaluation.compare import with_interval
from dqo.evaluation.definitions import definition_of, explain, headline
from dqo.evaluation.statistics import LEVEL, hypervolume, pareto_front
from dqo.files.evaluation import MUST_AGREE, likeness_cautions, read_metrics, read_prompt_metrics, unlike
from dqo.files.jsonio import writing
from dqo.files.records import Prompt, read_groups, write_json, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dqo.sweep.plan import Evaluation, Run  # they need the extra `train`

# Two kinds of interval, named at every point. Several seeds: Student's t over the seeds' means, because the spread that
# matters is that of training. One seed: the evaluation's bootstrap over prompts, which knows nothing of that spread.
OVER_SEEDS, OVER_PROMPTS = "seeds (Student's t)", "prompts (bootstrap)"
_RESAMPLES = 1000  # of the prompts, the same ones for all runs
# Okabe and Ito's colours, darkened where they are too light to read as text.
_COLOURS = ("#0072b2", "#d55e00", "#00795a", "#a6418f", "#806600", "#5e3c99", "#b2182b", "#2c7fb8", "#4d4d4d")
_MARKERS = "osD^vPX<>"
NO_FRONT = (
    "No front and no hypervolume: they need quality in [0, 1] and diversity of every run, a prompt with both in all of "
    "them, and 2 responses or more per prompt."
)


@dataclass(frozen=True)
class Evaluated:
    """A run with its evaluation.

    Attributes:
        run: The run.
        document: Content of metrics.json.
        values: (P, M) a row per prompt id, a column per metric, NaN where a metric is undefined.
    """

    run: "Run"
    document: dict[str, Any]
    values: pd.DataFrame


def read_evaluations(
    runs: "Sequence[Run]", evaluation: "Evaluation", prompts: Sequence[Prompt]
) -> tuple[list[Evaluated], dict[str, str]]:
    """Reads the runs whose evaluation is finished; a bad one leaves the others in the tables."""
    found: dict[str, Evaluated] = {}
    wrong: dict[str, str] = {}
    for run in runs:
        folder = run.folder / evaluation.folder
        if not (folder / "metrics.json").exists():
            continue
        try:
            _check_prompts(folder, prompts)
            values = pd.DataFrame.from_dict(read_prompt_metrics(folder / "prompt_metrics.jsonl"), orient="index")
            found[run.name] = Evaluated(run, read_metrics(folder / "metrics.json"), values.astype(float))
        except DataError as error:
            wrong[run.name] = str(error)
    standard = max(found, key=lambda name: sum(not _odd(found, name, other) for other in found), default="")
    for name in list(found):  # the standard is like most; of equals the first
        for fact, both in _odd(found, standard, name).items():
            wrong[name] = (
                f"{found[name].run.folder / evaluation.folder}: expected every run to be evaluated alike, but {fact} "
                f"is {both[name]!r} here and {both[standard]!r} in {standard}; delete the folder of the wrong one."
            )
    return [one for name, one in found.items() if name not in wrong], wrong


def _odd(found: Mapping[str, Evaluated], standard: str, name: str) -> dict[str, dict[str, Any]]:
    facts = unlike({key: found[key].document for key in (standard, name)})
    return {fact: both for fact, both in facts.items() if fact in MUST_AGREE}


def _check_prompts(folder: Path, prompts: Sequence[Prompt]) -> None:
    answered = {group.id: group.prompt for group in read_groups(folder / "groups.jsonl")}
    asked = {prompt.id: prompt.prompt for prompt in prompts}
    if answered != asked:
        raise DataError(
            f"{folder}: expected answers to the {len(asked)} prompts of this sweep, got {len(answered)}, not to the "
            "same; set evaluation.folder to another name, or put the prompts back."
        )


def summarise(evaluated: Sequence[Evaluated]) -> dict[str, Any]:
    """Sums up a sweep: a point for every arm and alpha, and how much of the plane each arm covers.

    Args:
        evaluated: Runs evaluated alike, at least one.

    Returns:
        {"version", "level", "axes": [diversity, quality], "n_samples", "points": [{"arm", "alpha", "seeds",
        "interval", "on_front", "metrics": {name: {"mean", "low", "high"} or None}}], "hypervolume": {arm: {"points",
        "mean", "low", "high"}}, "notes": [...]}. A hypervolume is that of all points of an arm, quality on [0, 1] and
        Vendi on [1, n_samples] divided by their ranges; the base model has none.
    """
    points: dict[tuple[str, Any], list[Evaluated]] = {}
    for one in evaluated:
        points.setdefault((one.run.arm, one.run.alpha), []).append(one)
    document: dict[str, Any] = {
        "version": __version__,
        "level": LEVEL,
        "axes": _axes(evaluated),
        "n_samples": evaluated[0].document["n_samples"],
        "points": [_point(arm, alpha, runs) for (arm, alpha), runs in points.items()],
        "hypervolume": {},
        "notes": likeness_cautions({one.run.name: one.document for one in evaluated}),
    }
    if document["axes"] is None or not _add_fronts(document, list(points.values())):
        document["notes"].append(NO_FRONT)
    return document


def student_interval(values: Sequence[float]) -> dict[str, float]:
    """Mean of a few independent values with its 95 % interval by Student's t, std with ddof 1."""
    from scipy.stats import sem, t

    mean = float(np.mean(values))
    reach = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * sem(values))  # t.interval is NaN where all are equal
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


# The held-out judge of diversity comes first; a run without an axis leaves no plane.
def _axes(evaluated: Sequence[Evaluated]) -> list[str] | None:
    metrics = evaluated[0].document["metrics"]
    axes = ["heldout/vendi_1" if "heldout/vendi_1" in metrics else "vendi_1", "quality"]
    return axes if all(one.document["metrics"].get(axis) for one in evaluated for axis in axes) else None


def _point(arm: str, alpha: float | str | None, runs: list[Evaluated]) -> dict[str, Any]:
    values = {name: [one.document["metrics"].get(name) for one in runs] for name in runs[0].document["metrics"]}
    return {
        "arm": arm,
        "alpha": alpha,
        "seeds": [one.run.seed for one in runs if one.run.seed is not None],
        "interval": OVER_PROMPTS if len(runs) == 1 else OVER_SEEDS,
        "on_front": None,
        "metrics": {name: _over_seeds(found) for name, found in values.items()},
    }


def _over_seeds(values: list[dict[str, float] | None]) -> dict[str, float] | None:
    if len(values) == 1 or None in values:
        return None if None in values else values[0]
    return student_interval([value["mean"] for value in values])


def _add_fronts(document: dict[str, Any], runs: list[list[Evaluated]]) -> bool:
    """Marks the points that no other of all arms beats, and measures what each arm covers; False where it cannot."""
    axes, points, n_samples = document["axes"], document["points"], document["n_samples"]
    # (P, 2K) means over seeds, a pair of columns per point, over the prompts where both axes are defined in every run
    table = pd.concat([sum(one.values[axes] for one in point) / len(point) for point in runs], axis=1).dropna()
    diversity, quality = (table[axis].to_numpy().reshape(len(table), -1) for axis in axes)  # (P, K)
    if not len(table) or n_samples < 2 or not all(0 <= mean <= 1 for mean in quality.mean(axis=0)):
        return False
    means = plane(quality.mean(axis=0), diversity.mean(axis=0), n_samples)  # (K, 2)
    unbeaten = pareto_front(means.tolist())
    for place, point in enumerate(points):
        point["on_front"] = place in unbeaten
    share = np.full(len(table), 1 / len(table))
    weights = np.random.default_rng(0).multinomial(len(table), share, size=_RESAMPLES) / len(table)  # (R, P)
    resampled = plane((weights @ quality).clip(0.0, 1.0), weights @ diversity, n_samples)  # (R, K, 2)
    for arm in dict.fromkeys(point["arm"] for point in points if point["alpha"] is not None):
        own = [place for place, point in enumerate(points) if point["arm"] == arm]
        mean, *others = (hypervolume(drawn[own].tolist(), (0.0, 0.0)) for drawn in [means, *resampled])
        low, high = np.quantile(others, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
        document["hypervolume"][arm] = {"points": len(own), "mean": mean, "low": low, "high": high}
    return True


def plane(quality: np.ndarray, vendi: np.ndarray, n_samples: int) -> np.ndarray:
    """Divides both axes by their ranges, so that quality 0 and Vendi 1 are the origin."""
    return np.stack([quality, np.clip((vendi - 1.0) / (n_samples - 1.0), 0.0, 1.0)], axis=-1)


def write_results(out: Path, document: dict[str, Any], evaluated: Sequence[Evaluated]) -> str:
    """Writes results.json, results.csv (a line per run), front.png and results.md, whose content comes back."""
    write_json(out / "results.json", document)
    rows = [
        {"run": one.run.name, "arm": one.run.arm, "alpha": one.run.alpha, "seed": one.run.seed}
        | {name: value and value["mean"] for name, value in one.document["metrics"].items()}
        for one in evaluated
    ]
    # as objects, or the seeds of a table with a base model would become floats
    write_text(out / "results.csv", pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n"))
    if document["axes"]:
        with writing(out / "front.png"):
            draw_front(document).savefig(out / "front.png", dpi=160)
    text = markdown(document)
    write_text(out / "results.md", text)
    return text


def markdown(document: dict[str, Any]) -> str:
    """Formats two tables, a row per point and a row per arm, and what must be said beside them."""
    points, level, n = document["points"], f"{document['level'] * 100:g} %", document["n_samples"]
    names = headline(points[0]["metrics"])
    labels = {name: explain(name).label for name in names if any(point["metrics"].get(name) for point in points)}
    rows = [
        {"arm": point["arm"] + (" ★" if point["on_front"] else "")}
        | {"alpha": "–" if point["alpha"] is None else str(point["alpha"])}
        | {"seeds": ", ".join(map(str, point["seeds"])) or "–"}
        | {label: with_interval(point["metrics"].get(name)) for name, label in labels.items()}
        for point in points
    ]
    kinds = " or ".join(sorted({point["interval"] for point in points}))
    lines = [_table(rows), f"Mean [{level} interval] over {kinds}; {n} responses per prompt."]
    if document["hypervolume"]:
        volumes = document["hypervolume"].items()
        lines += [
            "★ on the front: no other point has as much quality and as much diversity.\n",
            _table([{"arm": arm, "points": str(v["points"]), "hypervolume": with_interval(v)} for arm, v in volumes]),
            f"Hypervolume of quality on [0, 1] and {document['axes'][0]} on [1, {n}] above their lower ends, as a "
            f"share of the plane;\nan arm with more points covers more. [{level} interval] over prompts.",
        ]
    missing: dict[str, list[str]] = {}  # reason -> runs, so that a sweep cut short says so in one sentence
    for one in document.get("missing", []):
        missing.setdefault(one["reason"], []).append(one["run"])
    lines += [f"\nNot in the tables: {', '.join(runs)}, {reason}." for reason, runs in missing.items()]
    for name in names:
        values = [point["metrics"].get(name) for point in points]
        if None in values:
            where = "is – where" if any(values) else "has no column:"
            lines.append(f"\n{explain(name).label} {where} {definition_of(name).undefined}.")
    return "\n".join([*lines, *(f"\n{note}" for note in document["notes"])]) + "\n"


def _table(rows: Sequence[dict[str, str]]) -> str:
    sides = ["left"] + ["right"] * (len(rows[0]) - 1)
    return pd.DataFrame(rows).to_markdown(index=False, colalign=sides, disable_numparse=True) + "\n"


def draw_front(document: dict[str, Any]) -> "Figure":
    """Draws all points, those of an arm joined in the order of alpha; up and to the right is better."""
    from matplotlib.figure import Figure

    axes, figure = document["axes"], Figure((8, 5), layout="constrained")  # no pyplot, which picks a backend
    across, up = (f"{explain(name).label} ({explain(name).unit})" for name in axes)
    plot = figure.add_subplot(xlabel=across, ylabel=up)
    for style, arm in enumerate(dict.fromkeys(point["arm"] for point in document["points"])):
        points = [point for point in document["points"] if point["arm"] == arm]
        points.sort(key=lambda point: (isinstance(point["alpha"], str), point["alpha"] or 0.0))  # a mode comes last
        colour, marker = _COLOURS[style % len(_COLOURS)], _MARKERS[(style + style // len(_COLOURS)) % len(_MARKERS)]
        (x, left), (y, down) = (_means_with_reach(points, name) for name in axes)
        plot.errorbar(x, y, down, left, f"{marker}-", color=colour, label=arm, linewidth=1, elinewidth=0.8)
        for point, *place in zip(points, x, y, strict=True):
            label = "" if point["alpha"] is None else f"α={point['alpha']}"
            offset = (6, -12 if style % 2 else 5)  # neighbours are often of another arm
            plot.annotate(label, place, offset, textcoords="offset points", fontsize=8, color=colour)
    # A t interval over two or three seeds can be wider than the plane; the points are what is to be seen.
    means = np.array([[point["metrics"][name]["mean"] for name in axes] for point in document["points"]])  # (K, 2)
    low, high = means.min(axis=0), means.max(axis=0)
    margin = np.maximum(0.2 * (high - low), 0.05)
    plot.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _means_with_reach(points: Sequence[dict[str, Any]], metric: str) -> tuple[list[float], list[list[float]]]:
    values = [point["metrics"][metric] for point in points]
    reach = [[value["mean"] - value["low"] for value in values], [value["high"] - value["mean"] for value in values]]
    return [value["mean"] for value in values], reach
