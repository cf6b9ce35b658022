"""Training logs as columns of numbers, short enough to draw."""

import gzip
import hashlib
import json
import os
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dqo.evaluation.quality import judged
from dqo.files.records import Group, write_json
from dqo.models.response import TraceMarkers
from dqo.report.sources import RunFiles

POINTS = 1000  # more than a chart has pixels for


def columns(steps: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Every number of a log, one list a name, parallel to "step".

    A log of more than 1,000 steps is averaged over stretches of equal length; a stretch stands at its last step.

    Args:
        steps: Lines of metrics.jsonl in order of steps.

    Returns:
        "step" first, then names in the order of their first appearance; a name without any number is left out.
    """
    names = dict.fromkeys(name for row in steps for name in row)
    stride = -(-len(steps) // POINTS) or 1
    stretches = [steps[start : start + stride] for start in range(0, len(steps), stride)]
    table = {name: [_mean([row.get(name) for row in rows]) for rows in stretches] for name in names if name != "step"}
    table = {name: column for name, column in table.items() if any(value is not None for value in column)}
    return {"step": [rows[-1]["step"] for rows in stretches]} | table


def _mean(values: list[Any]) -> float | None:
    known = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return significant(sum(known) / len(known)) if known else None


def significant(value: float, digits: int = 6) -> float:
    """A number of so many significant digits, for a smaller page."""
    return float(f"{value:.{digits}g}")


# Prompts and responses as the page carries them, within a size that a phone can open.
#
# A response is a model's output: it may be a megabyte long. Each, and each prompt and reference, is cut after a number
# of
# characters that is lowered until the whole page fits; the reader states the cut, and file and line where the rest is.

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


# Where the responses to one prompt lie in meaning, all runs on one map: the first two principal components.
#
# The embeddings of all runs are centred and projected together, so that "before" and "after" share their axes. Maps
# take an encoder and are therefore drawn for some prompts only, spread evenly over the file, and remembered on disk.

MAPS = 100  # prompts; 2 runs of 10 responses are 2,000 texts, some 10 s on two CPU cores
_CHARACTERS = 4000  # of a response that are embedded, so that a megabyte of babble does not cost minutes

Encoder = Callable[[list[str]], Any]


def semantic_maps(
    runs: Sequence[RunFiles], load: Callable[[], Encoder], encoder: str, cache: Path | None, maps: int = MAPS
) -> dict[str, dict[str, Any]]:
    """Maps of some of the prompts.

    Args:
        runs: Whose responses are drawn.
        load: Makes the encoder, N texts -> (N, D); called only if a map is not remembered yet.
        encoder: Its name, which the memory goes by.
        cache: Folder of remembered maps; None remembers nothing.
        maps: Most prompts drawn.

    Returns:
        Prompt id -> {"share": [variance on either axis, 0 to 1], "runs": [[[x, y], ...] a response, or None]}.
    """
    keys = list(dict.fromkeys(key for run in runs for key in run.groups))
    keys = [keys[i] for i in sorted({round(i) for i in np.linspace(0, len(keys) - 1, min(maps, len(keys)))})]
    read = [_read(run, keys) for run in runs]
    texts = {key: [found.get(key, []) for found in read] for key in keys}
    found = {key: _remembered(cache, encoder, texts[key]) for key in keys}
    missing = [key for key in keys if found[key] is None]
    if missing:
        rows = _embedded(load(), [[t for run in texts[key] for t in run] for key in missing])
        for key, E in zip(missing, rows, strict=True):  # E: (N, D)
            found[key] = _map(E, [len(run) for run in texts[key]])
            _remember(cache, encoder, texts[key], found[key])
    return found


def principal_plane(E: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Coordinates on the first two principal components.

    Args:
        E: (N, D) embeddings.

    Returns:
        (N, 2) coordinates, each axis turned so that its largest coordinate is positive (an eigenvector has no sign),
        and the share of the variance on either axis; zeros where there is no variance.
    """
    centred = E - E.mean(axis=0)  # (N, D)
    U, S, _ = np.linalg.svd(centred, full_matrices=False)  # (N, K), (K,)
    xy = np.zeros((len(E), 2))  # (N, 2)
    k = min(2, len(S))
    xy[:, :k] = U[:, :k] * S[:k]  # (N, k)
    for axis in range(k):
        if xy[np.abs(xy[:, axis]).argmax(), axis] < 0:
            xy[:, axis] *= -1
    total = float((S**2).sum())
    share = [float(s**2) / total if total > 1e-12 else 0.0 for s in S[:2]]
    return xy, [*share, 0.0, 0.0][:2]


def _read(run: RunFiles, keys: list[str]) -> dict[str, list[str]]:
    """What the evaluation embedded, by prompt: responses without reasoning traces."""
    markers = TraceMarkers.parse(str(run.document.get("trace_markers", "default")))
    groups = judged(list(run.groups.values()), markers, run.document.get("sampling"))
    return {
        key: [text[:_CHARACTERS] for text in group.responses]
        for key, group in zip(run.groups, groups, strict=True)
        if key in keys
    }


def _map(E: np.ndarray, sizes: list[int]) -> dict[str, Any]:
    xy, share = principal_plane(E)
    places = np.split(xy.round(4), np.cumsum(sizes)[:-1])
    return {"share": [round(s, 3) for s in share], "runs": [p.tolist() if len(p) else None for p in places]}


def _embedded(encoder: Encoder, groups: list[list[str]]) -> list[np.ndarray]:
    from tqdm.auto import tqdm

    flat = [text for group in groups for text in group]
    rows = [
        np.asarray(encoder(flat[start : start + 256]), dtype=np.float64)
        for start in tqdm(range(0, len(flat), 256), desc="embedding for the maps", unit="batch", disable=None)
    ]
    return np.split(np.concatenate(rows), np.cumsum([len(group) for group in groups])[:-1])  # P x (N, D)


def default_cache() -> Path:
    """Where maps are remembered: `$DQO_CACHE` or `~/.cache/dqo`, in `report-maps/`."""
    return Path(os.environ.get("DQO_CACHE") or "~/.cache/dqo").expanduser() / "report-maps"


def _place(cache: Path, encoder: str, texts: list[list[str]]) -> Path:
    name = json.dumps(["1", encoder, texts]).encode()
    return cache / f"{hashlib.sha256(name).hexdigest()[:32]}.json"


def _remembered(cache: Path | None, encoder: str, texts: list[list[str]]) -> dict[str, Any] | None:
    if cache is None or not (place := _place(cache, encoder, texts)).is_file():
        return None
    return json.loads(place.read_text(encoding="utf-8"))


def _remember(cache: Path | None, encoder: str, texts: list[list[str]], found: dict[str, Any]) -> None:
    if cache is not None:
        write_json(_place(cache, encoder, texts), found)
