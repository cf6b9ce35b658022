"""JSON and UTF-8 of files that somebody else may have written: every way in which they can be wrong is one sentence.

Standard library only. What the standard library lets through is refused here: NaN, numbers that overflow, and lone
surrogates on writing; what it meets with other exceptions is told as a DataError: nesting without end, a NUL in a path.
"""

import json
import math
from pathlib import Path
from typing import Any

from dqo.errors import DataError


def read_text(path: str | Path, what: str) -> str:
    """The content of a UTF-8 file.

    Args:
        path: The file; a byte order mark at its start is passed over.
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
    except ValueError as error:
        raise DataError(f"{str(path)!r}: expected the path of a {what}, got {error}; correct it.") from error
    return from_utf8(path, content)


def from_utf8(path: str | Path, content: bytes) -> str:
    """Bytes of a file as text.

    Args:
        path: The file, for messages.
        content: What it holds; a byte order mark at its start is passed over.

    Returns:
        The text.

    Raises:
        DataError: No UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        remedy = "unpack the file first" if content[:2] == b"\x1f\x8b" else "save the file as UTF-8"
        raise DataError(f"{path}: expected UTF-8, got byte {error.object[error.start]:#04x} at offset {error.start}; "
                        f"{remedy}.") from error  # fmt: skip


def parse_object(text: str, place: str, what: str = "JSON object") -> dict[str, Any]:
    """The JSON object that a text holds.

    Args:
        text: JSON.
        place: File, and line where there are several, for messages.
        what: What it should be, for messages.

    Returns:
        Its fields; every number finite.

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
    """A value as JSON of finite numbers.

    Args:
        path: Where it is to be written, for messages.
        value: Any JSON value.
        indent: As `json.dumps` takes it.

    Returns:
        The text, without a line feed at its end.

    Raises:
        DataError: NaN, infinity, or nesting too deep.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError as error:
        raise DataError(f"{path}: expected finite numbers to write as JSON, got NaN or infinity ({error}).") from error
    except RecursionError as error:
        raise DataError(f"{path}: expected JSON of some hundred levels at most, got more; flatten it.") from error


def to_utf8(path: str | Path, text: str) -> bytes:
    """A text as the bytes of a file.

    Args:
        path: Where it is to be written, for messages.
        text: The text.

    Returns:
        UTF-8.

    Raises:
        DataError: A lone surrogate, which UTF-8 does not have.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{path}: expected text to write as UTF-8, got the lone surrogate {text[error.start]!a}, half a character; "
            "replace it."
        ) from error


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number; a boolean is none, and neither is what a double cannot hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308


def _refuse(constant: str) -> float:
    raise ValueError(f"the number {constant}, which JSON does not have")


def _finite(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise ValueError(f"the number {digits[:40]}, which overflows")
    return value
