"""The pictures of a sweep: the quality-diversity front, and what a user gets who may draw several times."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.files.jsonio import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _GREY, _FAINT = "#222222", "#9a9a9a", "#dddddd"
# Okabe and Ito's colours, darkened where they are too light to read as text.
_COLOURS = ("#0072b2", "#d55e00", "#00795a", "#a6418f", "#806600", "#5e3c99", "#b2182b", "#2c7fb8", "#4d4d4d")
_MARKERS = "osD^vPX<>"
_DIVERSITY = {
    "vendi_1": "Different responses among {n} (Vendi score)",
    "heldout/vendi_1": "Different responses among {n} (Vendi score, held-out encoder)",
}
_ACROSS = 3
_LABEL_PLACES = (((6, 5), "left"), ((6, -12), "left"), ((-6, 5), "right"))  # offset in points, horizontal alignment


def write_plots(out: Path, document: dict[str, Any]) -> list[Path]:
    """Draw front.png, pass_at_n.png and max_at_n.png; nothing where no quality was measured.

    Args:
        out: Folder of the results.
        document: The content of results.json.

    Returns:
        The pictures written.
    """
    if document["axes"] is None:
        return []
    written = [_save(_front(document), out / "front.png")]
    for metric, title in (("pass", "Probability that n draws hold a good response (pass@n)"),
                          ("max", "Expected quality of the best of n draws (max@n)")):  # fmt: skip
        written.append(_save(_curves(document, metric, title), out / f"{metric}_at_n.png"))
    return written


def _front(document: dict[str, Any]) -> "Figure":
    """One point an arm and alpha with its intervals; an arm's points are joined in the order of alpha.

    Few arms share a plot; more than there are colours get a panel each, over the points of all others in grey.
    """
    arms = _by_arm(document["points"])
    labels = _DIVERSITY[document["axes"][0]].format(n=document["n_samples"]), "Quality (mean reward)"
    if len(arms) <= len(_COLOURS):
        figure = _figure(7.5, 5)
        plot = figure.add_subplot()
        for style, (arm, points) in enumerate(arms.items()):
            _draw_arm(plot, arm, points, document["axes"], style)
        _limit(plot, document)
        _dress(plot, *labels)
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
        return figure
    figure, plots = _panels(len(arms))
    for plot, (style, (arm, points)) in zip(plots, enumerate(arms.items()), strict=False):
        x, y = ([point["metrics"][name]["mean"] for point in document["points"]] for name in document["axes"])
        plot.plot(x, y, ".", color=_GREY, ms=4, alpha=0.6, zorder=1)
        _draw_arm(plot, arm, points, document["axes"], style)
        _limit(plot, document)
        _dress(plot, "", arm)
    figure.supxlabel(labels[0], fontsize=10, color=_INK)
    figure.suptitle(labels[1], x=0.01, ha="left", fontsize=11, color=_INK)
    return figure


def _draw_arm(plot: "Axes", arm: str, points: list[dict[str, Any]], axes: Sequence[str], style: int) -> None:
    base = points[0]["alpha"] is None
    colour = _INK if base else _COLOURS[style % len(_COLOURS)]
    x, y = ([point["metrics"][name] for point in points] for name in axes)
    plot.errorbar(
        [v["mean"] for v in x], [v["mean"] for v in y], xerr=_reach(x), yerr=_reach(y), label=arm, color=colour,
        fmt="*" if base else _MARKERS[style % len(_MARKERS)], ms=11 if base else 6, elinewidth=0.8,
        ls="-", lw=1, alpha=0.9,
    )  # fmt: skip
    for place, (point, across, up) in enumerate(zip(points, x, y, strict=True)):
        if len(points) > 1:  # above, below and to the left in turn, because neighbours are often close
            offset, side = _LABEL_PLACES[place % len(_LABEL_PLACES)]
            plot.annotate(
                f"α={point['alpha']}", (across["mean"], up["mean"]), offset, textcoords="offset points", ha=side,
                fontsize=8, color=colour, parse_math=False,
            )  # fmt: skip


def _limit(plot: "Axes", document: dict[str, Any]) -> None:
    """A t interval over two or three seeds can be wider than the plane; the plane is what is to be seen."""
    x_name, y_name = document["axes"]
    for setter, name, possible in (
        (plot.set_xlim, x_name, (1, document["n_samples"])),
        (plot.set_ylim, y_name, (0, 1)),
    ):
        means = [point["metrics"][name]["mean"] for point in document["points"]]
        low, high = min(means), max(means)
        margin = max(0.25 * (high - low), 0.05 * (abs(high) or 1.0))
        low_end, high_end = low - margin, high + margin
        if possible[0] <= low and high <= possible[1]:  # a reward may have another range
            room = 0.06 * (possible[1] - possible[0])
            low_end, high_end = max(low_end, possible[0] - room), min(high_end, possible[1] + room)
        setter(low_end, high_end)


def _curves(document: dict[str, Any], metric: str, title: str) -> "Figure":
    """A panel an arm, its curves dark with growing alpha over those of all arms in grey."""
    arms = _by_arm(document["points"])
    figure, plots = _panels(len(arms))
    for plot, (style, (arm, points)) in zip(plots, enumerate(arms.items()), strict=False):
        colour = _INK if points[0]["alpha"] is None else _COLOURS[style % len(_COLOURS)]
        for other in document["points"]:
            plot.plot(*_curve(other, metric), color=_FAINT, lw=1, zorder=1)
        for place, point in enumerate(points):
            strength = 1.0 if len(points) == 1 else 0.4 + 0.6 * place / (len(points) - 1)
            label = None if point["alpha"] is None else f"α={point['alpha']}"
            plot.plot(*_curve(point, metric), color=colour, alpha=strength, lw=1.8, marker=".", label=label)
        plot.set_xscale("log")
        ticks = _curve(points[0], metric)[0]
        plot.set_xticks(ticks, [str(tick) for tick in ticks])
        plot.minorticks_off()
        _dress(plot, "draws n", arm)
        if any(point["alpha"] is not None for point in points):
            plot.legend(frameon=False, fontsize=8, loc="lower right")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK)
    return figure


def _panels(count: int) -> "tuple[Figure, Sequence[Axes]]":
    """A figure of so many equal plots on the same axes, in rows."""
    down, across = -(-count // _ACROSS), min(count, _ACROSS)
    figure = _figure(3.1 * across + 0.4, 2.6 * down + 0.5)
    plots = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    for plot in plots[:count]:
        plot.tick_params(labelbottom=True)  # the panel below may be an empty one
    for plot in plots[count:]:
        plot.set_axis_off()
    return figure, plots


def _by_arm(points: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    arms: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        arms.setdefault(point["arm"], []).append(point)
    return {arm: sorted(own, key=_alpha_order) for arm, own in arms.items()}


def _alpha_order(point: dict[str, Any]) -> tuple[bool, float]:
    """Numbers first and ascending; a mode by name comes after them."""
    named = not isinstance(point["alpha"], int | float)
    return named, 0.0 if named else point["alpha"]


def _curve(point: dict[str, Any], metric: str) -> tuple[list[int], list[float]]:
    prefix = f"{metric}@"
    draws = sorted(int(name.removeprefix(prefix)) for name in point["metrics"]
                   if name.startswith(prefix) and name != f"{prefix}k")  # fmt: skip
    return draws, [point["metrics"][f"{prefix}{k}"]["mean"] for k in draws]


def _reach(intervals: list[dict[str, float]]) -> list[list[float]]:
    return [[v["mean"] - v["low"] for v in intervals], [v["high"] - v["mean"] for v in intervals]]


def _dress(plot: "Axes", x_label: str, title: str) -> None:
    for side in ("top", "right"):
        plot.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        plot.spines[side].set_color(_GREY)
    plot.tick_params(colors=_INK, length=3)
    plot.set_xlabel(x_label, color=_INK)
    plot.set_title(title, loc="left", fontsize=10, color=_INK)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")  # no pyplot: it would pick a backend
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", path: Path) -> Path:
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        figure.savefig(temporary, dpi=160, format="png")
        temporary.replace(path)
    return path
