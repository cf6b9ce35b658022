"""Uncertainty of means over prompts and training seeds, and the runs that no other beats.

`dqo compare`, the sweep and the report all take their numbers here, so that one pair of folders has one p-value.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from statistics import NormalDist, fmean
from typing import NamedTuple

import numpy as np

from dqo.errors import DataError, DQOError

PromptValues = dict[str, list[float | None]]  # metric -> a value per prompt
Points = Sequence[Sequence[float]]  # a point per run, every coordinate the larger the better
Values = Mapping[str, Mapping[str, float | None]]  # prompt id -> metric -> value
Seeds = Sequence[Values]  # the runs that are compared as one, a run per training seed
Means = dict[str, list[dict[str, float] | None]]  # metric -> each arm's mean and interval
Summary = Mapping[str, Mapping[str, float] | None]  # metric -> mean and interval over all prompts of a run

LEVEL = 0.95
FEW_PROMPTS = 20
FEW = (
    f"below {FEW_PROMPTS} the intervals are too narrow, and no p-value can reach 0.05 below 6, nor below 8 once it is "
    "corrected for 6 metrics"
)
NOTE = (
    "Over the prompts both answered. Between two runs: intervals by a paired bootstrap, p-values by flipping the signs "
    "of the prompts' differences; the spread between training seeds is in neither. Where an arm has several seeds, it "
    "is: both are Clark's min F', over seeds and prompts, and the p-value is never below that of the prompts alone. p "
    "is Holm's: of a primary metric over the primary ones of all pairs, of another over all metrics of all pairs."
)
# The corrected p of a difference that counts as shown, wherever one is.
SHOWN_BELOW = 0.05
# Of more runs not every pair is compared: the corrections would hide all differences.
MOST_RUNS = 8
_FLIPS = 5000
# So that the least p of sign flips stays below 0.05 after the correction.
_FLIPS_PER_TEST = 40
_DRAWS_AT_ONCE = 1_000_000  # 16 MB of indices and values


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """Mean difference over shared prompts, its 95 % bootstrap interval, the sign-flip p, raw and by Holm."""

    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    prompts: int

    @property
    def verdict(self) -> str:
        """Is "up" or "down" where the corrected p is below 0.05, otherwise "same"."""
        return "same" if self.p_holm >= SHOWN_BELOW else "up" if self.mean > 0 else "down"

    def mirrored(self) -> "Difference":
        """The same seen from the other run."""
        return self._replace(mean=-self.mean, low=-self.high, high=-self.low)


def bootstrap_intervals(
    columns: Sequence[Sequence[float]], *, level: float = LEVEL, resamples: int = 5000, seed: int = 0
) -> list[Interval]:
    """Means with percentile bootstrap intervals of M columns of P finite values, one per prompt.

    The same seed gives the same intervals; of one prompt they have no width. DataError names no value, or one that is
    not finite.
    """
    # All columns see the same draws, so that a column's numbers do not depend on which others are given.
    # Below some 20 prompts the percentile interval is too narrow.
    table = _table(columns)  # (P, M)
    lows, highs = np.quantile(_means(table, resamples, seed), [(1 - level) / 2, (1 + level) / 2], axis=0)  # (M,) each
    # The mean of equal values, such as 0.1, may come out of two sums that differ in the last digit.
    centres = table.mean(axis=0)  # (M,)
    rows = zip(centres, np.minimum(lows, centres), np.maximum(highs, centres), strict=True)
    return [Interval(*map(float, row)) for row in rows]


def wilson_interval(count: int, n: int) -> Interval:
    """Estimates a share, `count` of n draws, with Wilson's interval, which has a width at 0 and 1 too."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    centre, half, share = count + z**2 / 2, z * math.sqrt(count * (n - count) / n + z**2 / 4), count / n
    # At 0 and 1 rounding would put the end on the other side of the share.
    return Interval(share, min(share, (centre - half) / (n + z**2)), max(share, (centre + half) / (n + z**2)))


