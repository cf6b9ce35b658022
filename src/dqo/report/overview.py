"""The first thing on the page: the dozen numbers of every arm, what it repeats, and what to know before."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dqo.evaluation.arms import Arm, find_arms
from dqo.evaluation.attractors import LEAST_SHARE, PHRASE
from dqo.evaluation.compare import single_runs
from dqo.evaluation.definitions import HEALTH, MEANING, QUALITY, WORDS, explain
from dqo.evaluation.statistics import (
    FEW,
    FEW_PROMPTS,
    MOST_RUNS,
    Difference,
    Means,
    Seeds,
    on_common_prompts,
    paired_differences,
)
from dqo.files.evaluation import likeness_cautions
from dqo.report.sources import RunFiles

_NO_FACTS = ("metrics", "corpus", "notes", "attractors")
_ATTRACTORS_SHOWN = 12
_WORDS_IN_COMMON = 3


class Repeated(NamedTuple):
    """An attractor: its kind and words, and the share of responses of each arm; 0 below a tenth, None where unknown."""

    kind: str
    text: str
    shares: list[float | None]


def arms_of(runs: Sequence[RunFiles]) -> list[Arm]:
    """Puts the runs of a page into arms; one whose metrics by prompt are missing has no values."""
    documents, values = [run.document for run in runs], [run.values if run.document else {} for run in runs]
    return find_arms([run.folder for run in runs], [run.name for run in runs], documents, values)


def own_means(arms: Sequence[Arm]) -> Means:
    """Averages every metric of every arm over all prompts that its own runs have a value for."""
    alone = [on_common_prompts([arm.values], [arm.summary]) for arm in arms]
    names = dict.fromkeys(name for arm in arms for name in arm.summary)
    return {name: [table.get(name, [None])[0] for table in alone] for name in names}


def attractors(runs: Sequence[RunFiles], arms: Sequence[Arm]) -> list[Repeated]:
    """Lists what the arms repeat most; of several seeds the mean, one below a tenth as 0. Overlaps are left out."""
    lists = [[{(one["kind"], one["text"]): one["share"] for one in runs[place].document["attractors"]}
              for place in arm.places if "attractors" in runs[place].document] for arm in arms]  # fmt: skip
    found = dict.fromkeys(item for tables in lists for table in tables for item in table)
    rows = [
        Repeated(*item, [sum(table.get(item, 0.0) for table in tables) / len(tables) if tables else None
                         for tables in lists])
        for item in found
    ]  # fmt: skip
    rows = [row for row in rows if max(filter(None, row.shares), default=0.0) >= LEAST_SHARE]
    rows.sort(key=lambda row: (-max(filter(None, row.shares)), row.kind == PHRASE, row.text))
    listed: list[Repeated] = []
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        words = row.text.split()
        stretches = {tuple(words[i : i + _WORDS_IN_COMMON]) for i in range(len(words) - _WORDS_IN_COMMON + 1)}
        if seen.isdisjoint(stretches):
            listed.append(row)
        seen |= stretches
    return listed[:_ATTRACTORS_SHOWN]


def cautions(runs: Sequence[RunFiles], arms: Sequence[Arm] = ()) -> list[str]:
    """Says why some runs of this page should not be compared, or not yet."""
    evaluated = [run for run in runs if run.document]
    found = likeness_cautions({run.name: run.document for run in evaluated}) + _unlike_prompts(evaluated)
    found += single_runs(arms)
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


# Which arms a page compares with which, and what the metrics are about; the differences are those of `dqo compare`.


def all_differences(
    arms: Sequence[Seeds], metrics: Sequence[str], primary: Sequence[str] = ()
) -> list[list[dict[str, Difference]]]:
    """Compares arms prompt by prompt."""
    found: list[list[dict[str, Difference]]] = [[{} for _ in arms] for _ in arms]
    for (a, b), there in paired_differences(arms, metrics, primary).items():
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
