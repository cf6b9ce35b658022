"""Is a difference between two runs more than the luck of which prompts were asked: many metrics of any two runs.

The bootstrap and Holm's correction are those of `dqo compare`; here the family is all metrics of one pair of runs.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from dqo.errors import DQOError
from dqo.evaluation.bootstrap import holm
from dqo.evaluation.bootstrap import paired_differences as bootstrapped
from dqo.evaluation.definitions import HEALTH, MEANING, QUALITY, WORDS, definition_of

_RUNS = 8  # of more runs not every pair is compared: the tables would be most of the page
Values = Mapping[str, Mapping[str, float | None]]  # prompt id -> metric -> value


class Difference(NamedTuple):
    """Mean difference over shared prompts, its 95 % interval, and the two-sided bootstrap p, raw and by Holm."""

    mean: float
    low: float
    high: float
    p: float
    holm: float
    prompts: int

    @property
    def verdict(self) -> str:
        """Is "up" or "down" where the interval excludes 0, otherwise "same", which is "no difference shown"."""
        return "same" if self.low <= 0 <= self.high else "up" if self.mean > 0 else "down"


def paired_differences(runs: Sequence[Values], metrics: Sequence[str]) -> list[list[dict[str, Difference]]]:
    """Compare any two runs prompt by prompt; all pairs see the same draws.

    Args:
        runs: For each run, prompt id -> metric -> value; None where a prompt has none.
        metrics: Which to compare; Holm's correction is over all of them, for each pair of runs by itself.

    Returns:
        found[a][b]: metric -> difference b - a; metrics without a value for at least two shared prompts are left out.
        Of more than eight runs only the pairs with the first are compared, the other entries are empty.
    """
    compared = [(a, b) for a, b in combinations(range(len(runs)), 2) if a == 0 or len(runs) <= _RUNS]
    columns: dict[tuple[str, ...], dict[tuple[int, int, str], list[float]]] = {}  # prompts -> what has values for them
    for a, b in compared:
        for metric in metrics:
            values = {key: (row.get(metric), runs[b].get(key, {}).get(metric)) for key, row in runs[a].items()}
            known = {key: pair[1] - pair[0] for key, pair in values.items() if None not in pair}
            if len(known) >= 2:
                columns.setdefault(tuple(known), {})[a, b, metric] = list(known.values())
    raw = {}
    for keys, some in columns.items():
        raw |= {place: (row, len(keys)) for place, row in zip(some, bootstrapped(list(some.values())), strict=True)}
    found: list[list[dict[str, Difference]]] = [[{} for _ in runs] for _ in runs]
    for a, b in compared:
        kept = [metric for metric in metrics if (a, b, metric) in raw]
        for metric, adjusted in zip(kept, holm([raw[a, b, metric][0].p for metric in kept]), strict=True):
            row, prompts = raw[a, b, metric]
            found[a][b][metric] = Difference(*row, adjusted, prompts)
            found[b][a][metric] = Difference(-row.mean, -row.high, -row.low, row.p, adjusted, prompts)
    return found


def bases(differences: Sequence[Sequence[Mapping[str, Difference]]]) -> dict[int, list[int]]:
    """What the page shows of all pairs: every run in turn as the one that the others are compared with.

    Args:
        differences: As `paired_differences` returns them.

    Returns:
        Run -> the runs compared with it; the first run alone where there are two, or too many.
    """
    found = {a: [b for b, pair in enumerate(row) if pair] for a, row in enumerate(differences) if any(row)}
    whole = 2 < len(differences) <= _RUNS
    return found if whole else dict(list(found.items())[:1])


def by_kind(metrics: Sequence[str]) -> dict[str, list[str]]:
    """Metrics sorted by what they are about.

    Args:
        metrics: Names as in metrics.json.

    Returns:
        "quality", "diversity of meaning", "diversity of words", "health" or "other" -> names in the order given.
    """
    kinds: dict[str, list[str]] = {kind: [] for kind in (QUALITY, MEANING, WORDS, HEALTH, "other")}
    for metric in metrics:
        try:
            kinds[definition_of(metric).kind].append(metric)
        except DQOError:
            kinds["other"].append(metric)
    return {kind: names for kind, names in kinds.items() if names}
