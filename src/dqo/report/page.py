"""Runs in, one self-contained HTML page out: a function of the files, no network, nothing but this file to send."""

import base64
import hashlib
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dqo._version import __version__
from dqo.embedders import Embedder, load_embedder
from dqo.errors import DataError, DQOError
from dqo.evaluation.arms import Arm
from dqo.evaluation.compare import in_words, number
from dqo.evaluation.definitions import MEANING, QUALITY, WORDS, explain, headline, shown_in, tabled
from dqo.evaluation.statistics import Means, on_common_prompts, pareto_front
from dqo.files.evaluation import drawn, run_notes
from dqo.files.records import write_text
from dqo.report import overview
from dqo.report.charts import columns, packed, semantic_maps, significant
from dqo.report.sources import RunFiles, locate, read_runs

_SCRIPTS = ("core", "tips", "charts", "tradeoff", "training", "draws", "map", "reader", "against", "live", "main")
_VENDOR = ("d3.min.js", "plot.umd.min.js")


def write_report(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    encoder: str | None = None,
    maps: int = 100,
    refresh: int = 0,
) -> dict[str, Any]:
    """Writes the report of one or more folders, atomically, and counts runs, prompts, bytes and notes."""
    runs = read_runs(folders)
    arms = overview.arms_of(runs)
    shared = on_common_prompts([arm.values for arm in arms], [arm.summary for arm in arms])
    document = _document(runs, arms, shared) | _maps(runs, encoder, maps) | {"refresh": refresh}
    page, notes = _render(runs, arms, document, shared)
    write_text(out, page)
    prompts = len({key for run in runs for key in run.groups})
    return {"runs": len(runs), "prompts": prompts, "bytes": len(page.encode()), "notes": notes}


def _document(runs: list[RunFiles], arms: list[Arm], shared: Means) -> dict[str, Any]:
    own = overview.own_means(arms)
    metrics = [*dict.fromkeys([*shown_in(own, "report"), *headline(own)])]
    training = [columns(run.steps) if run.steps else None for run in runs]
    intervals = {name: [_interval(value) for value in shared.get(name, own[name])] for name in metrics}
    pooled = {f"corpus/{name}" for run in runs for name in run.document.get("corpus", {})}
    logged = dict.fromkeys(name for table in training if table for name in table)
    arm_of = {place: number for number, arm in enumerate(arms) for place in arm.places}
    return {
        "runs": [
            {"name": run.name, "arm": arm_of[place], "files": {part: str(path) for part, path in run.files.items()}}
            for place, run in enumerate(runs)
        ],
        "arms": [{"name": arm.name, "runs": arm.places} for arm in arms],
        "evaluation": intervals,
        "axes": _axes({name: intervals[name] for name in _tabled(runs, metrics)}, shared),
        "training": training,
        "definitions": {f"e:{name}": _explained(name) for name in [*metrics, *pooled]}
        | {f"t:{name}": _explained(name) for name in logged},
        "threshold": next((run.document["pass_threshold"] for run in runs if "pass_threshold" in run.document), 0.5),
    }


def _tabled(runs: list[RunFiles], metrics: list[str]) -> list[str]:
    return tabled(metrics, max((run.document["n_samples"] for run in runs if run.document), default=1))


def _explained(name: str) -> dict[str, str]:
    found = explain(name)
    return {part: getattr(found, part) for part in ("label", "text", "better", "range", "undefined")}


def _axes(intervals: dict[str, list[list[float] | None]], shared: Means) -> dict[str, Any]:
    """Metrics for the two axes of the trade-off and the front of each pair; none where the prompts are not the same."""
    known = [name for name, column in intervals.items() if any(column)]
    kinds = overview.by_kind([name for name in known if not name.endswith("@1")])  # which repeats the quality
    y, x = kinds.get(QUALITY, []), [*kinds.get(MEANING, []), *kinds.get(WORDS, [])]
    x.sort(key=lambda name: ("vendi_1" not in name, not name.startswith("heldout/")))
    fronts = {}
    for across in x:
        sign = -1.0 if explain(across).better == "lower" else 1.0
        for up in y:
            pairs = zip(intervals[across], intervals[up], strict=True)
            comparable = across in shared and up in shared
            known = {i: (sign * a[0], b[0]) for i, (a, b) in enumerate(pairs) if a and b and comparable}
            front = [list(known)[place] for place in pareto_front(list(known.values()))]
            fronts[f"{across}|{up}"] = sorted(front, key=known.__getitem__)
    return {"x": x, "y": y, "fronts": fronts}


