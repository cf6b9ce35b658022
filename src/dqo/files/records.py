"""Prompts and groups of responses, and the JSON-lines files that hold them. Standard library only.

A data file has one prompt a line, `{"prompt", "reference", "meta"}`; a `groups.jsonl` has one group a line,
`{"id", "prompt", "reference", "responses", "finish", "rewards", "meta"}`. Lines end at the line feed and nowhere else:
U+2028 and its relatives are ordinary characters inside a JSON string, so `str.splitlines` would cut records in two.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from dqo.errors import DataError
from dqo.files.jsonio import is_number, parse_object, read_text, to_json, to_utf8, writing

_MISSING = object()


@dataclass(frozen=True)
class Prompt:
    """One line of a data file; `id` is `meta["id"]`, or "<file stem>-<line>" where there is none."""

    id: str
    prompt: str
    reference: str | list[str]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Group:
    """The G responses to one prompt; `finish` and `rewards` run parallel to them, `rewards` None means not scored.

    A `finish` is "eos", "length", or what a server says beside these, such as "content_filter".
    """

    id: str
    prompt: str
    reference: str | list[str]
    responses: list[str]
    finish: list[str]
    rewards: list[float] | None
    meta: dict[str, Any]


Record = TypeVar("Record", Prompt, Group)


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read a data file; only `prompt` is required, `reference` defaults to [] and `meta` to {}.

    Args:
        path: UTF-8 JSON lines; blank lines are passed over.

    Returns:
        The prompts in file order, their ids unique.

    Raises:
        DataError: Naming file, line and field of the first thing that is wrong.
    """
    return _unique_ids(path, ((line, _prompt(line, Path(path).stem)) for line in _lines(path, Prompt)))


def read_groups(path: str | Path) -> list[Group]:
    """Read a `groups.jsonl`; `reference`, `rewards` and `meta` may be absent (then [], None and {}).

    Args:
        path: UTF-8 JSON lines as `write_groups` writes them.

    Returns:
        The groups in file order, their ids unique, `finish` and `rewards` as long as `responses`.

    Raises:
        DataError: Naming file, line and field of the first thing that is wrong.
    """
    return _unique_ids(path, ((line, _group(line)) for line in _lines(path, Group)))


def write_groups(path: str | Path, groups: Iterable[Group]) -> None:
    """Write a `groups.jsonl` atomically: a reader sees the old file or the whole new one.

    Args:
        path: The file; its folder is made when missing.
        groups: What to write, one line each.
    """
    write_text(path, "".join(to_json(path, asdict(group)) + "\n" for group in groups))


def append_jsonl(path: str | Path, record: dict[str, Any]) -> None:
    """Append one JSON line, so that a kill can only leave the last line unfinished, and a failed write leaves nothing.

    A last line that a kill has left unfinished goes; processes may append to one file.

    Args:
        path: The file; made when missing, with its folder.
        record: Any JSON object of finite numbers.

    Raises:
        DataError: The file cannot be written, on a full disk for one.
    """
    path = Path(path)
    line = to_utf8(path, to_json(path, record) + "\n")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: a line in the making is not an unfinished one
            end = _end_of_lines(file)
            try:
                while line:  # a disk that fills up takes a part and refuses the rest
                    line = line[file.write(line) :]
            except BaseException:
                file.truncate(end)
                raise


