"""Failures to write our own files, told in one sentence; any other OSError is a lost connection or a bug, and stays."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dqo.errors import DataError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of flock, on some network file systems
# how torch and safetensors report a failed write: as errors without a number
_TORCH_WRITER = ("PytorchStreamWriter", "inline_container.cc")  # the second on closing a file that was cut short
_SAFETENSORS_WRITER = "I/O error"


@contextmanager
def writing(place: str | Path, remedy: str = "") -> Iterator[None]:
    """Turns a failure to write a file into a sentence that names it.

    The block should do nothing but write: an error without a file's name is told where the disk is full or gives no
    locks, and an error about a file only where that file lies at the place or below.

    Args:
        place: The file, or the folder that is written into.
        remedy: What to do once there is room, such as "add --resume".

    Raises:
        DataError: In the place of the writer's error.
    """
    try:
        yield
    except Exception as error:
        if not _failed_to_write(error, Path(place)):
            raise
        raise _told(place, error, remedy) from error


def _failed_to_write(error: Exception, place: Path) -> bool:
    if isinstance(error, RuntimeError):
        return any(words in str(error) for words in _TORCH_WRITER)
    if not isinstance(error, OSError):  # the class by its name, so that a reader of JSON need not load safetensors
        return type(error).__name__ == "SafetensorError" and _SAFETENSORS_WRITER in str(error)
    if error.filename is None:
        return error.errno in (*_FULL, *_NO_LOCKS)
    file, place = Path(str(error.filename)).absolute(), place.absolute()
    return file.is_relative_to(place) or place.is_relative_to(file) or file.parent == place.parent


def _told(place: str | Path, error: Exception, remedy: str) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())[:240]
    if not isinstance(error, OSError) or error.errno in _FULL:
        there = next(above for above in (Path(place).absolute(), *Path(place).absolute().parents) if above.is_dir())
        advice = f"free space, of which {shutil.disk_usage(there).free / 1e9:.1f} GB are left"
    elif error.errno in _NO_LOCKS:
        advice = "its file system gives no locks (flock): mount it with them, or choose another place"
    else:
        advice = "make the place writable, or choose another"
    return DataError(f"{place}: writing failed ({reason}); {advice}{remedy and f', then {remedy}'}.")
