"""The first thing on the page: which run is best at what, and what each gained and lost."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dqo.evaluation.definitions import HEALTH, MEANING, QUALITY, WORDS, explain
from dqo.evaluation.statistics import (
    FEW,
    FEW_PROMPTS,
    MOST_RUNS,
    Difference,
    Values,
    on_common_prompts,
    paired_differences,
)
from dqo.files.evaluation import likeness_cautions
from dqo.report.sources import RunFiles

Shared = Mapping[str, Sequence[dict[str, float] | None]]  # metric -> each run's mean over the prompts of all
# The judge of diversity, best first: one the policy was not trained against, if any.
DIVERSITY = ("heldout/vendi_1", "vendi_1", "heldout/cosine_distance", "cosine_distance", "distinct_2")
_DECIDE = (("quality",), DIVERSITY, ("heldout/good/vendi_1", "good/vendi_1"))
_NO_FACTS = ("metrics", "corpus", "notes")


class Fact(NamedTuple):
    """A metric of a run and of the baseline, on the prompts that both have a value for."""

    metric: str
    before: float
    after: float
    difference: Difference

    @property
    def share(self) -> float | None:
        """What is left of the baseline's diversity; None for what is no diversity."""
        return self.after / self.before if self.metric != "quality" and self.before > 0 else None


class Leader(NamedTuple):
    """The run with the highest mean in a metric on the prompts of all, and its difference to each run compared."""

    metric: str
    place: int
    value: float
    ahead: dict[int, Difference]
    unproven: list[int]


def headline(runs: Sequence[RunFiles]) -> list[str]:
    """Chooses the metrics that decide: quality, diversity, and diversity among the good answers."""
    tables = [run.document["metrics"] for run in runs if run.document]
    found = (next((n for n in names if tables and all(t.get(n) for t in tables)), None) for names in _DECIDE)
    return [name for name in found if name]


def shared_means(runs: Sequence[RunFiles]) -> Shared:
    """Averages every metric of every run over the prompts that all runs with the metric have a value for."""
    return on_common_prompts([run.values for run in runs], [run.document.get("metrics", {}) for run in runs])


def leaders(
    runs: Sequence[RunFiles], shared: Shared, differences: Sequence[Sequence[Mapping[str, Difference]]]
) -> list[Leader]:
    """Finds the best run in each of the metrics that decide, and those that it is shown to be ahead of."""
    found = []
    for metric in headline(runs):
        means = {place: value["mean"] for place, value in enumerate(shared.get(metric, ())) if value}
        if len(means) > 1:
            best = max(means, key=means.__getitem__)
            tested = {place: differences[place][best].get(metric) for place in means if place != best}
            ahead = {place: d for place, d in tested.items() if d and d.verdict == "up"}
            # Of many runs some pairs are not compared at all; of few, a pair may share too few prompts.
            unproven = [p for p, d in tested.items() if p not in ahead and (d or len(runs) <= MOST_RUNS)]
            found.append(Leader(metric, best, means[best], ahead, unproven))
    return found


def against_baseline(runs: Sequence[RunFiles], index: int, differences: Mapping[str, Difference]) -> list[Fact]:
    """Compares the metrics that decide with the baseline's, on the prompts that both have a value for."""
    facts = []
    for metric in headline(runs):
        if metric in differences:
            first, other = runs[0].values, runs[index].values
            rows = [(row.get(metric), other.get(key, {}).get(metric)) for key, row in first.items()]
            both = [pair for pair in rows if None not in pair]
            before, after = (sum(column) / len(both) for column in zip(*both, strict=True))
            facts.append(Fact(metric, before, after, differences[metric]))
    return facts


def cautions(runs: Sequence[RunFiles]) -> list[str]:
    """Says why some runs of this page should not be compared, or not yet."""
    evaluated = [run for run in runs if run.document]
    found = likeness_cautions({run.name: run.document for run in evaluated}) + _unlike_prompts(evaluated)
    found += [f"{run.name}: {note}" for run in evaluated for note in run.document.get("notes", [])]
    counts = {run.name: run.document["n_prompts"] for run in evaluated}
    found += [f"{name}: {count} prompts; {FEW}." for name, count in counts.items() if count < FEW_PROMPTS]
    found += [f"{run.name} is still training: {len(run.steps)} steps logged." for run in runs if not run.finished]
    return found


def _unlike_prompts(runs: Sequence[RunFiles]) -> list[str]:
    unscored = [run.name for run in runs if not run.values]
    if len(runs) > 1 and unscored:
        return [f"{', '.join(unscored)}: no prompt_metrics.jsonl, so that no run is said to be ahead of the others."]
    asked = [run.values.keys() for run in runs]
    if all(keys == asked[0] for keys in asked):
        return []
    counts = ", ".join(f"{run.name}: {len(run.values)}" for run in runs)
    common = len(set.intersection(*map(set, asked)))
    if not common:
        return [
            f"No prompt was answered by all runs ({counts}): no run is ahead, and the points are over each run's own."
        ]
    few = f"; {FEW}" if common < FEW_PROMPTS else ""
    return [
        f"The runs did not answer the same prompts ({counts}): the table of all metrics is over each run's own, "
        f"differences are over those that both answered, and all else over the {common} that all of them answered{few}."
    ]


def settings(runs: Sequence[RunFiles]) -> tuple[list[tuple[str, list[Any]]], list[tuple[str, list[Any]]]]:
    """Lists every setting of every run, with versions and the facts of the evaluations."""
    parts = [
        [_flat(run.config) for run in runs],
        [_flat(run.resolved, "resolved.") for run in runs],
        [_flat({k: v for k, v in run.document.items() if k not in _NO_FACTS}, "eval.") for run in runs],
    ]
    differ, same = [], []
    for tables in parts:
        there = [table for table in tables if table]  # a folder without the file says nothing, which is no difference
        for name in dict.fromkeys(name for table in there for name in table):
            row = (name, [_short(table.get(name)) for table in tables])
            (differ if len({str(table.get(name)) for table in there}) > 1 else same).append(row)
    return differ, same


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
    return flat


# Which runs a page compares with which, and what the metrics are about; the differences are those of `dqo compare`.


def all_differences(runs: Sequence[Values], metrics: Sequence[str]) -> list[list[dict[str, Difference]]]:
    """Compares runs prompt by prompt."""
    found: list[list[dict[str, Difference]]] = [[{} for _ in runs] for _ in runs]
    for (a, b), there in paired_differences(runs, metrics).items():
        found[a][b] = there
        found[b][a] = {metric: difference.mirrored() for metric, difference in there.items()}
    return found


def bases(differences: Sequence[Sequence[Mapping[str, Difference]]]) -> dict[int, list[int]]:
    """Chooses whom the page compares with whom: run -> others; the first run alone where there are two, or too many."""
    found = {a: [b for b, pair in enumerate(row) if pair] for a, row in enumerate(differences) if any(row)}
    whole = 2 < len(differences) <= MOST_RUNS
    return found if whole else {a: others for a, others in found.items() if a == 0}


def by_kind(metrics: Sequence[str]) -> dict[str, list[str]]:
    """Sorts metrics by what they are about: kind -> names in the order given."""
    kinds: dict[str, list[str]] = {kind: [] for kind in (QUALITY, MEANING, WORDS, HEALTH, "other")}
    for metric in metrics:
        kinds[explain(metric).kind].append(metric)
    return {kind: names for kind, names in kinds.items() if names}
