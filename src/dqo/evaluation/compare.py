"""Several evaluated runs side by side: a table, a picture of quality against diversity, and samples to read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.errors import DataError
from dqo.evaluation.definitions import shown_in
from dqo.evaluation.frontier import pareto_front
from dqo.evaluation.statistics import FEW, FEW_PROMPTS, NOTE, SHOWN_BELOW, on_common_prompts, pairwise
from dqo.files.evaluation import MUST_AGREE, likeness_cautions, read_metrics, read_prompt_metrics, short_names, unlike
from dqo.files.jsonio import writing
from dqo.files.records import Group, read_groups, write_json, write_text
from dqo.files.run import owning

if TYPE_CHECKING:
    from rich.table import Table

_SAMPLES_SHOWN = 3
_FILES = ("metrics.json", "prompt_metrics.jsonl")


@dataclass(frozen=True)
class Run:
    """An evaluated run: metrics.json, its groups, and the value of every metric for every prompt id."""

    name: str
    document: dict[str, Any]
    groups: dict[str, Group]
    values: dict[str, dict[str, float | None]]


def compare(runs: Sequence[str | Path], out: str | Path, *, prompt_id: str | None = None) -> dict[str, Any]:
    """Write comparison.json, comparison.png and samples.md for runs that `evaluate` has measured.

    All that is compared is compared on the prompts that all of them answered: differences, prompt by prompt between any
    two of up to eight runs, as well as the table, the picture and the front.

    Args:
        runs: Two or more folders, each an evaluation's or one that holds it as `eval/`.
        out: Folder of the three files.
        prompt_id: Prompt whose first three responses of each run go into samples.md; by default the first shared one.

    Returns:
        The content of comparison.json: {"baseline", "n_shared", "figure", "runs": {run: metrics.json as it is},
        "shared": {run: {metric: {"mean", "low", "high", "prompts"} or None}}, over the prompts that all runs have a
        value for, "differences": {run: {metric: {"mean", "low", "high", "p", "p_holm", "prompts"} or None}}, to the
        first run, "pairs": the same for any two runs as `pairwise` returns it, "front": the runs no other beats in
        quality and diversity on the shared prompts, "cautions": sentences, "note"}. "figure" and "front" are None, and
        no picture is written, where a run has no quality.

    Raises:
        DataError: If a folder is not a complete evaluation, or the runs cannot be compared: different sample counts,
            encoders, tasks or thresholds, or no shared prompt.
        FolderBusyError: If another process writes to `out`.
    """
    loaded = _load(runs)
    shared = _shared_prompts(loaded)
    shown = prompt_id if prompt_id is not None else shared[0]
    if shown not in shared:
        raise DataError(f"Expected a prompt that all runs answered for samples.md, got id {prompt_id!r}.")
    metrics = shown_in(loaded[0].document["metrics"], "compare")
    pairs = pairwise({run.name: {key: run.values[key] for key in shared} for run in loaded}, metrics)
    means = on_common_prompts([run.values for run in loaded], [run.document["metrics"] for run in loaded])
    axes = _axes(means)
    points = {run.name: tuple(means[axis][i] for axis in axes) for i, run in enumerate(loaded)} if axes else {}
    comparison = {
        "baseline": loaded[0].name,
        "n_shared": len(shared),
        "figure": axes and "comparison.png",
        "runs": {run.name: run.document for run in loaded},
        "shared": {run.name: {name: column[i] for name, column in means.items()} for i, run in enumerate(loaded)},
        "differences": {pair["b"]: pair["metrics"] for pair in pairs if pair["a"] == loaded[0].name},
        "pairs": pairs,
        "front": axes and [loaded[place].name for place in pareto_front(_means(points))],
        "cautions": _cautions(loaded, shared, means),
        "note": NOTE,
    }
    out = Path(out)
    with owning(out):
        write_text(out / "samples.md", _samples(loaded, shown))
        if axes:
            plot_tradeoff(points, axes, out / "comparison.png")
        write_json(out / "comparison.json", comparison)
    return comparison


def comparison_table(comparison: dict[str, Any]) -> "Table":
    """A table for the terminal: metrics down, runs across, each mean over the shared prompts with its interval.

    Args:
        comparison: As `compare` returns it.

    Returns:
        A rich table; a star marks a difference to the first run with corrected p < 0.05.
    """
    from rich.markup import escape
    from rich.table import Table

    runs, differences = comparison["shared"], comparison["differences"]
    caption = f"95 % intervals over the shared prompts; * differs from {escape(comparison['baseline'])}"
    table = Table("metric", caption=caption)
    for name in runs:
        table.add_column(escape(name), justify="right")
    for metric in shown_in(comparison["runs"][comparison["baseline"]]["metrics"], "compare"):
        cells = []
        for name, values in runs.items():
            difference = differences.get(name, {}).get(metric)
            star = "*" if difference and difference["p_holm"] < SHOWN_BELOW else " "
            value = values.get(metric)
            cells.append(f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]{star}" if value else "–")
        table.add_row(metric, *map(escape, cells))
    return table


def _load(folders: Sequence[str | Path]) -> list[Run]:
    paths = [path / "eval" if (path / "eval" / "metrics.json").exists() else path for path in map(Path, folders)]
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise DataError(f"A comparison needs two or more different folders, got {', '.join(map(str, folders))}.")
    runs = [_read(path, name) for path, name in zip(paths, short_names(paths), strict=True)]
    for fact, told in unlike({run.name: run.document for run in runs}).items():
        if fact in MUST_AGREE:
            (first, value), *rest = told.items()
            other, another = next((name, found) for name, found in rest if found != value)
            raise DataError(
                f"Runs must agree on {fact} to be compared, got {value!r} in {first} and {another!r} in {other}; "
                "evaluate both alike."
            )
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
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder}: expected {' and '.join(_FILES)} of a finished evaluation, got no {missing[0]}; run `dqo eval` "
            "into that folder first."
        )
    document, values = read_metrics(folder / _FILES[0]), read_prompt_metrics(folder / _FILES[1])
    groups = {group.id: group for group in read_groups(folder / "groups.jsonl")}
    return Run(name, document, groups, {key: row for key, row in values.items() if key in groups})


def _means(points: dict[str, tuple[dict[str, float], ...]]) -> list[list[float]]:
    return [[axis["mean"] for axis in point] for point in points.values()]


def _cautions(runs: list[Run], shared: list[str], means: dict[str, list[dict[str, float] | None]]) -> list[str]:
    """What to know before a difference is read as one of models."""
    found = []
    if any(len(run.values) > len(shared) for run in runs):
        told = ", ".join(f"{run.name}: {len(run.values)}" for run in runs)
        found.append(
            f"The runs did not answer the same prompts ({told}): all that is compared is over the {len(shared)} that "
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


def _axes(means: dict[str, list[dict[str, float] | None]]) -> tuple[str, str] | None:
    """Diversity and quality metric of the picture; the held-out judge where every run has one."""
    common = [name for name, column in means.items() if all(column)]
    diversity = next((name for name in ("heldout/vendi_1", "vendi_1") if name in common), None)
    return (diversity, "quality") if diversity and "quality" in common else None


def _samples(runs: list[Run], prompt_id: str) -> str:
    text = f"# Samples for `{prompt_id}`\n\n{_fenced(runs[0].groups[prompt_id].prompt)}"
    for run in runs:
        group = run.groups[prompt_id]
        text += f"\n## {run.name}\n"
        for i, response in enumerate(group.responses[:_SAMPLES_SHOWN]):
            reward = "not scored" if group.rewards is None else f"quality {group.rewards[i]:.3g}"
            text += f"\n{i + 1}. {reward}, ended by {group.finish[i]}\n\n{_fenced(response)}"
    return text


def _fenced(text: str) -> str:
    """Text of a model as a code block that it cannot break out of."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}\n"


