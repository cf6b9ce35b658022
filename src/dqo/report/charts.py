"""What the charts and the reader of a page draw: logs as columns, samples cut to size, maps of meaning."""

import gzip
import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dqo.evaluation.quality import judged
from dqo.models.chat import TraceMarkers
from dqo.report.sources import RunFiles

POINTS = 1000  # more than a chart has pixels for
PACKED_LIMIT = 12_000_000  # bytes of packed data; page, charts and libraries take another 0.7 MB
_LONGEST, _SHORTEST = 20_000, 500  # characters kept of a response; where the last is too much, prompts are left out
_PROBED = 100  # prompts whose size stands for that of all
# Per-prompt metrics that the reader shows and sorts by.
READER_METRICS = ("quality", "heldout/vendi_1", "vendi_1", "heldout/cosine_distance", "cosine_distance", "self_bleu")


def columns(steps: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Turns a log into columns of numbers, parallel to "step".

    A log of more than 1,000 steps is averaged over stretches of equal length; a stretch stands at its last step.
    """
    stretch = np.arange(len(steps)) // (-(-len(steps) // POINTS) or 1)
    log = pd.DataFrame(steps).groupby(stretch)
    table = log.mean(numeric_only=True).drop(columns="step").dropna(axis=1, how="all")
    means = {name: [None if np.isnan(mean) else significant(mean) for mean in table[name]] for name in table}
    return {"step": log["step"].last().tolist()} | means


def significant(value: float, digits: int = 6) -> float:
    """Rounds a number to so many significant digits, for a smaller page."""
    return float(f"{value:.{digits}g}")


def packed(document: dict[str, Any], runs: Sequence[RunFiles]) -> tuple[str, list[str]]:
    """Packs the page's data as text that cannot be mistaken for markup: JSON, gzip, base64.

    A response may be a megabyte long. Each, and each prompt and reference, is cut after a number of characters that is
    lowered until the page opens on a phone; where that is not enough, a part of the prompts is drawn, those with a map
    first.
    """
    keys = list(dict.fromkeys(key for run in runs for key in run.groups))
    drawn = sorted(Random(0).sample(keys, len(keys)), key=lambda key: key not in document["maps"])
    room = PACKED_LIMIT - len(_pack(document))
    cap, kept = _LONGEST, len(keys)
    while True:
        # Some of the prompts tell how much room all of them take.
        few = drawn[: min(kept, _PROBED)]
        taken = len(_pack(_samples(runs, few, cap)[0])) * kept / max(1, len(few))
        if taken <= room or not kept:
            chosen = set(drawn[:kept])
            samples, notes = _samples(runs, [key for key in keys if key in chosen], cap)
            if kept < len(keys):
                notes.append(
                    f"The reader holds {kept:,} of {len(keys):,} prompts, drawn at random with seed 0; every other "
                    "section counts all of them."
                )
            text = _pack(document | {"samples": samples, "notes": [*document.get("notes", []), *notes]})
            if len(text) <= PACKED_LIMIT or not kept:
                return text, notes
            taken = len(text)
        fitting = int(0.98 * kept * min(1.0, max(0, room) / taken))
        cap, kept = (max(_SHORTEST, cap * 2 // 5), kept) if cap > _SHORTEST else (cap, fitting)


def _samples(runs: Sequence[RunFiles], keys: list[str], cap: int) -> tuple[dict[str, Any], list[str]]:
    """{"prompts": [[id, prompt, reference, whole lengths]], "metrics": names, "runs": [[group or null]]}; what is cut.

    The lengths are those of a prompt, "1", or a reference, "2", that is cut.
    """
    metrics = [name for name in READER_METRICS if any(name in run.document.get("metrics", {}) for run in runs)]
    prompts, table = [], []
    for key in keys:
        group = next(run.groups[key] for run in runs if key in run.groups)
        reference = group.reference if isinstance(group.reference, str) else ", ".join(group.reference)
        whole = {place: len(text) for place, text in ((1, group.prompt), (2, reference)) if len(text) > cap}
        prompts.append([key, group.prompt[:cap], reference[:cap], whole])
    for run in runs:
        lines = {key: line for line, key in enumerate(run.groups, start=1)}
        table.append([_group(run, key, lines[key], cap, metrics) if key in lines else None for key in keys])
    cut = sum(len(whole) for *_, whole in prompts) + sum(len(group["n"]) for row in table for group in row if group)
    note = f"Texts longer than {cap:,} characters are cut ({cut:,} here); the reader names the file that has the rest."
    return {"prompts": prompts, "metrics": metrics, "runs": table, "cap": cap}, [note] if cut else []


def _group(run: RunFiles, key: str, line: int, cap: int, metrics: Sequence[str]) -> dict[str, Any]:
    """Responses `r`, lengths `n` of those cut, rewards `q`, finish `f`, line of the file `l`, metrics `m`."""
    group, values = run.groups[key], run.values.get(key, {})
    return {
        "r": [text[:cap] for text in group.responses],
        "n": {i: len(text) for i, text in enumerate(group.responses) if len(text) > cap},
        "q": None if group.rewards is None else [significant(reward, 4) for reward in group.rewards],
        "f": "".join(finish[0] for finish in group.finish),
        "l": line,
        "m": [None if values.get(name) is None else significant(values[name], 4) for name in metrics],
    }


def _pack(document: dict[str, Any]) -> str:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # mtime 0: the same files give the same page. "replace": a lone surrogate has no UTF-8.
    return b64encode(gzip.compress(text.encode("utf-8", "replace"), compresslevel=6, mtime=0)).decode()


# Where the responses to one prompt lie in meaning, all runs on one map: the first two principal components.
#
# The embeddings of all runs are centred and projected together, so that "before" and "after" share their axes. Maps
# take an encoder and are therefore drawn for some prompts only, spread evenly over the file.

_CHARACTERS = 4000  # of a response that are embedded, so that a megabyte of babble does not cost minutes


def semantic_maps(runs: Sequence[RunFiles], encoder: Callable[[list[str]], Any], maps: int) -> dict[str, Any]:
    """Draws maps of some of the prompts."""
    keys = list(dict.fromkeys(key for run in runs for key in run.groups))
    keys = [keys[i] for i in sorted({round(i) for i in np.linspace(0, len(keys) - 1, min(maps, len(keys)))})]
    read, found = [_read(run, keys) for run in runs], {}
    for key in tqdm(keys, desc="embedding for the maps", unit="prompt", disable=None):
        texts = [of_run.get(key, []) for of_run in read]
        E = np.asarray(encoder([text for group in texts for text in group]), dtype=np.float64)  # (N, D)
        xy, share = principal_plane(E)
        places = np.split(xy.round(4), np.cumsum([len(group) for group in texts])[:-1])
        own = [place.tolist() if len(place) else None for place in places]
        found[key] = {"share": [round(part, 3) for part in share], "runs": own}
    return found


def principal_plane(E: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Places rows on their first two principal components."""
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


# Reasoning traces are left out, as the evaluation embedded no trace.
def _read(run: RunFiles, keys: list[str]) -> dict[str, list[str]]:
    markers = TraceMarkers.parse(str(run.document.get("trace_markers", "default")))
    groups = judged(list(run.groups.values()), markers, run.document.get("sampling"))
    by_key = dict(zip(run.groups, groups, strict=True))
    return {key: [text[:_CHARACTERS] for text in by_key[key].responses] for key in keys if key in by_key}
