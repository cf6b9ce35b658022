"""Which runs a page compares with which, and what the metrics are about; the differences are those of `dqo compare`."""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

from dqo.errors import DQOError
from dqo.evaluation.definitions import HEALTH, MEANING, QUALITY, WORDS, definition_of
from dqo.evaluation.differences import Difference, Values, paired_differences

_RUNS = 8  # of more runs not every pair is compared: the tables would be most of the page


def all_differences(
    runs: Sequence[Values], metrics: Sequence[str], also: Collection[tuple[int, int]] = ()
) -> list[list[dict[str, Difference]]]:
    """Compare any two runs prompt by prompt.

    Args:
        runs: For each run, prompt id -> metric -> value; None where a prompt has none.
        metrics: Which to compare.
        also: Places of two runs that are compared however many there are, because the page says something of them.

    Returns:
        found[a][b]: metric -> difference b - a, as `paired_differences` has it. Of more than eight runs only the pairs
        with the first and those of `also` are compared, the other entries are empty.
    """
    wanted = {tuple(sorted(pair)) for pair in also}
    pairs = combinations(range(len(runs)), 2)
    places = [(a, b) for a, b in pairs if a == 0 or len(runs) <= _RUNS or (a, b) in wanted]
    found: list[list[dict[str, Difference]]] = [[{} for _ in runs] for _ in runs]
    for (a, b), there in paired_differences(runs, places, metrics).items():
        found[a][b] = there
        found[b][a] = {metric: difference.mirrored() for metric, difference in there.items()}
    return found


def bases(differences: Sequence[Sequence[Mapping[str, Difference]]]) -> dict[int, list[int]]:
    """What the page shows of all pairs: every run in turn as the one that the others are compared with.

    Args:
        differences: As `all_differences` returns them.

    Returns:
        Run -> the runs compared with it; the first run alone where there are two, or too many.
    """
    found = {a: [b for b, pair in enumerate(row) if pair] for a, row in enumerate(differences) if any(row)}
    whole = 2 < len(differences) <= _RUNS
    return found if whole else {a: others for a, others in found.items() if a == 0}


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
