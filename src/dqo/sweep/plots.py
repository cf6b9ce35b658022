"""The pictures of a sweep: the quality-diversity front, and what a user gets who may draw several times."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.evaluation.definitions import explain
from dqo.files.jsonio import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _GREY, _FAINT = "#222222", "#9a9a9a", "#dddddd"
# Okabe and Ito's colours, darkened where they are too light to read as text.
_COLOURS = ("#0072b2", "#d55e00", "#00795a", "#a6418f", "#806600", "#5e3c99", "#b2182b", "#2c7fb8", "#4d4d4d")
_MARKERS = "osD^vPX<>"
_ACROSS = 3
# Above, below and to the left in turn, because neighbours are often close: offset in points, horizontal alignment.
_LABEL_PLACES = (((6, 5), "left"), ((6, -12), "left"), ((-6, 5), "right"))
_CURVES = {
    "pass": "Probability that n draws hold a good response (pass@n)",
    "max": "Expected quality of the best of n draws (max@n)",
}


def write_plots(out: Path, document: dict[str, Any]) -> list[Path]:
    """Draws front.png, pass_at_n.png and max_at_n.png of a results.json; nothing where no quality was measured."""
    if document["axes"] is None:
        return []
    figures = {"front.png": _front(document)}
    figures |= {f"{metric}_at_n.png": _curves(document, metric, title) for metric, title in _CURVES.items()}
    for name, figure in figures.items():
        temporary = out / f".{name}.tmp"
        with writing(out / name):
            figure.savefig(temporary, dpi=160, format="png")
            temporary.replace(out / name)
    return [out / name for name in figures]


def _front(document: dict[str, Any]) -> "Figure":
    arms, axes = _by_arm(document["points"]), document["axes"]
    across, up = (f"{explain(name).label} ({explain(name).unit})" for name in axes)
    # More arms than there are colours get a panel each, over the points of all others in grey.
    shared = len(arms) <= len(_COLOURS)
    figure, plots = _panels(1, (7.5, 5)) if shared else _panels(len(arms))
    for style, (arm, points) in enumerate(arms.items()):
        plot = plots[0 if shared else style]
        if not shared:
            plot.plot(
                *(_column(document["points"], name) for name in axes), ".", color=_GREY, ms=4, alpha=0.6, zorder=1
            )
        _draw_arm(plot, arm, points, axes, style)
        # A t interval over two or three seeds can be wider than the plane; the plane is what is to be seen.
        plot.set_xlim(_limits(_column(document["points"], axes[0]), (1, document["n_samples"])))
        plot.set_ylim(_limits(_column(document["points"], axes[1]), (0, 1)))
        _dress(plot, across if shared else "", up if shared else arm)
    if shared:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    else:
        figure.supxlabel(across, fontsize=10, color=_INK)
        figure.suptitle(up, x=0.01, ha="left", fontsize=11, color=_INK)
    return figure


def _draw_arm(plot: "Axes", arm: str, points: list[dict[str, Any]], axes: Sequence[str], style: int) -> None:
    colour, base = _colour(points, style), points[0]["alpha"] is None
    x, y = (_column(points, name) for name in axes)
    plot.errorbar(
        x, y, xerr=_reach(points, axes[0]), yerr=_reach(points, axes[1]), label=arm, color=colour, lw=1, alpha=0.9,
        fmt="*" if base else _MARKERS[style % len(_MARKERS)], ms=11 if base else 6, elinewidth=0.8, ls="-",
    )  # fmt: skip
    for place, point in enumerate(points if len(points) > 1 else []):
        offset, side = _LABEL_PLACES[place % len(_LABEL_PLACES)]
        plot.annotate(
            f"α={point['alpha']}", (x[place], y[place]), offset, textcoords="offset points", ha=side, fontsize=8,
            color=colour, parse_math=False,
        )  # fmt: skip


def _limits(means: list[float], possible: tuple[float, float]) -> tuple[float, float]:
    low, high = min(means), max(means)
    margin = max(0.25 * (high - low), 0.05 * (abs(high) or 1.0))
    if not (possible[0] <= low and high <= possible[1]):  # a reward may have another range
        return low - margin, high + margin
    room = 0.06 * (possible[1] - possible[0])
    return max(low - margin, possible[0] - room), min(high + margin, possible[1] + room)


def _curves(document: dict[str, Any], metric: str, title: str) -> "Figure":
    """A panel per arm, its curves dark with growing alpha over those of all arms in grey."""
    arms = _by_arm(document["points"])
    figure, plots = _panels(len(arms))
    for style, (plot, (arm, points)) in enumerate(zip(plots, arms.items(), strict=False)):
        for other in document["points"]:
            plot.plot(*_curve(other, metric), color=_FAINT, lw=1, zorder=1)
        for strength, point in enumerate(points, start=1):
            label = None if point["alpha"] is None else f"α={point['alpha']}"
            look = {"color": _colour(points, style), "alpha": 0.4 + 0.6 * strength / len(points), "label": label}
            plot.plot(*_curve(point, metric), lw=1.8, marker=".", **look)
        plot.set_xscale("log")
        ticks = _curve(points[0], metric)[0]
        plot.set_xticks(ticks, [str(tick) for tick in ticks])
        plot.minorticks_off()
        _dress(plot, "draws n", arm)
        if points[0]["alpha"] is not None:
            plot.legend(frameon=False, fontsize=8, loc="lower right")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK)
    return figure


def _panels(count: int, size: tuple[float, float] | None = None) -> "tuple[Figure, Sequence[Axes]]":
    from matplotlib.figure import Figure

    down, across = -(-count // _ACROSS), min(count, _ACROSS)
    figure = Figure(size or (3.1 * across + 0.4, 2.6 * down + 0.5), layout="constrained")  # pyplot picks a backend
    plots = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    for plot in plots[:count]:
        plot.tick_params(labelbottom=True)  # the panel below may be an empty one
    for plot in plots[count:]:
        plot.set_axis_off()
    return figure, plots


# A mode by name comes after the numbers.
def _by_arm(points: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    arms: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        arms.setdefault(point["arm"], []).append(point)
    return {arm: sorted(own, key=_place_of_alpha) for arm, own in arms.items()}


def _place_of_alpha(point: dict[str, Any]) -> float:
    return float("inf") if isinstance(point["alpha"], str) else point["alpha"] or 0.0


def _colour(points: list[dict[str, Any]], style: int) -> str:
    return _INK if points[0]["alpha"] is None else _COLOURS[style % len(_COLOURS)]


def _column(points: Sequence[dict[str, Any]], metric: str) -> list[float]:
    return [point["metrics"][metric]["mean"] for point in points]


def _reach(points: Sequence[dict[str, Any]], metric: str) -> list[list[float]]:
    values = [point["metrics"][metric] for point in points]
    return [[value["mean"] - value["low"] for value in values], [value["high"] - value["mean"] for value in values]]


def _curve(point: dict[str, Any], metric: str) -> tuple[list[int], list[float]]:
    names = [name for name in point["metrics"] if name.startswith(f"{metric}@") and not name.endswith("@k")]
    draws = sorted(int(name.partition("@")[2]) for name in names)
    return draws, [point["metrics"][f"{metric}@{k}"]["mean"] for k in draws]


def _dress(plot: "Axes", x_label: str, title: str) -> None:
    for side in ("top", "right"):
        plot.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        plot.spines[side].set_color(_GREY)
    plot.tick_params(colors=_INK, length=3)
    plot.set_xlabel(x_label, color=_INK)
    plot.set_title(title, loc="left", fontsize=10, color=_INK)
