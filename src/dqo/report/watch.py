"""A report that follows a training run: written again whenever its files have changed."""

import difflib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dqo.errors import DataError
from dqo.report.page import write_report
from dqo.report.sources import locate, read_runs, stamp

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
    """Write the report now and after every change until all runs are finished; the last page does not reload itself.

    An interruption leaves such a last page too.

    Args:
        folders: As for `write_report`; a run that has begun and has no log yet is waited for.
        out: HTML file.
        every: Seconds between looks at the files, and between loads of the open page.
        tell: Called with one sentence a change.
        sleep: Waits so many seconds.
        **options: Passed to `write_report`.

    Raises:
        DQOError: As `write_report` does, or a folder in which no run has begun.
    """
    seen, waiting = None, False
    while awaited := [folder for folder in map(Path, folders) if not _has_something(folder)]:
        for folder in awaited:
            _check_begun(folder)
        if not waiting:
            tell("waiting for the first step of " + ", ".join(map(str, awaited)))
        waiting = True
        sleep(every)
    try:
        while True:
            now = stamp(folders)
            if now != seen:
                runs = read_runs(folders)
                if all(run.finished for run in runs):
                    break
                written = write_report(folders, out, refresh=every, **options)
                steps = max((run.steps[-1]["step"] for run in runs if run.steps), default=0)
                tell(f"step {steps:,}: {out} ({written['bytes'] / 1e6:.1f} MB)")
                seen = now
            sleep(every)
    finally:
        write_report(folders, out, **options)
    tell(f"finished: {out}")


def _check_begun(folder: Path) -> None:
    """Refuses to wait for a run in a folder where none will come: a misspelt name, or a folder of other things."""
    if not folder.is_dir():
        there = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        near = difflib.get_close_matches(folder.name, there, n=1)
        remedy = f"did you mean {str(folder.with_name(near[0]))!r}?" if near else "start the run first."
        raise DataError(f"{folder}: expected the folder of a run to watch, got none of that name; {remedy}")
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if names and not _OF_A_START & set(names):
        raise DataError(
            f"{folder}: expected the folder of a run to watch, got one that holds {min(names)!r} and no run; name the "
            "folder of a run."
        )


def _has_something(folder: Path) -> bool:
    return bool(locate(folder).keys() - {"config", "resolved"})
