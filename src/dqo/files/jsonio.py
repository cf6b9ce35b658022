"""Reads and writes JSON and UTF-8 of files that anybody may have written; whatever is wrong is one `DataError`."""

import errno
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dqo.errors import DataError


def read_text(path: str | Path, what: str) -> str:
    """Reads a UTF-8 file; a byte order mark at its start is passed over.

    Args:
        path: The file.
        what: What it should be, such as "JSON-lines file", for messages.

    Returns:
        The text.

    Raises:
        DataError: A file that cannot be read or is no UTF-8.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a readable {what}, got {error.strerror or error}.") from error
    except ValueError as error:  # a NUL in the path
        raise DataError(f"{str(path)!r}: expected the path of a {what}, got {error}; correct it.") from error
    return from_utf8(path, content)


def from_utf8(path: str | Path, content: bytes) -> str:
    """Decodes the bytes of a file; arguments, result and errors as for `read_text`."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        remedy = "unpack the file first" if content[:2] == b"\x1f\x8b" else "save the file as UTF-8"
        raise DataError(
            f"{path}: expected UTF-8, got byte {error.object[error.start]:#04x} at offset {error.start}; {remedy}."
        ) from error


def parse_object(text: str, place: str, what: str = "JSON object") -> dict[str, Any]:
    """Parses one JSON object.

    Args:
        text: JSON.
        place: File, and line where there are several, for messages.
        what: What it should be, for messages.

    Returns:
        Its fields; every number is finite.

    Raises:
        DataError: No JSON, NaN or infinity, a number that overflows, nesting too deep, or something that is no object.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: expected one {what}, got {error}.") from error
    if not isinstance(value, dict):
        raise DataError(f"{place}: expected a JSON object, got {text.strip()[:80]}.")
    return value


def to_json(path: str | Path, value: Any, indent: int | None = None) -> str:
    """Formats a value as JSON of finite numbers; raises a DataError that names `path` where it cannot."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError as error:
        raise DataError(f"{path}: expected finite numbers to write as JSON, got NaN or infinity ({error}).") from error
    except RecursionError as error:
        raise DataError(f"{path}: expected JSON of some hundred levels at most, got more; flatten it.") from error


def to_utf8(path: str | Path, text: str) -> bytes:
    """Encodes the text of a file; raises a DataError that names `path` for a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{path}: expected text to write as UTF-8, got the lone surrogate {text[error.start]!a}, half a character; "
            "replace it."
        ) from error


def is_number(value: Any) -> bool:
    """Tells whether a JSON value is a finite number; a boolean is none, nor is what a double cannot hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308


# What the standard library lets through is refused: NaN here, numbers that overflow and lone surrogates elsewhere.
def _refuse(constant: str) -> float:
    raise ValueError(f"the number {constant}, which JSON does not have")


def _finite(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise ValueError(f"the number {digits[:40]}, which overflows")
    return value


# Failures to write our own files become one sentence. Any other OSError is a lost connection or a bug, and stays.

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of flock, on some network file systems
# how torch and safetensors report a failed write: as errors without a number
_TORCH_WRITER = ("PytorchStreamWriter", "inline_container.cc")  # the second on closing a file that was cut short
_SAFETENSORS_WRITER = "I/O error"


@contextmanager
def writing(place: str | Path, remedy: str = "") -> Iterator[None]:
    """Turns a failure to write a file into a sentence that names it.

    The block should do nothing but write: an error without a file's name counts where the disk is full or gives no
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
        raise _explain(place, error, remedy) from error


def _failed_to_write(error: Exception, place: Path) -> bool:
    if isinstance(error, RuntimeError):
        return any(words in str(error) for words in _TORCH_WRITER)
    if not isinstance(error, OSError):  # the class by its name, so that a reader of JSON need not load safetensors
        return type(error).__name__ == "SafetensorError" and _SAFETENSORS_WRITER in str(error)
    if error.filename is None:
        return error.errno in (*_FULL, *_NO_LOCKS)
    file, place = Path(str(error.filename)).absolute(), place.absolute()
    return file.is_relative_to(place) or place.is_relative_to(file) or file.parent == place.parent


def _explain(place: str | Path, error: Exception, remedy: str) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())[:240]
    if not isinstance(error, OSError) or error.errno in _FULL:
        there = next(above for above in (Path(place).absolute(), *Path(place).absolute().parents) if above.is_dir())
        advice = f"free space, of which {shutil.disk_usage(there).free / 1e9:.1f} GB are left"
    elif error.errno in _NO_LOCKS:
        advice = "its file system gives no locks (flock): mount it with them, or choose another place"
    else:
        advice = "make the place writable, or choose another"
    return DataError(f"{place}: writing failed ({reason}); {advice}{remedy and f', then {remedy}'}.")
