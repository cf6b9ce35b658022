"""Reading metrics.jsonl, the log of a training run, checked; it may still be written. Standard library only."""

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dqo.errors import DataError, FolderBusyError, RecipeError
from dqo.files.jsonio import from_utf8, is_number, parse_object, writing


def read_steps(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl.

    Args:
        path: The file.

    Returns:
        One object a step in the order of the steps, of several for one step the last; `step` is a whole number, and
        numbers are finite. Half a line at the end is one that is being written and is passed over.

    Raises:
        DataError: A file that cannot be read, no UTF-8, or a line that is no JSON object with a step.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a readable metrics.jsonl, got {error.strerror or error}.") from error
    whole = from_utf8(path, content[: content.rfind(b"\n") + 1])  # half a character may end what is being written
    by_step = {}
    for number, line in enumerate(whole.split("\n"), start=1):
        if line.strip():
            row = parse_object(line, f"{path}, line {number}")
            step = row.get("step")
            if not isinstance(step, int) or isinstance(step, bool) or not is_number(step):
                raise DataError(f"{path}, line {number}: expected a JSON object with a whole number as `step`, got "
                                f"{line[:60]!r}; remove that line.")  # fmt: skip
            by_step[step] = {name: value for name, value in row.items() if _finite(value)}
    return [by_step[step] for step in sorted(by_step)]


def _finite(value: Any) -> bool:
    return not isinstance(value, int | float) or isinstance(value, bool) or is_number(value)


def check_unchanged(
    place: str | Path, before: Mapping[str, Any], now: Mapping[str, Any], expected: str, remedy: str
) -> None:
    """Refuses to go on with what was begun with other settings.

    Args:
        place: File that holds the earlier settings, for messages.
        before: Those settings.
        now: Settings of the continuation.
        expected: What the file should be, for messages.
        remedy: What to do about a difference, for messages.

    Raises:
        RecipeError: Names the first setting that differs.
    """
    for name, value in now.items():
        if before.get(name) != value:
            raise RecipeError(
                f"{place}: expected {expected}, but {name!r} was {before.get(name)!r} and is now {value!r}; {remedy}."
            )


# Gives a folder one owner at a time, by an OS lock that the death of its owner frees at once.

LOCK = ".lock"
_GRACE = 1.0  # seconds; a sweep that looks whether a folder is free holds its lock for a moment
_LONGEST = 200  # characters of a command that are shown


@contextmanager
def owning(folder: str | Path, name: str = LOCK, grace: float = _GRACE) -> Iterator[None]:
    """Holds a folder as its only writer; the thread that holds it may take it again.

    Args:
        folder: Made when missing.
        name: File of the lock; those of other names are other locks.
        grace: Seconds to wait for another owner; -1 waits as long as it takes.

    Raises:
        FolderBusyError: Another process, or another thread of this one, holds it; names that process.
        DataError: The folder cannot be written.
    """
    path = Path(folder) / name
    lock = _lock(path)
    try:
        with writing(folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=grace)
    except Timeout:
        raise FolderBusyError(
            f"{folder}: expected a folder that no other process writes to, but {_signature(path)} does; wait for it, "
            "stop it, or choose another folder."
        ) from None
    try:
        if lock.lock_counter == 1:
            with writing(folder):
                _sign(path)
        yield
    finally:
        if lock.lock_counter == 1:
            path.unlink(missing_ok=True)  # while it is held; whoever waits for it sees that and makes a new file
        lock.release()


def owner(folder: str | Path, name: str = LOCK) -> str | None:
    """Describes the other process that holds a folder.

    Args:
        folder: It need not exist.
        name: File of the lock.

    Returns:
        Its number, command and start in words; None where the folder is free.
    """
    path = Path(folder) / name
    if not path.exists():
        return None
    try:
        with _lock(path).acquire(timeout=0):
            return None
    except Timeout:
        return _signature(path)


def _lock(path: Path) -> FileLock:
    # a soft lock would outlive an owner that was killed
    return FileLock(path, is_singleton=True, fallback_to_soft=False)


def _sign(path: Path) -> None:
    """Writes into the lock file who holds it; in place, because another file would be another lock."""
    command = shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    content = {"process": os.getpid(), "host": socket.gethostname(), "command": command[:_LONGEST], "since": since}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _signature(path: Path) -> str:
    """Says who holds a lock, as far as its file tells: a new owner may not have signed yet."""
    try:
        signed = json.loads(path.read_text(encoding="utf-8"))
        elsewhere = "" if signed["host"] == socket.gethostname() else f" on {signed['host']}"
        return f"process {signed['process']}{elsewhere} (`{signed['command']}`, since {signed['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


# Finds the newest checkpoint of a run that can be resumed: every file is there, in full. Standard library only.
#
# TRL writes trainer_state.json last. The trainers put a list of all other files into it, each with its size, and have
# flushed those files to disk before: so a checkpoint that has the list was written to its end, and one that lost a file
# or a part of one afterwards shows it.

STATE = "trainer_state.json"
KEY = "dqo"  # of what the trainers keep in the host's state


@dataclass(frozen=True)
class Search:
    """What was found in a folder of checkpoints.

    Attributes:
        newest: The whole checkpoint of the most steps; None where there is none.
        skipped: Newer ones, each with what is wrong with it, newest first.
    """

    newest: Path | None
    skipped: list[tuple[Path, str]]

    @property
    def damaged(self) -> list[Path]:
        """The skipped ones that had been written to their end: no kill does that."""
        return [path for path, reason in self.skipped if not reason.startswith(STATE)]


def newest_whole(folder: str | Path) -> Search:
    """Look for the checkpoint to go on from.

    Args:
        folder: Holds checkpoint-N; it need not exist.

    Returns:
        The newest whole checkpoint and those that were passed over.
    """
    found = [path for path in Path(folder).glob("checkpoint-*") if path.name[11:].isdecimal()]
    skipped = []
    for path in sorted(found, key=lambda path: int(path.name[11:]), reverse=True):
        reason = flaw(path)
        if reason is None:
            return Search(path, skipped)
        skipped.append((path, reason))
    return Search(None, skipped)


def flaw(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being resumed.

    Args:
        checkpoint: Its folder.

    Returns:
        A few words that name the file; None where it is whole. Of a checkpoint without a list of its files only the
        state and the presence of weights and of random states can be told.
    """
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        files = state["stateful_callbacks"].get(KEY, {}).get("files")
    except FileNotFoundError:
        return f"{STATE} is missing, so it was not written to its end"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{STATE} cannot be read"
    if files is None:
        if not any(checkpoint.glob("*.safetensors")):
            return "it holds no weights"
        return None if any(checkpoint.glob("rng_state*.pth")) else "it holds the weights alone"
    return _first_difference(checkpoint, files)


def remembered(checkpoint: str | Path) -> dict[str, Any]:
    """What the parts of a run had in memory when a checkpoint was written.

    Args:
        checkpoint: The folder of a whole one.

    Returns:
        Name -> state; empty for a checkpoint of the host alone.
    """
    state = json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))
    return state["stateful_callbacks"].get(KEY, {})


def list_files(checkpoint: str | Path) -> dict[str, int]:
    """Flush the files of a checkpoint to disk and take down their sizes.

    Args:
        checkpoint: Its folder, everything but trainer_state.json written.

    Returns:
        Path inside the folder -> bytes.

    Raises:
        OSError: A file that cannot be flushed, on a full disk for one.
    """
    folder = Path(checkpoint)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / STATE)

    def flushed(path: Path) -> int:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        return path.stat().st_size

    with ThreadPoolExecutor() as threads:  # the disk takes many flushes at once
        sizes = threads.map(flushed, paths)
        return {path.relative_to(folder).as_posix(): size for path, size in zip(paths, sizes, strict=True)}


def _first_difference(checkpoint: Path, files: dict[str, int]) -> str | None:
    for name, size in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
    return None
