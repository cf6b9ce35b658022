"""What the evaluated runs of a sweep show: a point for every arm and alpha, and how much of the plane each arm covers.

Two kinds of interval, named at every point. Several seeds: Student's t over the seeds' means, because the spread that
matters is that of training. One seed: the evaluation's bootstrap over prompts, which knows nothing of that spread.
Intervals of hypervolumes resample prompts, the same ones for all runs.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from dqo._version import __version__
from dqo.errors import DQOError
from dqo.evaluation.frontier import pareto_front
from dqo.evaluation.metrics import LEVEL
from dqo.evaluation_files import likeness_cautions
from dqo.sweep.collect import Evaluated
from dqo.sweep.front import hypervolume_at_k, normalise
from dqo.sweep.plan import BASE

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
