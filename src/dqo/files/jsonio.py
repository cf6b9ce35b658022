"""Reads and writes JSON and UTF-8 of files that anybody may have written; whatever is wrong is one `DataError`."""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dqo.errors import DataError

_OBJECT = TypeAdapter(dict[str, Any])


def read_text(path: str | Path, what: str) -> str:
    """Reads a UTF-8 file without its byte order mark; `what`, such as "JSON-lines file", is for messages."""
    return "".join(_decoded(path, what))


def read_lines(path: str | Path, what: str, *, whole_lines: bool = False) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yields (number of the line, its place for messages, fields), holding one line at a time.

    `whole_lines` leaves out a last line without end, which may be in the making and end in half a character. Else as
    `read_text` and `parse_object`.
    """
    for number, line in enumerate(_decoded(path, what, whole_lines), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield number, place, parse_object(line, place)


def _decoded(path: str | Path, what: str, whole_lines: bool = False) -> Iterator[str]:
    """Yields the lines with their ends."""
    offset = 0
    try:
        with Path(path).open("rb") as file:
            # Lines of bytes end at the line feed and nowhere else: U+2028 and its relatives are ordinary characters
            # inside a JSON string, so `str.splitlines` would cut records in two.
            for line in file:
                if not whole_lines or line.endswith(b"\n"):
                    yield line.decode("utf-8" if offset else "utf-8-sig")
                offset += len(line)
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#04x} at offset {offset + error.start}"
        raise DataError(f"{path}: expected UTF-8, got {found}; save the file as UTF-8.") from error
    except (OSError, ValueError) as error:  # the second for a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: expected a readable {what}, got {reason}; correct the path.") from error


def parse_object(text: str, place: str) -> dict[str, Any]:
    """Parses one JSON object, which stands at a place for messages.

    DataError for no JSON, a number that is not finite, half a character, nesting too deep, or no object.
    """
    try:
        value = _OBJECT.validate_json(text)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise DataError(f"{place}: expected one JSON object, got {text.strip()[:80]!a} ({reason}).") from error
    to_json(place, value)  # the parser takes NaN and 1e999, which could not be written with the results, hours later
    return value


def to_json(path: str | Path, value: Any, indent: int | None = None) -> str:
    """Formats a value as JSON of finite numbers; raises a DataError that names `path` where it cannot."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError as error:
        raise DataError(f"{path}: expected finite numbers in JSON, got another ({error}).") from error


def to_utf8(path: str | Path, text: str) -> bytes:
    """Encodes the text of a file; raises a DataError that names `path` for a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        found = f"the lone surrogate {text[error.start]!a}, half a character"
        raise DataError(f"{path}: expected text to write as UTF-8, got {found}; replace it.") from error


def is_number(value: Any) -> bool:
    """Tells whether a JSON value is a finite number; a boolean is none, nor is what a double cannot hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308


# Failures to write our own files become one sentence. Any other OSError is a lost connection or a bug, and stays.

_ADVICE = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free space") | dict.fromkeys(
    (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP),  # of flock, on some network file systems
    "its file system gives no locks (flock): mount it with them, or choose another place",
)
# How torch and safetensors report a full disk: as errors without a number. The second is of closing a file cut short.
_FULL = ("PytorchStreamWriter", "inline_container.cc", "Error while serializing: I/O error")


@contextmanager
def writing(place: str | Path, remedy: str = "") -> Iterator[None]:
    """Turns a failure to write into a DataError that names the place, a file or the folder that is written into.

    The block should do nothing but write: an error without a file's name counts where the disk is full or gives no
    locks, and an error about a file only where that file lies at the place or below. `remedy`, such as "add --resume",
    says what to do once there is room.
    """
    try:
        yield
    except Exception as error:
        if not _failed_to_write(error, Path(place).absolute()):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:240]
        advice = _ADVICE.get(getattr(error, "errno", errno.ENOSPC), "make the place writable, or choose another")
        raise DataError(f"{place}: writing failed ({reason}); {advice}{remedy and f', then {remedy}'}.") from error


def _failed_to_write(error: Exception, place: Path) -> bool:
    if not isinstance(error, OSError):
        return any(words in str(error) for words in _FULL)
    if error.filename is None:
        return error.errno in _ADVICE
    file = Path(str(error.filename)).absolute()
    return file.is_relative_to(place) or place.is_relative_to(file) or file.parent == place.parent
