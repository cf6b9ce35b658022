"""The pictures of a sweep: the quality-diversity front, and what a user gets who may draw several times."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.sweep.plan import BASE

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
    """One point an arm and alpha with its intervals; an arm's points are joined in the order of alpha."""
    figure = _figure(7.5, 5)
    plot = figure.add_subplot()
    x_name, y_name = document["axes"]
    for style, (arm, points) in enumerate(_by_arm(document["points"]).items()):
        colour = _INK if arm == BASE else _COLOURS[style % len(_COLOURS)]
        x, y = ([point["metrics"][name] for point in points] for name in (x_name, y_name))
        plot.errorbar(
            [v["mean"] for v in x], [v["mean"] for v in y], xerr=_reach(x), yerr=_reach(y), label=arm, color=colour,
            fmt="*" if arm == BASE else _MARKERS[style % len(_MARKERS)], ms=11 if arm == BASE else 6, elinewidth=0.8,
            ls="-", lw=1, alpha=0.9,
        )  # fmt: skip
        for point, across, up in zip(points, x, y, strict=True):
            if len(points) > 1:
                plot.annotate(
                    f"α={point['alpha']}", (across["mean"], up["mean"]), (6, 5), textcoords="offset points",
                    fontsize=8, color=colour, parse_math=False,
                )  # fmt: skip
    # A t interval over two or three seeds can be wider than the plane; the plane is what is to be seen.
    means = {name: [point["metrics"][name]["mean"] for point in document["points"]] for name in document["axes"]}
    for setter, name in ((plot.set_xlim, x_name), (plot.set_ylim, y_name)):
        low, high = min(means[name]), max(means[name])
        margin = max(0.25 * (high - low), 0.05 * (abs(high) or 1.0))
        setter(low - margin, high + margin)
    _dress(plot, _DIVERSITY[x_name].format(n=document["n_samples"]), "Quality (mean reward)")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _curves(document: dict[str, Any], metric: str, title: str) -> "Figure":
    """A panel an arm, its curves dark with growing alpha over those of all arms in grey."""
    arms = _by_arm(document["points"])
    down = -(-len(arms) // _ACROSS)
    figure = _figure(3.1 * min(len(arms), _ACROSS) + 0.4, 2.6 * down + 0.5)
    plots = figure.subplots(down, min(len(arms), _ACROSS), sharex=True, sharey=True, squeeze=False).flatten()
    for plot, (style, (arm, points)) in zip(plots, enumerate(arms.items()), strict=False):
        colour = _INK if arm == BASE else _COLOURS[style % len(_COLOURS)]
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
        plot.tick_params(labelbottom=True)  # the panel below may be an empty one
        _dress(plot, "draws n", arm)
        if any(point["alpha"] is not None for point in points):
            plot.legend(frameon=False, fontsize=8, loc="lower right")
    for plot in plots[len(arms) :]:
        plot.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK)
    return figure


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
    figure.savefig(temporary, dpi=160, format="png")
    temporary.replace(path)
    return path
