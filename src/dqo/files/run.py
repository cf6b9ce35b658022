"""The folder of a run: where its files lie, who writes to it, its log, and which checkpoint is whole."""

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from dqo.errors import DataError, FolderBusyError, RecipeError
from dqo.files.jsonio import read_lines, writing
from dqo.settings.checking import Strict, check

LOCK = ".lock"
STATE = "trainer_state.json"
KEY = "dqo"  # of what the trainers keep in TRL's state
_GRACE = 1.0  # seconds; a sweep that looks whether a folder is free holds its lock for a moment


class RunPaths:
    """Places of the files of a run.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        self.config = self.path / "config.yaml"
        self.resolved = self.path / "resolved.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.final = self.checkpoints / "final"
        self.eval = self.path / "eval"


def check_unchanged(
    place: str | Path, before: Mapping[str, Any], now: Mapping[str, Any], expected: str, remedy: str
) -> None:
    """Refuses to go on with what was begun with other settings, those `before` in the file `place`.

    The RecipeError names the first that differs; `expected` says what the file should be.
    """
    for name, value in now.items():
        if before.get(name) != value:
            raise RecipeError(
                f"{place}: expected {expected}, but {name!r} was {before.get(name)!r} and is now {value!r}; {remedy}."
            )


class _Step(Strict, extra="ignore"):
    step: int


def read_steps(path: str | Path) -> list[dict[str, Any]]:
    """Reads a metrics.jsonl, the log of a training that may still go on.

    Returns one object per step in the order of the steps, of several for one step the last. DataError for a file that
    cannot be read, or a line that is no JSON object with a whole number as `step`.
    """
    by_step = {}
    for _, place, row in read_lines(path, "metrics.jsonl", whole_lines=True):
        by_step[check(_Step, row, place, error=DataError).step] = row
    return [by_step[step] for step in sorted(by_step)]


@contextmanager
def owning(folder: str | Path, name: str = LOCK, grace: float = _GRACE) -> Iterator[None]:
    """Holds a folder, made when missing, as its only writer, by an OS lock that the death of its owner frees at once.

    The thread that holds a folder may take it again. Locks of other names are other locks. Another owner is waited for
    during `grace` seconds, -1 as long as it takes; then a FolderBusyError names its process.
    """
    path = Path(folder) / name
    # A soft lock would outlive an owner that was killed.
    lock = FileLock(path, is_singleton=True, fallback_to_soft=False)
    try:
        with writing(folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=grace)
            _sign(path)
    except Timeout:
        holder = ""
        with suppress(OSError):
            holder = path.read_text(encoding="utf-8", errors="replace")
        raise FolderBusyError(
            f"{folder}: expected a folder that no other process writes to, but {holder or 'another process'} does; "
            "wait for it, stop it, or choose another folder."
        ) from None
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            path.unlink(missing_ok=True)  # while it is held; whoever waits for it sees that and makes a new file
        lock.release()


def _sign(path: Path) -> None:
    # In place, because another file would be another lock.
    command = shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])
    signature = f"process {os.getpid()} (`{command}`, since {time.strftime('%Y-%m-%d %H:%M:%S')})"
    path.write_text(f"{signature} on {socket.gethostname()}", encoding="utf-8", errors="backslashreplace")


# TRL writes trainer_state.json last. The trainers put a list of all other files into it, each with its size, and have
# flushed those files to disk before. So a checkpoint that has the list was written to its end, and one that lost a file
# or a part of one afterwards shows it.


class Search(NamedTuple):
    """What was found in a folder of checkpoints.

    Attributes:
        newest: The whole checkpoint of the most steps; None where there is none.
        skipped: Newer ones, each with what is wrong with it, newest first.
    """

    newest: Path | None
    skipped: list[tuple[Path, str]]

    @property
    def damaged(self) -> list[Path]:
        """Skipped checkpoints that had been written to their end: no kill damages those."""
        return [path for path, reason in self.skipped if not reason.startswith(STATE)]


def newest_whole(folder: str | Path) -> Search:
    """Looks for the newest whole checkpoint in a folder of checkpoint-N, which need not exist."""
    found = [path for path in Path(folder).glob("checkpoint-*") if path.name[11:].isdecimal()]
    skipped = []
    for path in sorted(found, key=lambda path: int(path.name[11:]), reverse=True):
        reason = damage(path)
        if reason is None:
            return Search(path, skipped)
        skipped.append((path, reason))
    return Search(None, skipped)


def damage(checkpoint: Path) -> str | None:
    """Names the file that keeps a checkpoint from being resumed; None where the checkpoint is whole."""
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        files = state["stateful_callbacks"][KEY]["files"]
    except FileNotFoundError:
        return f"{STATE} is missing, so it was not written to its end"
    except (OSError, ValueError, LookupError, TypeError):
        return f"{STATE} cannot be read"
    for name, size in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
    return None


def list_files(checkpoint: str | Path) -> dict[str, int]:
    """Flushes the files of a checkpoint, all but trainer_state.json, and returns path -> bytes."""
    folder, sizes = Path(checkpoint), {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / STATE:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    return sizes