def _interval(value: dict[str, float] | None) -> list[float] | None:
    return [significant(value[part], 5) for part in ("mean", "low", "high")] if value else None


def _maps(runs: list[RunFiles], encoder: str | None, maps: int) -> dict[str, Any]:
    if not maps or not any(run.groups for run in runs):
        return {"maps": {}, "mapEncoder": None, "mapNote": None}
    name = encoder or next((run.document["encoder"] for run in runs if run.document.get("encoder")), "hashed")
    note = None
    try:
        embed = _embedder(name)
    except (DQOError, ModuleNotFoundError) as error:
        if encoder:
            raise
        note = f"Drawn with hashed words, which know no meaning: {name} cannot be loaded here ({error})."
        name, embed = "hashed", _embedder("hashed")
    return {"maps": semantic_maps(runs, embed, maps), "mapEncoder": name, "mapNote": note}


@cache
def _embedder(name: str) -> Embedder:
    return load_embedder(name)  # it remembers its texts, for a page that is written again


# Nothing that a model wrote reaches the page as markup. Prompts and responses travel as compressed base64 and become
# text nodes in the browser. What the template prints is escaped. A content security policy lets only the scripts run
# whose digests it names, and lets none of them open a connection.
def _render(runs: list[RunFiles], arms: list[Arm], document: dict[str, Any], shared: Means) -> tuple[str, list[str]]:
    metrics = _tabled(runs, list(document["evaluation"]))
    first = [name for name in headline(metrics) if any(document["evaluation"][name])]
    differences = overview.all_differences([arm.values for arm in arms], metrics, headline(metrics, primary=True))
    data, notes = packed(document, runs)
    assets = files("dqo.report") / "assets"
    vendor = [(assets / "vendor" / name).read_text(encoding="utf-8") for name in _VENDOR]
    own = "\n".join((assets / "js" / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    scripts = [*vendor, f'"use strict";\n{own}']
    differ, same = overview.settings(runs)
    environment = Environment(
        loader=PackageLoader("dqo.report", "assets"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": number,
        "signed": lambda value: number(value, sign=True),
        "define": explain,
        "in_words": in_words,
        "drawn": drawn,
    }
    page = environment.get_template("page.html.j2").render(
        version=__version__,
        now=datetime.now().astimezone(),
        runs=runs,
        document=document,
        data=data,
        scripts=scripts,
        hashes=[_digest(script) for script in scripts],
        style=(assets / "page.css").read_text(encoding="utf-8"),
        arms=arms,
        cautions=overview.cautions(runs, arms),
        notes=[*run_notes({run.name: run.document for run in runs if run.document}), *notes],
        kinds=overview.by_kind(metrics),
        headline=first,
        primary=headline(first, primary=True),
        shared=shared,
        own=overview.own_means(arms),
        attractors=overview.attractors(runs, arms),
        differences=differences,
        compared=overview.bases(differences),
        differ=differ,
        same=same,
    )
    return page, notes


# As browsers write it in a content security policy.
def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


# A report that follows a training run: written again whenever its files have changed.

# What a run, or the sweep that starts it, makes before its log.
_OF_A_START = {"config.yaml", "recipe.yaml", "train.log", "checkpoints"}


def watch(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    every: int,
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    **options: Any,
) -> None:
    """Writes the report now and after every change until all runs are finished; the last page does not reload itself.

    An interruption leaves such a last page too.
    """
    awaited = [folder for folder in map(Path, folders) if not _has_something(folder)]
    for folder in awaited:
        _check_begun(folder)
        tell(f"waiting for the first step of {folder}")
    while not all(map(_has_something, awaited)):
        sleep(every)
    seen = None
    try:
        while True:
            runs = read_runs(folders)
            if all(run.finished for run in runs):
                break
            if runs != seen:
                written = write_report(folders, out, refresh=every, **options)
                steps = max((run.steps[-1]["step"] for run in runs if run.steps), default=0)
                tell(f"step {steps:,}: {out} ({written['bytes'] / 1e6:.1f} MB)")
                seen = runs
            sleep(every)
    finally:
        write_report(folders, out, **options)
    tell(f"finished: {out}")


# Where no run will come, a misspelt name or a folder of other things, waiting would never end.
def _check_begun(folder: Path) -> None:
    there = {path.name for path in folder.glob("[!.]*")} if folder.is_dir() else {"nothing of that name"}
    if there and not _OF_A_START & there:
        raise DataError(
            f"{folder}: expected the folder of a run to watch, got {min(there)!r} and no run; correct the name, or "
            "start the run first."
        )


def _has_something(folder: Path) -> bool:
    return bool(locate(folder).keys() - {"config", "resolved"})
