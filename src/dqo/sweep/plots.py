"""The pictures of a sweep: the quality-diversity front, and what a user gets who may draw several times."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dqo.evaluation.definitions import explain
from dqo.files.jsonio import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _FAINT = "#222222", "#dddddd"
# Okabe and Ito's colours, darkened where they are too light to read as text.
_COLOURS = ("#0072b2", "#d55e00", "#00795a", "#a6418f", "#806600", "#5e3c99", "#b2182b", "#2c7fb8", "#4d4d4d")
_MARKERS = "osD^vPX<>"
_ACROSS = 3
_LOOK = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.titlesize": 10,
    "figure.titlesize": 11, "legend.frameon": False, "legend.fontsize": 8,
}  # fmt: skip
_CURVES = {
    "pass": "Probability that n draws hold a good response (pass@n)",
    "max": "Expected quality of the best of n draws (max@n)",
}


def write_plots(out: Path, document: dict[str, Any]) -> None:
    """Draws front.png, pass_at_n.png and max_at_n.png of a results.json; nothing where no quality was measured."""
    if document["axes"] is None:
        return
    from matplotlib import rc_context

    with rc_context(_LOOK):
        figures = {"front.png": _front(document)}
        figures |= {f"{metric}_at_n.png": _curves(document, metric, title) for metric, title in _CURVES.items()}
        for name, figure in figures.items():
            temporary = out / f".{name}.tmp"
            with writing(out / name):
                figure.savefig(temporary, dpi=160, format="png")
                temporary.replace(out / name)


def _front(document: dict[str, Any]) -> "Figure":
    """All points, those of an arm joined in the order of alpha; up and to the right is better."""
    from matplotlib.figure import Figure

    axes, figure = document["axes"], Figure((8, 5), layout="constrained")  # no pyplot, which picks a backend
    across, up = (f"{explain(name).label} ({explain(name).unit})" for name in axes)
    plot = figure.add_subplot(xlabel=across, title=up)
    for style, (arm, points) in enumerate(_by_arm(document["points"]).items()):
        colour, base = _colour(points, style), points[0]["alpha"] is None
        marker = "*" if base else _MARKERS[(style + style // len(_COLOURS)) % len(_MARKERS)]
        (x, left), (y, down) = (_means_with_reach(points, name) for name in axes)
        look = {"color": colour, "fmt": f"{marker}-", "ms": 11 if base else 6}
        plot.errorbar(x, y, down, left, label=arm, lw=1, elinewidth=0.8, alpha=0.9, **look)
        for point, *place in zip(points, x, y, strict=True):
            label = "" if base else f"α={point['alpha']}"
            offset = (6, -12 if style % 2 else 5)  # neighbours are often of another arm
            plot.annotate(label, place, offset, textcoords="offset points", fontsize=8, color=colour)
    # A t interval over two or three seeds can be wider than the plane; the points are what is to be seen.
    means = np.array([[point["metrics"][name]["mean"] for name in axes] for point in document["points"]])  # (K, 2)
    low, high = means.min(axis=0), means.max(axis=0)
    margin = np.maximum(0.2 * (high - low), 0.05)
    plot.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    figure.legend(loc="outside right upper")
    return figure


def _curves(document: dict[str, Any], metric: str, title: str) -> "Figure":
    """A panel per arm, its curves dark with growing alpha over those of all arms in grey."""
    from matplotlib.figure import Figure

    arms = _by_arm(document["points"])
    down, across = -(-len(arms) // _ACROSS), min(len(arms), _ACROSS)
    figure = Figure((3.1 * across + 0.4, 2.6 * down + 0.5), layout="constrained")
    for style, (arm, points) in enumerate(arms.items()):
        plot = figure.add_subplot(down, across, style + 1, xlabel="draws n", title=arm, xscale="log")
        for other in document["points"]:
            plot.plot(*_curve(other, metric), color=_FAINT, lw=1, zorder=1)
        for strength, point in enumerate(points, start=1):
            look = {"color": _colour(points, style), "alpha": 0.4 + 0.6 * strength / len(points)}
            draws, means = _curve(point, metric)
            plot.plot(draws, means, lw=1.8, marker=".", label=f"α={point['alpha']}", **look)
        plot.set_xticks(draws, map(str, draws))
        plot.minorticks_off()
        if points[0]["alpha"] is not None:
            plot.legend(loc="lower right")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


# A mode by name comes after the numbers.
def _by_arm(points: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    arms: dict[str, list[dict[str, Any]]] = {point["arm"]: [] for point in points}
    for point in sorted(points, key=lambda point: (isinstance(point["alpha"], str), point["alpha"] or 0.0)):
        arms[point["arm"]].append(point)
    return arms


def _colour(points: Sequence[dict[str, Any]], style: int) -> str:
    return _INK if points[0]["alpha"] is None else _COLOURS[style % len(_COLOURS)]


def _means_with_reach(points: Sequence[dict[str, Any]], metric: str) -> tuple[list[float], list[list[float]]]:
    values = [point["metrics"][metric] for point in points]
    reach = [[value["mean"] - value["low"] for value in values], [value["high"] - value["mean"] for value in values]]
    return [value["mean"] for value in values], reach


def _curve(point: dict[str, Any], metric: str) -> tuple[list[int], list[float]]:
    names = [name for name in point["metrics"] if name.startswith(f"{metric}@") and not name.endswith("@k")]
    draws = sorted(int(name.partition("@")[2]) for name in names)
    return draws, [point["metrics"][f"{metric}@{k}"]["mean"] for k in draws]
