"""Paired differences between any two evaluated runs, corrected for there being several pairs."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from dqo.evaluation.bootstrap import holm, paired_differences

if TYPE_CHECKING:
    from rich.table import Table

Values = Mapping[str, Mapping[str, float | None]]  # prompt id -> metric -> value
NOTE = (
    "Intervals and p-values are a paired bootstrap over the shared prompts; p is Holm's over the pairs of runs, for "
    "each metric by itself. Choose the metric that decides before looking: over many metrics some differ by chance. "
    "The spread between training seeds is in none of these numbers."
)
_PAIRS_SHOWN = 3


def pairwise(runs: Mapping[str, Values], metrics: Sequence[str], shared: Sequence[str]) -> list[dict[str, Any]]:
    """Differences b - a of every pair of runs.

    Args:
        runs: Run name -> its values, two runs or more.
        metrics: Metrics to compare.
        shared: Ids of the prompts that all runs answered.

    Returns:
        [{"a", "b", "metrics": {metric: {"mean", "low", "high", "p", "p_holm"} or None}}], pairs in the order of the
        runs; None where no prompt has the metric in both.
    """
    pairs = [
        {"a": a, "b": b, "metrics": _differences(runs[a], runs[b], metrics, shared)} for a, b in combinations(runs, 2)
    ]
    for metric in metrics:
        found = [pair["metrics"][metric] for pair in pairs if pair["metrics"][metric]]
        for difference, p in zip(found, holm([difference["p"] for difference in found]), strict=True):
            difference["p_holm"] = p
    return pairs


def difference_table(comparison: dict[str, Any]) -> "Table":
    """A table for the terminal: metrics down, pairs of runs across, each difference with interval and p-value.

    Args:
        comparison: As `dqo.evaluation.compare.compare` returns it.

    Returns:
        A rich table of all pairs where they are few, otherwise of those with the baseline.
    """
    from rich.markup import escape
    from rich.table import Table

    pairs = comparison["pairs"]
    if len(pairs) > _PAIRS_SHOWN:
        pairs = [pair for pair in pairs if pair["a"] == comparison["baseline"]]
    table = Table("difference", caption=f"* p < 0.05. {NOTE}")
    for pair in pairs:
        table.add_column(escape(f"{pair['b']} − {pair['a']}"), justify="right")
    for metric in (metric for metric in pairs[0]["metrics"] if not metric.endswith("@k")):
        table.add_row(escape(metric), *(escape(_cell(pair["metrics"][metric])) for pair in pairs))
    return table


def _cell(difference: dict[str, float] | None) -> str:
    if difference is None:
        return "–"
    star = "*" if difference["p_holm"] < 0.05 else " "
    interval = f"[{difference['low']:+.3f}, {difference['high']:+.3f}]"
    return f"{difference['mean']:+.3f} {interval} p {difference['p_holm']:.4f}{star}"


def _differences(a: Values, b: Values, metrics: Sequence[str], shared: Sequence[str]) -> dict[str, Any]:
    known: dict[tuple[str, ...], list[str]] = {}  # metrics by the prompts that have them in both runs
    for metric in metrics:
        ids = tuple(key for key in shared if None not in (a[key].get(metric), b[key].get(metric)))
        known.setdefault(ids, []).append(metric)
    found: dict[str, Any] = dict.fromkeys(metrics)
    for ids, names in known.items():
        if ids:
            columns = [[b[key][name] - a[key][name] for key in ids] for name in names]
            found |= {name: row._asdict() for name, row in zip(names, paired_differences(columns), strict=True)}
    return found
