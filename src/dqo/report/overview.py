"""The first thing on the page: which run is best at what, and what each gained and lost."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dqo.evaluation.differences import Difference
from dqo.evaluation_files import MUST_AGREE, disagree
from dqo.report.sources import RunFiles

# The judge of diversity, best first: one the policy was not trained against, if any.
DIVERSITY = ("heldout/vendi_1", "vendi_1", "heldout/cosine_distance", "cosine_distance", "distinct_2")
_DECIDE = (("quality",), DIVERSITY, ("heldout/good/vendi_1", "good/vendi_1"))
_TAIL = 0.1  # share of the steps that "at the start" and "at the end" average over


class Fact(NamedTuple):
    """One number of a run that changed: `metric` in scope "e" (evaluation) or "t" (training log)."""

    scope: str
    metric: str
    before: float
    after: float
    difference: Difference | None

    @property
    def share(self) -> float | None:
        """What is left of the baseline's diversity; None for what is no diversity."""
        return self.after / self.before if self.scope == "e" and self.metric != "quality" and self.before > 0 else None


class Leader(NamedTuple):
    """The run that is best in a metric, the next best, and how far apart they are on the prompts both answered."""

    metric: str
    place: int
    value: float
    rival: int
    ahead: Difference | None


def headline(runs: Sequence[RunFiles]) -> list[str]:
    """The metrics that decide: quality, diversity, and diversity among the good answers, where they were measured.

    Args:
        runs: All runs.

    Returns:
        At most three names that every evaluated run has.
    """
    tables = [run.document["metrics"] for run in runs if run.document]
    found = (next((n for n in names if tables and all(t.get(n) for t in tables)), None) for names in _DECIDE)
    return [name for name in found if name]


def leaders(runs: Sequence[RunFiles], differences: Sequence[Sequence[Mapping[str, Difference]]]) -> list[Leader]:
    """Which run is best in each of the metrics that decide.

    Args:
        runs: All runs.
        differences: As `all_differences` returns them.

    Returns:
        One entry a metric; none where fewer than two runs were evaluated.
    """
    found = []
    for metric in headline(runs):
        values = {i: run.document["metrics"][metric]["mean"] for i, run in enumerate(runs) if run.document}
        if len(values) > 1:
            best, second = sorted(values, key=values.__getitem__, reverse=True)[:2]
            found.append(Leader(metric, best, values[best], second, differences[second][best].get(metric)))
    return found


def against_baseline(runs: Sequence[RunFiles], index: int, differences: Mapping[str, Difference]) -> list[Fact]:
    """The metrics that decide of an evaluated run beside the baseline's, on the prompts both answered.

    Args:
        runs: All runs, the baseline first.
        index: The run.
        differences: Its paired differences.

    Returns:
        At most three facts; none where nothing can be compared.
    """
    facts = []
    for metric in headline(runs):
        if metric in differences:
            before, after = (run.document["metrics"][metric]["mean"] for run in (runs[0], runs[index]))
            facts.append(Fact("e", metric, before, after, differences[metric]))
    return facts


def over_training(columns: Mapping[str, Sequence[float | None]]) -> list[Fact]:
    """Quality, diversity and KL of a training run: mean of its first and of its last tenth of the log.

    Args:
        columns: As `dqo.report.curves.columns` gives them.

    Returns:
        One fact for each of the three that was logged at least twice.
    """
    facts = []
    for metric in ("quality", "diversity/vendi", "kl"):
        known = [value for value in columns.get(metric, ()) if value is not None]
        if len(known) < 2:
            continue
        tail = max(1, round(_TAIL * len(known)))
        before, after = sum(known[:tail]) / tail, sum(known[-tail:]) / tail
        facts.append(Fact("t", metric, before, after, None))
    return facts


def cautions(runs: Sequence[RunFiles]) -> list[str]:
    """Why some runs of this page should not be compared, or not yet.

    Args:
        runs: All runs.

    Returns:
        Sentences.
    """
    found = []
    evaluated = [run for run in runs if run.document]
    for fact in MUST_AGREE:
        if disagree(fact, [run.document for run in evaluated]):
            told = ", ".join(f"{run.name}: {run.document.get(fact)}" for run in evaluated)
            found.append(
                f"The evaluations differ in {fact} ({told}): read no difference between them as one of models."
            )
    found += [f"{run.name}: {note}" for run in evaluated for note in run.document.get("notes", [])]
    for run in evaluated:
        if run.document.get("n_prompts", 0) < 20:
            count = run.document.get("n_prompts")
            found.append(f"{run.name}: {count} prompts; below 20 the intervals are too narrow.")
    found += [f"{run.name} is still training: {len(run.steps)} steps logged." for run in runs if not run.finished]
    return found


def settings(runs: Sequence[RunFiles]) -> tuple[list[tuple[str, list[Any]]], list[tuple[str, list[Any]]]]:
    """Every setting of every run, with versions and the facts of the evaluations.

    Args:
        runs: All runs.

    Returns:
        Rows (name, one value a run or None) that differ between runs, then those that do not.
    """
    parts = [[_flat(run.config) for run in runs], [_flat(_facts(run), "eval.") for run in runs]]
    differ, same = [], []
    for tables in parts:
        told = [table for table in tables if table]  # a folder without the file says nothing, which is no difference
        for name in dict.fromkeys(name for table in told for name in table):
            row = (name, [_short(table.get(name)) for table in tables])
            (differ if len({str(table.get(name)) for table in told}) > 1 else same).append(row)
    return differ, same


def _facts(run: RunFiles) -> dict[str, Any]:
    return {name: value for name, value in run.document.items() if name not in ("metrics", "corpus", "notes")}


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
    return flat
