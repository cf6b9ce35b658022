"""Which runs a page compares with which, and what the metrics are about; the differences are those of `dqo compare`."""

from collections.abc import Mapping, Sequence

from dqo.errors import DQOError
from dqo.evaluation.definitions import HEALTH, MEANING, QUALITY, WORDS, definition_of
from dqo.evaluation.differences import MOST_RUNS, Difference, Values, compared_pairs, paired_differences


def all_differences(runs: Sequence[Values], metrics: Sequence[str]) -> list[list[dict[str, Difference]]]:
    """Compare runs prompt by prompt.

    Args:
        runs: For each run, prompt id -> metric -> value; None where a prompt has none.
        metrics: Which to compare.

    Returns:
        found[a][b]: metric -> difference b - a, as `paired_differences` has it; empty for pairs that are not among
        `compared_pairs`.
    """
    places = compared_pairs(len(runs))
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
    whole = 2 < len(differences) <= MOST_RUNS
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
