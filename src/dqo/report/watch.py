"""A report that follows a training run: written again whenever its files have changed."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dqo.report.page import write_report
from dqo.report.sources import locate, read_runs, stamp


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
        folders: As for `write_report`; a run folder whose log does not exist yet is waited for.
        out: HTML file.
        every: Seconds between looks at the files, and between loads of the open page.
        tell: Called with one sentence a change.
        sleep: Waits so many seconds.
        **options: Passed to `write_report`.

    Raises:
        DQOError: As `write_report` does.
    """
    seen, waiting = None, False
    while not all(map(_has_something, map(Path, folders))):
        if not waiting:
            tell("waiting for the first step of " + ", ".join(str(f) for f in folders if not _has_something(Path(f))))
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


def _has_something(folder: Path) -> bool:
    return bool(locate(folder).keys() - {"config", "resolved"})
