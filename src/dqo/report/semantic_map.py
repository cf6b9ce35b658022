"""Where the responses to one prompt lie in meaning, all runs on one map: the first two principal components.

The embeddings of all runs are centred and projected together, so that "before" and "after" share their axes. Maps
take an encoder and are therefore drawn for some prompts only, spread evenly over the file, and remembered on disk.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dqo.evaluation.traces import judged
from dqo.records import write_json
from dqo.report.sources import RunFiles
from dqo.response import TraceMarkers

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
