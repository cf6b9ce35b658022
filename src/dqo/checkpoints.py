"""Finds the newest checkpoint of a run that can be resumed: every file is there, in full. Standard library only.

TRL writes trainer_state.json last. The trainers put a list of all other files into it, each with its size, and have
flushed those files to disk before: so a checkpoint that has the list was written to its end, and one that lost a file
or a part of one afterwards shows it.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
