"""Prompts and responses as the page carries them, within a size that a phone can open.

A response is a model's output: it may be a megabyte long. Each, and each prompt and reference, is cut after a number of
characters that is lowered until the whole page fits; the reader states the cut, and file and line where the rest is.
"""

import gzip
import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

from dqo.records import Group
from dqo.report.curves import significant
from dqo.report.sources import RunFiles

# Characters kept of a response, tried in this order; below the last, prompts at the end are left out instead.
_CAPS = (20_000, 8_000, 4_000, 2_000, 1_000, 500)
PACKED_LIMIT = 12_000_000  # bytes of packed data; page, charts and libraries take another 0.7 MB
# Per-prompt metrics that the reader shows and sorts by.
READER_METRICS = ("quality", "heldout/vendi_1", "vendi_1", "heldout/cosine_distance", "cosine_distance", "self_bleu")


def packed(document: dict[str, Any], runs: Sequence[RunFiles]) -> tuple[str, list[str]]:
    """The page's data as text that cannot be mistaken for markup: JSON, gzip, base64.

    Args:
        document: Everything but the samples.
        runs: Where the samples come from.

    Returns:
        The text, and notes on what was cut.
    """
    keys = list(dict.fromkeys(key for run in runs for key in run.groups))
    for cap, kept in _sizes(len(keys)):
        samples, cut = _samples(runs, keys[:kept], cap)
        notes = _notes(cut, cap, kept, len(keys))
        text = _pack(document | {"samples": samples, "notes": [*document.get("notes", []), *notes]})
        if len(text) <= PACKED_LIMIT or not kept:
            break
    return text, notes


def _sizes(prompts: int) -> Iterator[tuple[int, int]]:
    yield from ((cap, prompts) for cap in _CAPS)
    while prompts:
        prompts //= 2
        yield _CAPS[-1], prompts


def _notes(cut: dict[str, int], cap: int, kept: int, prompts: int) -> list[str]:
    notes = []
    which = ", ".join(f"{n:,} {kind}" + "s" * (n > 1) for kind, n in cut.items() if n)
    if which:
        verb = "is" if sum(cut.values()) == 1 else "are"
        notes.append(f"{which} {verb} cut after {cap:,} characters; the reader names the file that has the rest.")
    if kept < prompts:
        notes.append(
            f"The reader holds the first {kept:,} of {prompts:,} prompts; every other section counts all of them."
        )
    return notes


def _samples(runs: Sequence[RunFiles], keys: list[str], cap: int) -> tuple[dict[str, Any], dict[str, int]]:
    """{"prompts": [[id, prompt, reference, whole lengths]], "metrics": names, "runs": [[group or null]]}; what is cut.

    The lengths are those of a prompt, "1", or a reference, "2", that is cut.
    """
    metrics = [name for name in READER_METRICS if any(name in run.document.get("metrics", {}) for run in runs)]
    lines = [{key: line for line, key in enumerate(run.groups, start=1)} for run in runs]
    prompts, cut = [], {"response": 0, "prompt": 0, "reference": 0}
    for key in keys:
        group = next(run.groups[key] for run in runs if key in run.groups)
        reference = group.reference if isinstance(group.reference, str) else ", ".join(group.reference)
        whole = {place: len(text) for place, text in ((1, group.prompt), (2, reference)) if len(text) > cap}
        cut["prompt"] += 1 in whole
        cut["reference"] += 2 in whole
        prompts.append([key, group.prompt[:cap], reference[:cap], whole])
    table = []
    for run, places in zip(runs, lines, strict=True):
        rows = []
        for key in keys:
            group = run.groups.get(key)
            if group is None:
                rows.append(None)
                continue
            cut["response"] += sum(len(text) > cap for text in group.responses)
            values = run.values.get(key, {})
            rows.append(_group(group, cap, places[key]) | {"m": [_short(values.get(name)) for name in metrics]})
        table.append(rows)
    return {"prompts": prompts, "metrics": metrics, "runs": table, "cap": cap}, cut


def _group(group: Group, cap: int, line: int) -> dict[str, Any]:
    """Responses `r`, whole lengths `n` of those that are cut, rewards `q`, finish `f`, line of the file `l`."""
    return {
        "r": [text[:cap] for text in group.responses],
        "n": {i: len(text) for i, text in enumerate(group.responses) if len(text) > cap},
        "q": None if group.rewards is None else [_short(reward) for reward in group.rewards],
        "f": "".join(finish[0] for finish in group.finish),
        "l": line,
    }


def _short(value: Any) -> float | None:
    return significant(value, 4) if isinstance(value, int | float) else None


def _pack(document: dict[str, Any]) -> str:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # mtime 0: the same files give the same page. "replace": a lone surrogate has no UTF-8.
    return b64encode(gzip.compress(text.encode("utf-8", "replace"), compresslevel=6, mtime=0)).decode()