def bootstrap_differences(
    columns: Sequence[Sequence[float]], *, resamples: int = 5000, flips: int = _FLIPS
) -> list[Difference]:
    """Mean differences of M columns of P prompts, with bootstrap intervals and the p-values of sign flips."""
    if not columns:
        return []
    # Were the runs alike, each prompt's difference could as well be its negative: p is the share of sign vectors whose
    # total is as far from 0 as the one seen. It holds for few prompts too: of P it is 2/2^P at least.
    ps = _sign_flips(_table(columns), flips)  # (M,)
    intervals = bootstrap_intervals(columns, resamples=resamples)
    # Of one family of tests p_holm is corrected by whoever knows the family.
    return [Difference(*row, float(p), float(p), len(columns[0])) for row, p in zip(intervals, ps, strict=True)]


def holm(ps: Sequence[float]) -> list[float]:
    """Corrects the p-values of one family of tests by Holm (1979), in the same order."""
    # Below 0.05, at most 1 in 20 such families holds a false alarm.
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = largest
    return corrected


def _table(columns: Sequence[Sequence[float]]) -> np.ndarray:
    table = np.array(columns, dtype=np.float64).T  # (P, M)
    if not table.size or not np.isfinite(table).all():
        raise DataError("A bootstrap over prompts needs one finite value or more per metric; check the metrics.")
    return table


