"""The results of a sweep as files for people and programs: results.json, results.csv, results.md."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dqo.evaluation.definitions import definition_of
from dqo.records import write_json, write_text
from dqo.sweep.collect import Evaluated

_TITLES = {
    "quality": "quality", "vendi_1": "Vendi", "heldout/vendi_1": "Vendi, held-out", "max@k": "max@{n}",
    "pass@k": "pass@{n}", "distinct_2": "distinct-2", "words": "words", "truncated": "truncated",
}  # fmt: skip


def write_tables(out: Path, document: dict[str, Any], evaluated: Sequence[Evaluated]) -> str:
    """Write results.json, results.csv (a line a run) and results.md.

    Args:
        out: Folder of the results.
        document: As `summarise` returns it, with what the caller adds.
        evaluated: The runs behind it.

    Returns:
        The content of results.md.
    """
    write_json(out / "results.json", document)
    write_text(out / "results.csv", _csv(evaluated))
    text = markdown(document)
    write_text(out / "results.md", text)
    return text


def markdown(document: dict[str, Any]) -> str:
    """The two tables, a row a point and a row an arm, and what must be said beside them.

    Args:
        document: The content of results.json.

    Returns:
        Markdown.
    """
    n = document["n_samples"]
    shown = [name for name in _TITLES if any(point["metrics"].get(name) for point in document["points"])]
    head = ["arm", "alpha", "seeds", *(_TITLES[name].format(n=n) for name in shown)]
    rows = [
        [
            point["arm"] + (" ★" if point["on_front"] else ""),
            "–" if point["alpha"] is None else str(point["alpha"]),
            ", ".join(map(str, point["seeds"])) or "–",
            *(_cell(point["metrics"].get(name)) for name in shown),
        ]
        for point in document["points"]
    ]
    kinds = sorted({point["interval"] for point in document["points"]})
    level = f"{document['level'] * 100:g} %"
    lines = [_table(head, rows, left=1), f"Mean [{level} interval] over {', or '.join(kinds)}; {n} responses a prompt."]
    if any(point["on_front"] for point in document["points"]):
        lines.append("★ on the front: no other point has as much quality and as much diversity.")
    if document["hypervolume"]:
        lines += ["", _hypervolumes(document, n, level)]
    missing: dict[str, list[str]] = {}  # reason -> runs, so that a sweep cut short says so in one sentence
    for one in document.get("missing", []):
        missing.setdefault(one["reason"], []).append(one["run"])
    lines += [f"\nNot in the tables: {', '.join(runs)}, {reason}." for reason, runs in missing.items()]
    lines += [f"\n{note}" for note in [*_nulls(document), *document["notes"]]]
    return "\n".join(lines) + "\n"


def _nulls(document: dict[str, Any]) -> list[str]:
    """Why there is no number in a column, or no column."""
    found = []
    for name, title in _TITLES.items():
        told = [point["metrics"][name] for point in document["points"] if name in point["metrics"]]
        if None in told:
            where = "is – where" if any(told) else "has no column:"
            found.append(f"{title.format(n=document['n_samples'])} {where} {definition_of(name).undefined}.")
    return found


def _hypervolumes(document: dict[str, Any], n: int, level: str) -> str:
    volumes = document["hypervolume"]
    most = max(map(len, volumes.values()))
    head = ["arm", *(f"{k} point{'s' * (k > 1)}" for k in range(1, most + 1))]
    rows = [[arm, *(_cell(found.get(str(k))) for k in range(1, most + 1))] for arm, found in volumes.items()]
    return (
        _table(head, rows, left=1)
        + f"\nHypervolume of quality on [0, 1] and {document['axes'][0]} on [1, {n}] above their lower ends, as a "
        "share of the plane;\nat k points the mean over all choices of k of an arm's points, so compare inside a "
        f"column. [{level} interval] over prompts."
    )


def _cell(interval: dict[str, float] | None) -> str:
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]" if interval else "–"


def _table(head: list[str], rows: list[list[str]], left: int) -> str:
    """A markdown table that is aligned as plain text too."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = []
    for row in [head, rule, *rows]:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _csv(evaluated: Sequence[Evaluated]) -> str:
    names = list(dict.fromkeys(name for one in evaluated for name in one.document["metrics"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "arm", "alpha", "seed", *names])
    for one in evaluated:
        metrics = one.document["metrics"]
        means = [metrics[name]["mean"] if metrics.get(name) else "" for name in names]
        writer.writerow([one.run.name, one.run.arm, *("" if x is None else x for x in (one.run.alpha, one.run.seed)),
                         *means])  # fmt: skip
    return text.getvalue()
