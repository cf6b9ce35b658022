"""Uncertainty of a mean over prompts: intervals by resampling prompts, p-values by flipping signs.

Prompts are the unit: the samples of one prompt are not independent of each other, so an interval over all rows would
be too narrow. What the numbers do not hold is the spread over training seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dqo.errors import DataError, NonFiniteError

_DRAWS_AT_ONCE = 1_000_000  # 16 MB of indices and values


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def bootstrap_intervals(
    columns: Sequence[Sequence[float]], *, level: float = 0.95, resamples: int = 5000, seed: int = 0
) -> list[Interval]:
    """Means over prompts with their percentile bootstrap intervals, for many metrics of the same prompts.

    All columns see the same draws, so that a column's numbers do not depend on which others are given.

    Args:
        columns: For each metric one finite value a prompt, all of one length P.
        level: Coverage aimed at, between 0 and 1. Below some 20 prompts the percentile interval is too narrow.
        resamples: How many times the prompts are drawn with replacement.
        seed: Seed of a generator of its own; the same seed gives the same intervals.

    Returns:
        Mean, low and high of each column; all equal for one prompt, which says nothing about the spread.

    Raises:
        DataError: If a column has no value or another length than the first, or the level is not between 0 and 1.
        NonFiniteError: If a value is NaN or infinite; names its place.
    """
    table = _table(columns)  # (P, M)
    if not 0.0 < level < 1.0:
        raise DataError(f"The confidence `level` must lie between 0 and 1, got {level}; use 0.95.")
    lows, highs = np.quantile(_means(table, resamples, seed), [(1 - level) / 2, (1 + level) / 2], axis=0)  # (M,) each
    # The mean of equal values, such as 0.1, may come out of two sums that differ in the last digit.
    centres = table.mean(axis=0)  # (M,)
    rows = zip(centres, np.minimum(lows, centres), np.maximum(highs, centres), strict=True)
    return [Interval(*map(float, row)) for row in rows]


class Shift(NamedTuple):
    """A mean difference, its confidence interval, and the two-sided p-value of no difference."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap_differences(
    columns: Sequence[Sequence[float]],
    *,
    level: float = 0.95,
    resamples: int = 5000,
    flips: int = 5000,
    seed: int = 0,
) -> list[Shift]:
    """Mean differences of two runs over the prompts they share, with intervals and p-values, for many metrics.

    The intervals are the bootstrap's, narrower than two side by side. The p-value is that of sign flips: were the runs
    alike, each difference could as well be its negative, so it is the share of sign vectors whose total is as far from
    0 as the one seen. Unlike one read off the bootstrap it holds for few prompts too: of P it is 2/2^P at least. All
    columns see the same draws and signs.

    Args:
        columns: For each metric one finite difference a prompt, all of one length P.
        level: Coverage aimed at.
        resamples: How many times the prompts are drawn with replacement.
        flips: How many sign vectors are drawn; where there are no more than that, each is taken once, otherwise the one
            seen counts as one more.
        seed: Seed of generators of its own.

    Returns:
        One entry a column.

    Raises:
        DataError: If a column has another length than the first, or none at all.
        NonFiniteError: If a value is NaN or infinite; names its place.
    """
    if not columns:
        return []
    table = _table(columns)  # (P, M)
    means = _means(table, resamples, seed)  # (R, M)
    lows, highs = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)  # (M,) each
    ps = _sign_flips(table, flips, seed)  # (M,)
    return [Shift(*map(float, row)) for row in zip(table.mean(axis=0), lows, highs, ps, strict=True)]


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for being several: below 0.05, at most 1 in 20 such families holds a false alarm.

    Args:
        ps: The p-values of one family of tests.

    Returns:
        Corrected p-values in the same order, none below its own or above 1.

    Source: Holm 1979.
    """
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = largest
    return corrected


def _means(table: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of every column over prompts drawn with replacement, the same draws for all of them: (R, M)."""
    P = len(table)
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // P)
    means = []
    for first in range(0, resamples, at_once):
        size = min(at_once, resamples - first)
        drawn = rng.integers(P, size=(size, P)) + P * np.arange(size)[:, None]  # (R', P)
        # How often each prompt is drawn, times the table: one matrix product for all metrics.
        often = np.bincount(drawn.ravel(), minlength=size * P).reshape(size, P)  # (R', P)
        means.append(often.astype(np.float64) @ table / P)
    return np.concatenate(means)


def _sign_flips(table: np.ndarray, flips: int, seed: int) -> np.ndarray:
    """Two-sided p-values of every column of (P, M), the same signs for all of them: (M,)."""
    noise = 1e-12 * np.abs(table).sum(axis=0)  # (M,) equal totals may differ in their last digits
    seen = np.abs(table.sum(axis=0)) - noise  # (M,)
    as_far = sum((np.abs(signs @ table) >= seen).sum(axis=0) for signs in _signs(len(table), flips, seed))  # (M,)
    every = 2 ** len(table)
    return as_far / every if every <= flips else (as_far + 1) / (flips + 1)


def _signs(P: int, flips: int, seed: int) -> Iterator[np.ndarray]:
    """Sign vectors as rows (R', P): each of the 2^P once where they are no more than `flips`, else so many drawn."""
    every = 2**P
    if every <= flips:
        yield np.array(list(product((-1.0, 1.0), repeat=P)))
        return
    rng = np.random.default_rng([seed, 1])  # other draws than those of the prompts
    at_once = max(1, _DRAWS_AT_ONCE // P)
    for first in range(0, flips, at_once):
        yield rng.choice([-1.0, 1.0], size=(min(at_once, flips - first), P))


def _table(columns: Sequence[Sequence[float]]) -> np.ndarray:
    if len({len(column) for column in columns}) > 1:
        raise DataError(f"Columns must have one value a prompt, got lengths {sorted({len(c) for c in columns})}.")
    return np.stack([_finite(column) for column in columns], axis=1)


def _finite(values: Sequence[float]) -> np.ndarray:
    sample = np.asarray(values, dtype=np.float64)  # (P,)
    if not len(sample):
        raise DataError("A bootstrap over prompts needs at least one value, got none.")
    bad = ~np.isfinite(sample)  # (P,)
    if bad.any():
        place = int(bad.nonzero()[0][0])
        raise NonFiniteError(f"A bootstrap over prompts needs finite values, got {sample[place]} at place {place}.")
    return sample


PromptValues = dict[str, list[float | None]]


LEVEL = 0.95


def summarize(values: PromptValues, *, seed: int) -> dict[str, dict[str, float] | None]:
    """Mean and 95 % bootstrap interval over prompts of every metric.

    Args:
        values: As `prompt_values` returns them; prompts with None are left out of a metric.
        seed: Of the bootstrap.

    Returns:
        Metric name -> {"mean", "low", "high"}, or None where no prompt has a value.
    """
    by_prompts: dict[tuple[int, ...], dict[str, list[float]]] = {}  # metrics of the same prompts share their draws
    for name, column in values.items():
        places = tuple(place for place, value in enumerate(column) if value is not None)
        by_prompts.setdefault(places, {})[name] = [column[place] for place in places]
    found: dict[str, dict[str, float] | None] = dict.fromkeys(values)
    for places, columns in by_prompts.items():
        if places:
            intervals = bootstrap_intervals(list(columns.values()), level=LEVEL, seed=seed)
            found |= {name: interval._asdict() for name, interval in zip(columns, intervals, strict=True)}
    return found


# Differences between evaluated runs, prompt by prompt, corrected for there being many metrics.
#
# `dqo compare` and the report both take them here, so that one pair of folders has one p-value.

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
