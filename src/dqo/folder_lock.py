"""Gives a folder one owner at a time, by an OS lock that the death of its owner frees at once."""

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dqo.errors import FolderBusyError
from dqo.output_files import writing

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