def _end_of_lines(file: FileIO) -> int:
    """Where the next line begins, in bytes, after half a line has been cut off and a whole one ended."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if file.read() in (b"", b"\n"):
        return end
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    try:
        json.loads(content[start:])
    except ValueError:
        file.truncate(start)
        return start
    file.write(b"\n")
    return end + 1


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON document atomically, indented for reading.

    Args:
        path: The file; its folder is made when missing.
        value: Any JSON value of finite numbers.
    """
    write_text(path, to_json(path, value, indent=2) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically (temporary file beside it, then `os.replace`).

    Args:
        path: The file; its folder is made when missing.
        text: The whole content.
    """
    path = Path(path)
    content = to_utf8(path, text)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


class _Line:
    """One parsed line: its fields by type, every complaint with file, line and field."""

    def __init__(self, path: str | Path, number: int, fields: dict[str, Any]):
        self.path, self.number, self.fields = path, number, fields

    def fail(self, field: str, expected: str, came: Any) -> DataError:
        shown = "nothing" if came is _MISSING else json.dumps(came)[:80]
        return DataError(f"{self.path}, line {self.number}, field {field!r}: expected {expected}, got {shown}.")

    def string(self, field: str) -> str:
        value = self.fields.get(field, _MISSING)
        if not _is_text(value) or not value.strip():
            raise self.fail(field, "a non-empty string", value)
        return value

    def strings(self, field: str) -> list[str]:
        value = self.fields.get(field, _MISSING)
        if not _is_texts(value) or not value:
            raise self.fail(field, "a non-empty list of strings", value)
        return value

    def reference(self) -> str | list[str]:
        value = self.fields.get("reference", [])
        if not _is_text(value) and not _is_texts(value):
            raise self.fail("reference", "a string or a list of strings", value)
        return value

    def meta(self) -> dict[str, Any]:
        value = self.fields.get("meta", {})
        if not isinstance(value, dict):
            raise self.fail("meta", "an object", value)
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError):  # it is written again with the responses, hours later
            raise self.fail("meta", "text without lone surrogates, not nested too deeply", "other") from None
        return value


def _prompt(line: _Line, stem: str) -> Prompt:
    meta = line.meta()
    prompt_id = meta.get("id", f"{stem}-{line.number}")
    if not _is_text(prompt_id) or not prompt_id:
        raise line.fail("meta.id", "a non-empty string", prompt_id)
    return Prompt(prompt_id, line.string("prompt"), line.reference(), meta)


def _group(line: _Line) -> Group:
    responses, finish, rewards = line.strings("responses"), line.strings("finish"), line.fields.get("rewards")
    if len(finish) != len(responses) or not all(finish) or "stop" in finish:  # OpenAI's word for "eos"
        raise line.fail("finish", f'{len(responses)} of "eos" or "length", one a response', finish)
    if rewards is not None:
        if not isinstance(rewards, list) or not all(map(is_number, rewards)) or len(rewards) != len(responses):
            raise line.fail("rewards", f"null or {len(responses)} finite numbers, one a response", rewards)
        rewards = [float(reward) for reward in rewards]
    return Group(line.string("id"), line.string("prompt"), line.reference(), responses, finish, rewards, line.meta())


def _lines(path: str | Path, record: type) -> Iterator[_Line]:
    known = [name for name in record.__dataclass_fields__ if (record, name) != (Prompt, "id")]
    text = read_text(path, "JSON-lines file")
    for number, source in enumerate(text.split("\n"), start=1):
        if not source.strip():
            continue
        fields = parse_object(source, f"{path}, line {number}", "JSON object on the line")
        line = _Line(path, number, fields)
        for field in fields:
            if field not in known:
                raise line.fail(field, f"only the fields {', '.join(known)} (others go inside meta)", fields[field])
        yield line


def _unique_ids(path: str | Path, records: Iterable[tuple[_Line, Record]]) -> list[Record]:
    seen: dict[str, int] = {}
    kept = []
    for line, record in records:
        if record.id in seen:
            raise line.fail("id", f"a unique id (line {seen[record.id]} has the same)", record.id)
        seen[record.id] = line.number
        kept.append(record)
    if not kept:
        raise DataError(f"{path}: expected at least one JSON line, got an empty file.")
    return kept


def _is_text(value: Any) -> bool:
    # A lone surrogate ("\ud800" in JSON) cannot be written as UTF-8 and crashes tokenizers.
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))
