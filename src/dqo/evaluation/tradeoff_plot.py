"""The picture of the trade-off: one point a run, quality against diversity, both with their intervals."""

from pathlib import Path
from typing import Any

from dqo.output_files import writing

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