# The picture of the trade-off: one point a run, quality against diversity, both with their intervals.

Point = tuple[dict[str, float], dict[str, float]]

_INK, _GREY = "#222222", "#9a9a9a"
# Dark enough to read as text, and told apart by the colour-blind.
_COLOURS = ("#4d4d4d", "#0072b2", "#d55e00", "#00795a", "#a6418f", "#806600", "#5e3c99")
_TITLES = {
    "vendi_1": "Different responses among the samples (Vendi score)",
    "heldout/vendi_1": "Different responses among the samples (Vendi score, held-out encoder)",
    "quality": "Quality (mean reward)",
}
# Places of a label around its point, in order of preference: offset in points, horizontal and vertical alignment.
_PLACES = (
    (7, 5, "left", "bottom"), (7, -5, "left", "top"), (-7, 5, "right", "bottom"), (-7, -5, "right", "top"),
    (7, 16, "left", "bottom"), (7, -16, "left", "top"), (-7, 16, "right", "bottom"), (-7, -16, "right", "top"),
)  # fmt: skip


def plot_tradeoff(points: dict[str, Point], axes: tuple[str, str], path: Path) -> None:
    """Draw one point a run with error bars and its name beside it; up and to the right is better.

    Args:
        points: Run name -> the intervals {"mean", "low", "high"} of the horizontal and the vertical metric.
        axes: Names of the two metrics.
        path: PNG file, replaced; its folder exists.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")  # no pyplot: it would pick a backend and keep the figure
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    for number, (x, y) in enumerate(points.values()):
        colour = _COLOURS[number % len(_COLOURS)]
        plot.errorbar(x["mean"], y["mean"], xerr=_reach(x), yerr=_reach(y), fmt="o", ms=7, color=colour, elinewidth=1)
    for side in ("top", "right"):
        plot.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        plot.spines[side].set_color(_GREY)
    plot.tick_params(colors=_INK, length=3)
    plot.margins(0.12)
    plot.set_xlabel(_TITLES.get(axes[0], axes[0]), color=_INK)
    plot.set_title(_TITLES.get(axes[1], axes[1]), loc="left", fontsize=10, color=_INK)
    figure.canvas.draw()
    _label(plot, points)
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        figure.savefig(temporary, dpi=160, format="png")
        temporary.replace(path)


def _reach(interval: dict[str, float]) -> list[list[float]]:
    return [[interval["mean"] - interval["low"]], [interval["high"] - interval["mean"]]]


def _label(plot: Any, points: dict[str, Point]) -> None:
    """Name every point where the name covers least of other names, points and error bars."""
    from matplotlib.transforms import Bbox

    renderer, taken = plot.figure.canvas.get_renderer(), []
    for x, y in points.values():
        for low, high in (
            ((x["low"], y["mean"]), (x["high"], y["mean"])),
            ((x["mean"], y["low"]), (x["mean"], y["high"])),
        ):
            taken.append(Bbox([*plot.transData.transform([low, high])]).padded(3))
    frame = plot.get_window_extent(renderer)
    for number, (name, (x, y)) in enumerate(points.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        best = None
        for dx, dy, across, along in _PLACES:
            text = plot.annotate(
                name, (x["mean"], y["mean"]), (dx, dy), textcoords="offset points", ha=across, va=along,
                color=colour, fontsize=9, parse_math=False,
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
            cost = 10 * outside + sum(box.overlaps(other) for other in taken)
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, text, box)
            else:
                text.remove()
        taken.append(best[2])
