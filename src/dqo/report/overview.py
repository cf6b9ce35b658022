"""The first thing on the page: what each run gained and lost, in numbers that a sentence can hold."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dqo.report.significance import Difference
from dqo.report.sources import RunFiles

# The judge of diversity, best first: one the policy was not trained against, if any.
DIVERSITY = ("heldout/vendi_1", "vendi_1", "heldout/cosine_distance", "cosine_distance", "distinct_2")
_TAIL = 0.1  # share of the steps that "at the start" and "at the end" average over


class Fact(NamedTuple):
    """One number of a run that changed: `metric` in scope "e" (evaluation) or "t" (training log)."""

    scope: str
    metric: str
    before: float
    after: float
    difference: Difference | None
    verdict: str  # "up", "down" or "same"; "same" is "no difference shown"


def against_baseline(runs: Sequence[RunFiles], index: int, differences: Mapping[str, Difference]) -> list[Fact]:
    """Quality and diversity of an evaluated run beside the baseline's, on the prompts both answered.

    Args:
        runs: All runs, the baseline first.
        index: The run.
        differences: Its paired differences.

    Returns:
        At most two facts; none where nothing can be compared.
    """
    facts = []
    for names in (("quality",), DIVERSITY):
        metric = next((name for name in names if name in differences), None)
        if metric is None:
            continue
        before, after = (run.document["metrics"][metric] for run in (runs[0], runs[index]))
        difference = differences[metric]
        verdict = "same" if difference.low <= 0 <= difference.high else "up" if difference.mean > 0 else "down"
        facts.append(Fact("e", metric, before["mean"], after["mean"], difference, verdict))
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
        facts.append(Fact("t", metric, before, after, None, "up" if after > before else "down"))
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
    for fact in ("n_samples", "encoder", "heldout_encoder", "task", "pass_threshold"):
        values = {run.name: run.document.get(fact) for run in evaluated}
        if len(set(map(str, values.values()))) > 1:
            told = ", ".join(f"{name}: {value}" for name, value in values.items())
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
    tables = [_flat(run.config) | _flat(_facts(run), "eval.") for run in runs]
    rows = [(name, [table.get(name) for table in tables]) for name in dict.fromkeys(n for t in tables for n in t)]
    differ = [row for row in rows if len(set(map(str, row[1]))) > 1]
    return differ, [row for row in rows if row not in differ]


def _facts(run: RunFiles) -> dict[str, Any]:
    return {name: value for name, value in run.document.items() if name not in ("metrics", "notes")}


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
    return flat