def _means(table: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of every column over prompts drawn with replacement, the same draws for all of them: (R, M)."""
    P = len(table)
    rng = np.random.default_rng(seed)
    means = []
    for size in _batches(resamples, P):
        drawn = rng.integers(P, size=(size, P)) + P * np.arange(size)[:, None]  # (R', P)
        # How often each prompt is drawn, times the table: one matrix product for all metrics.
        often = np.bincount(drawn.ravel(), minlength=size * P).reshape(size, P)  # (R', P)
        means.append(often.astype(np.float64) @ table / P)
    return np.concatenate(means)


def _sign_flips(table: np.ndarray, flips: int) -> np.ndarray:
    """Two-sided p-values of every column of (P, M), the same signs for all of them: (M,)."""
    P = len(table)
    # Equal totals may differ in their last digits.
    noise = 1e-12 * np.abs(table).sum(axis=0)  # (M,)
    seen = np.abs(table.sum(axis=0)) - noise  # (M,)
    if flips >= 2**P:
        signs = np.array(list(product((-1.0, 1.0), repeat=P)))  # (2^P, P)
        return (np.abs(signs @ table) >= seen).mean(axis=0)
    # Other draws than those of the prompts.
    rng, as_far = np.random.default_rng([0, 1]), np.ones(table.shape[1])
    for size in _batches(flips, P):
        as_far += (np.abs(rng.choice([-1.0, 1.0], size=(size, P)) @ table) >= seen).sum(axis=0)
    return as_far / (flips + 1)


def _batches(draws: int, P: int) -> list[int]:
    """Sizes of the parts in which so many draws of P prompts fit into memory."""
    most = max(1, _DRAWS_AT_ONCE // P)
    return [min(most, draws - first) for first in range(0, draws, most)]


def summarize(values: PromptValues, *, seed: int) -> dict[str, dict[str, float] | None]:
    """Mean and 95 % bootstrap interval of every metric over the prompts that have a value; None where none has."""
    # Metrics of the same prompts share their draws.
    by_prompts: dict[tuple[int, ...], list[str]] = {}
    for name, column in values.items():
        by_prompts.setdefault(tuple(p for p, value in enumerate(column) if value is not None), []).append(name)
    found: dict[str, dict[str, float] | None] = dict.fromkeys(values)
    for places, names in by_prompts.items():
        if places:
            intervals = bootstrap_intervals([[values[name][p] for p in places] for name in names], seed=seed)
            found |= {name: interval._asdict() for name, interval in zip(names, intervals, strict=True)}
    return found


def paired_differences(
    arms: Sequence[Seeds], metrics: Sequence[str], primary: Sequence[str] = ()
) -> dict[tuple[int, int], dict[str, Difference]]:
    """Compares arms prompt by prompt: places (a, b) -> metric -> difference b - a.

    Up to eight arms are compared with each other, more with the first one only. Holm's correction is over the primary
    metrics of all pairs, for the other metrics over all metrics of all pairs. A metric with fewer than two prompts that
    have a value in every run of both arms is left out.
    """
    pairs = [(a, b) for a, b in combinations(range(len(arms)), 2) if a == 0 or len(arms) <= MOST_RUNS]
    rows = [{metric: _by_prompt(arm, metric) for metric in metrics} for arm in arms]
    # Prompts -> pairs and metrics that have values for them -> the differences.
    columns: dict[tuple[str, ...], dict[tuple[int, int, str], list[float]]] = {}
    for (a, b), metric in product(pairs, metrics):
        before, after = rows[a][metric], rows[b][metric]
        known = {key: fmean(after[key]) - fmean(before[key]) for key in before if key in after}
        if len(known) >= 2:
            columns.setdefault(tuple(known), {})[a, b, metric] = list(known.values())
    flips = max(_FLIPS, _FLIPS_PER_TEST * sum(map(len, columns.values())))
    tested: dict[tuple[int, int, str], Difference] = {}
    for keys, some in columns.items():
        alone = bootstrap_differences(list(some.values()), flips=flips)
        for (a, b, metric), difference in zip(some, alone, strict=True):
            sides = [[rows[arm][metric][key] for key in keys] for arm in (a, b)]
            tested[a, b, metric] = _over_seeds(difference, some[a, b, metric], sides)
    corrected = _corrected({test: difference.p for test, difference in tested.items()}, primary)
    found: dict[tuple[int, int], dict[str, Difference]] = {pair: {} for pair in pairs}
    for (a, b, metric), difference in tested.items():
        found[a, b][metric] = difference._replace(p_holm=corrected[a, b, metric])
    return found


def _corrected(ps: Mapping[tuple[int, int, str], float], primary: Sequence[str]) -> dict[tuple[int, int, str], float]:
    """Holm over all tests, but of primary metrics over theirs alone: they were declared before anyone looked."""
    declared = [test for test in ps if test[-1] in primary]
    corrected = dict(zip(ps, holm(list(ps.values())), strict=True))
    return corrected | dict(zip(declared, holm([ps[test] for test in declared]), strict=True))


def _by_prompt(arm: Seeds, metric: str) -> dict[str, list[float]]:
    """Prompt -> its value in every run of an arm, for the prompts that have one in all of them."""
    rows = {key: [run.get(key, {}).get(metric) for run in arm] for key in arm[0]}
    return {key: row for key, row in rows.items() if None not in row}


def _over_seeds(found: Difference, column: Sequence[float], sides: Sequence[Sequence[Sequence[float]]]) -> Difference:
    """The difference with the spread between seeds, where one of its two sides, (P, seeds) values each, has several."""
    spreads = [spread for side in sides for spread in _spread_of_seeds(side)]
    if not any(variance for variance, _ in spreads):
        return found
    low, high, p = _min_f(found.mean, [*spreads, _spread(column)])
    # Of few prompts that all agree the normal theory would be too sure.
    return found._replace(low=low, high=high, p=max(p, found.p), p_holm=max(p, found.p))


def _spread_of_seeds(side: Sequence[Sequence[float]]) -> list[tuple[float, int]]:
    """The spread of the mean over seeds; nothing of one seed."""
    means = np.mean(np.array(side, dtype=np.float64), axis=0)  # (seeds,)
    return [_spread(means)] if len(means) > 1 else []


def _spread(values: Sequence[float]) -> tuple[float, int]:
    """Variance of the mean of independent values, with its degrees of freedom."""
    return float(np.var(values, ddof=1)) / len(values), len(values) - 1


def _min_f(mean: float, parts: Sequence[tuple[float, int]]) -> tuple[float, float, float]:
    """Interval and p-value of a mean whose variance is a sum of parts, by Clark (1973) and Satterthwaite."""
    from scipy.stats import t

    # Seeds and prompts are two samples: either spread alone would take the other for a constant.
    total = sum(variance for variance, _ in parts)
    freedom = total**2 / sum(variance**2 / own for variance, own in parts)
    reach, far = float(t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(total), abs(mean) / math.sqrt(total)
    return mean - reach, mean + reach, 2 * float(t.sf(far, freedom))


def on_common_prompts(arms: Sequence[Seeds], summaries: Sequence[Summary]) -> Means:
    """Means over the prompts that all arms have a value for: metric -> mean with interval, or None, of each arm.

    `summaries` are the means over all prompts of each arm; those of an arm of several runs are only asked for their
    names. A metric without a common prompt is left out.
    """
    # Whichever arm is ahead in these is not ahead for having been asked easier prompts.
    found: Means = {}
    again: list[dict[str, list[float | None]]] = [{} for _ in arms]
    for metric in dict.fromkeys(name for summary in summaries for name in summary):
        having = [place for place, summary in enumerate(summaries) if summary.get(metric)]
        known = {place: _by_prompt(arms[place], metric) for place in having}
        common = set.intersection(*map(set, known.values())) if known else set()
        if not common and len(having) != 1:
            continue
        found[metric] = [None] * len(arms)
        for place in having:
            if len(arms[place]) > 1:
                found[metric][place] = _mean_over_seeds([known[place][key] for key in known[place] if key in common])
                continue
            # A summary stays as it is where its prompts are the common ones.
            found[metric][place] = {**summaries[place][metric], "prompts": len(common)}
            if known[place].keys() != common:
                again[place][metric] = [
                    row.get(metric) if key in common else None for key, row in arms[place][0].items()
                ]
    for place, columns in enumerate(again):
        for metric, interval in summarize(columns, seed=0).items():
            found[metric][place] |= interval
    return found


def _mean_over_seeds(rows: Sequence[Sequence[float]]) -> dict[str, float] | None:
    """Mean and interval of an arm, of (P, seeds) values: both the seeds and the prompts might have been others."""
    if not rows:
        return None
    column = [fmean(row) for row in rows]
    interval, spreads = bootstrap_intervals([column])[0], _spread_of_seeds(rows)
    if len(rows) > 1 and any(variance for variance, _ in spreads):
        low, high, _ = _min_f(interval.mean, [*spreads, _spread(column)])
        interval = interval._replace(low=low, high=high)
    return {**interval._asdict(), "prompts": len(rows)}


def pareto_front(points: Points) -> list[int]:
    """Places of the points that no other point beats: none is as good in everything and better in something.

    Args:
        points: One point per run, every coordinate the larger the better.

    Returns:
        Places in ascending order; equal points are all kept.

    Raises:
        DQOError: If the points differ in length or one is not finite.
    """
    import moocore

    if not points:
        return []
    return np.flatnonzero(moocore.is_nondominated(_rows(points), maximise=True, keep_weakly=True)).tolist()


def hypervolume(points: Points, reference: Sequence[float]) -> float:
    """Area (volume) between a reference point and the front of the points: what a set of runs covers together.

    Args:
        points: One point per run, every coordinate the larger the better.
        reference: The worst corner; points that do not beat it in every coordinate add nothing.

    Returns:
        A number of 0 or more, in the product of the coordinates' units: fix scale and reference before the runs.

    Raises:
        DQOError: If the points and the reference differ in length or a coordinate is not finite.
    """
    import moocore

    rows = _rows([*points, reference])  # (K + 1, D)
    return float(moocore.hypervolume(rows[:-1], ref=rows[-1], maximise=True))


def _rows(points: Points) -> np.ndarray:
    for place, point in enumerate(points):
        if len(point) != len(points[0]) or not all(map(math.isfinite, point)):
            raise DQOError(f"Points must have {len(points[0])} finite coordinates each, got {point} at place {place}.")
    return np.array(points, dtype=np.float64)  # (K, D)
