"""Differences between evaluated runs, prompt by prompt, corrected for there being many metrics.

`dqo compare` and the report both take them here, so that one pair of folders has one p-value.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from dqo.evaluation.bootstrap import bootstrap_differences, holm
from dqo.evaluation.metrics import summarize

if TYPE_CHECKING:
    from rich.table import Table

Values = Mapping[str, Mapping[str, float | None]]  # prompt id -> metric -> value
NOTE = (
    "Over the prompts both answered: intervals by a paired bootstrap, p-values by flipping the signs of the prompts' "
    "differences; p is Holm's over all metrics of all pairs that are compared. Choose the metric and the pair that "
    "decide before looking. The spread between training seeds is in none of these numbers."
)
FEW_PROMPTS = 20
FEW = (
    f"below {FEW_PROMPTS} the intervals are too narrow, and no p-value can reach 0.05 below 6, nor below 11 once it is "
    "corrected for 40 metrics"
)
SHOWN_BELOW = 0.05  # the corrected p of a difference that counts as shown, wherever one is
MOST_RUNS = 8  # of more runs not every pair is compared: the corrections would hide all differences
_PAIRS_SHOWN = 3
_FLIPS_A_TEST = 40  # so that the least p of sign flips stays below 0.05 after the correction


class Difference(NamedTuple):
    """Mean difference over shared prompts, its 95 % bootstrap interval, the two-sided sign-flip p, raw and by Holm."""

    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    prompts: int

    @property
    def verdict(self) -> str:
        """Is "up" or "down" where the corrected p is below 0.05, otherwise "same": no difference shown."""
        return "same" if self.p_holm >= SHOWN_BELOW else "up" if self.mean > 0 else "down"

    def mirrored(self) -> "Difference":
        """The same seen from the other run."""
        return self._replace(mean=-self.mean, low=-self.high, high=-self.low)


def paired_differences(
    runs: Sequence[Values], pairs: Sequence[tuple[int, int]], metrics: Sequence[str]
) -> dict[tuple[int, int], dict[str, Difference]]:
    """Compare runs prompt by prompt; all pairs and metrics see the same draws of prompts and signs.

    Args:
        runs: For each run, prompt id -> metric -> value; None where a prompt has none.
        pairs: Places (a, b) of the runs to compare.
        metrics: Which to compare; Holm's correction is over all of them and all pairs.

    Returns:
        (a, b) -> metric -> difference b - a over the prompts with a value in both; metrics with fewer than two such
        prompts are left out.
    """
    columns: dict[tuple[str, ...], dict[tuple[int, int, str], list[float]]] = {}  # prompts -> what has values for them
    for a, b in pairs:
        for metric in metrics:
            values = {key: (row.get(metric), runs[b].get(key, {}).get(metric)) for key, row in runs[a].items()}
            known = {key: pair[1] - pair[0] for key, pair in values.items() if None not in pair}
            if len(known) >= 2:
                columns.setdefault(tuple(known), {})[a, b, metric] = list(known.values())
    raw = {}
    flips = _FLIPS_A_TEST * sum(map(len, columns.values()))
    for keys, some in columns.items():
        rows = bootstrap_differences(list(some.values()), flips=max(5000, flips))
        raw |= {place: (*row, len(keys)) for place, row in zip(some, rows, strict=True)}
    corrected = dict(zip(raw, holm([p for *_, p, _ in raw.values()]), strict=True))
    found: dict[tuple[int, int], dict[str, Difference]] = {}
    for a, b in pairs:
        places = [(a, b, metric) for metric in metrics if (a, b, metric) in raw]
        found[a, b] = {place[2]: Difference(*raw[place][:-1], corrected[place], raw[place][-1]) for place in places}
    return found


def compared_pairs(runs: int) -> list[tuple[int, int]]:
    """Which runs are compared, whatever their numbers say: any two of up to eight, otherwise each with the first.

    Args:
        runs: How many there are.

    Returns:
        Places (a, b), a before b.
    """
    return [(a, b) for a, b in combinations(range(runs), 2) if a == 0 or runs <= MOST_RUNS]


def on_common_prompts(
    runs: Sequence[Values], summaries: Sequence[Mapping[str, dict[str, float] | None]]
) -> dict[str, list[dict[str, float] | None]]:
    """Means of runs over the prompts that all of them have a value for, metric by metric.

    Whichever run is ahead in these is not ahead for having been asked easier prompts.

    Args:
        runs: For each run, prompt id -> metric -> value; None where a prompt has none.
        summaries: For each run, metric -> mean and interval over all of its prompts, or None; kept as they are where
            those prompts are the common ones.

    Returns:
        Metric -> for each run {"mean", "low", "high", "prompts"}, None for a run without the metric. Left out are
        metrics that no run has, and those of several runs without a common prompt.
    """
    found: dict[str, list[dict[str, float] | None]] = {}
    again: list[dict[str, list[float | None]]] = [{} for _ in runs]
    for metric in dict.fromkeys(name for summary in summaries for name in summary):
        having = [place for place, summary in enumerate(summaries) if summary.get(metric)]
        known = {place: {key for key, row in runs[place].items() if row.get(metric) is not None} for place in having}
        common = set.intersection(*known.values()) if known else set()
        if not common and len(having) != 1:
            continue
        found[metric] = [None] * len(runs)
        for place in having:
            found[metric][place] = {**summaries[place][metric], "prompts": len(common)}
            if known[place] != common:
                again[place][metric] = [row.get(metric) if key in common else None for key, row in runs[place].items()]
    for place, columns in enumerate(again):
        for metric, interval in summarize(columns, seed=0).items():
            found[metric][place] |= interval
    return found


def pairwise(runs: Mapping[str, Values], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Differences b - a of the pairs of runs that are compared, as plain data.

    Args:
        runs: Run name -> its values for the prompts that are to count, two runs or more.
        metrics: Metrics to compare.

    Returns:
        [{"a", "b", "metrics": {metric: {"mean", "low", "high", "p", "p_holm", "prompts"} or None}}], pairs in the order
        of the runs; None where fewer than two prompts have the metric in both.
    """
    names, places = list(runs), compared_pairs(len(runs))
    found = paired_differences(list(runs.values()), places, metrics)
    return [
        {
            "a": names[a],
            "b": names[b],
            "metrics": {m: found[a, b][m]._asdict() if m in found[a, b] else None for m in metrics},
        }
        for a, b in places
    ]


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
    for metric in pairs[0]["metrics"]:
        table.add_row(escape(metric), *(escape(_cell(pair["metrics"][metric])) for pair in pairs))
    return table


def _cell(difference: dict[str, float] | None) -> str:
    if difference is None:
        return "–"
    star = "*" if difference["p_holm"] < SHOWN_BELOW else " "
    interval = f"[{difference['low']:+.3f}, {difference['high']:+.3f}]"
    return f"{difference['mean']:+.3f} {interval} p {difference['p_holm']:.4f}{star}"
