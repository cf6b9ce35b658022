"""Prompts and groups of responses, and the JSON-lines files that hold them."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

from pydantic import AfterValidator, Field, PlainValidator, TypeAdapter, ValidationInfo, model_validator

from dqo.errors import DataError
from dqo.files.jsonio import read_lines, to_json, to_utf8, writing
from dqo.settings.checking import Strict, check


class Conversation(str):
    """A prompt of several messages: as text a transcript, which is compared, judged and shown.

    Attributes:
        messages: `{"role", "content"}` each, which the policy reads by its chat template; the last is the user's.
    """

    messages: list[dict[str, str]]

    def __new__(cls, messages: list[dict[str, str]]) -> "Conversation":
        """Writes the transcript."""
        made = super().__new__(cls, "\n\n".join(f"{one['role']}: {one['content']}" for one in messages))
        made.messages = messages
        return made

    def __reduce__(self) -> tuple[type, tuple[list[dict[str, str]]]]:
        return Conversation, (self.messages,)


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

    A `finish` is "eos", "length", "unknown", or what a server says beside these, such as "content_filter".
    """

    id: str
    prompt: str
    reference: str | list[str]
    responses: list[str]
    finish: list[str]
    rewards: list[float] | None
    meta: dict[str, Any]


def _not_blank(text: str, info: ValidationInfo) -> str:
    if not text.strip():
        raise ValueError(f"`{info.field_name}` must be text that is not blank, got {text!r}; change the value.")
    return text


_Text = Annotated[str, AfterValidator(_not_blank)]
_Texts = Annotated[list[str], Field(min_length=1)]


class _Message(Strict):
    role: Literal["system", "user", "assistant"]
    content: _Text


_MESSAGES = TypeAdapter(Annotated[list[_Message], Field(min_length=1)])


def _prompt(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        messages = [message.model_dump() for message in _MESSAGES.validate_python(value)]
        if messages[-1]["role"] == "user":
            return messages[0]["content"] if len(messages) == 1 else Conversation(messages)
    elif isinstance(value, str) and value.strip():
        return value
    raise ValueError(
        f"`prompt` must be text that is not blank, or messages of which the last is the user's, got {value!r:.80}; "
        "change the value."
    )


class PromptLine(Strict):
    """A prompt as a data file has it: text, or chat messages as TRL takes them."""

    prompt: Annotated[str, PlainValidator(_prompt, json_schema_input_type=str | list[_Message])]
    reference: str | list[str] = Field(default=[])
    meta: dict[str, Any] = Field(default={})


class _GroupLine(PromptLine):
    id: _Text
    responses: _Texts
    finish: _Texts
    rewards: list[float] | None = None

    @model_validator(mode="before")
    @classmethod
    def _in_our_words(cls, line: Any) -> Any:
        """Reads whole numbers as ids, OpenAI's "stop" as "eos", and no `finish` as not known."""
        responses, ends, own = line.get("responses"), line.get("finish"), line.get("id")
        if isinstance(own, int) and not isinstance(own, bool):
            line = line | {"id": str(own)}
        if ends is None and isinstance(responses, list):
            ends = ["unknown"] * len(responses)
        if isinstance(ends, list):
            line = line | {"finish": ["eos" if end == "stop" else end for end in ends]}
        return line

    @model_validator(mode="after")
    def _check_lengths(self) -> "_GroupLine":
        n = len(self.responses)
        if len(self.finish) != n or "" in self.finish:
            raise ValueError(f'`finish` must be {n} of "eos" or "length", one per response, got {self.finish}.')
        if self.rewards is not None and len(self.rewards) != n:
            raise ValueError(f"`rewards` must be null or {n} numbers, one per response, got {self.rewards}.")
        return self


Record = TypeVar("Record", bound=Any)  # anything with an `id`


def read_prompts(path: str | Path) -> list[Prompt]:
    """Reads a data file, one prompt per line; only `prompt` is required, `reference` defaults to [] and `meta` to {}.

    Blank lines are passed over. DataError names file, line and field of what is wrong in the first bad line.
    """

    def prompt(number: int, place: str, line: dict[str, Any]) -> Prompt:
        found = check(PromptLine, line, place, error=DataError)
        own = found.meta.get("id", f"{Path(path).stem}-{number}")
        if not isinstance(own, str) or not own:
            raise DataError(f"{place}: `meta.id` must be text that is not empty, got {own!r}; change the value.")
        return Prompt(own, **vars(found))

    return read_records(path, prompt)


def read_groups(path: str | Path) -> list[Group]:
    """Reads a `groups.jsonl`; `reference`, `rewards`, `meta` and `finish` may be absent ([], None, {} and "unknown").

    Each `finish` and `rewards` is as long as `responses`. DataError names file, line and field of what is wrong.
    """
    return read_records(path, lambda _, place, line: Group(**vars(check(_GroupLine, line, place, error=DataError))))


def line_of(group: Group) -> dict[str, Any]:
    """Makes the object that a line of a `groups.jsonl` holds; a conversation is written as its messages."""
    return vars(group) | {"prompt": getattr(group.prompt, "messages", group.prompt)}


def write_groups(path: str | Path, groups: Iterable[Group]) -> None:
    """Writes a `groups.jsonl` atomically: a reader sees the old file or the whole new one."""
    with _replacing(path) as file:
        for group in groups:
            file.write(to_utf8(path, to_json(path, line_of(group)) + "\n"))


def append_jsonl(path: str | Path, record: dict[str, Any]) -> None:
    """Appends one JSON line, so that a kill or a full disk can only leave the last line unfinished.

    A last line that was left unfinished goes; processes may append to one file, which is made when missing.
    """
    path = Path(path)
    line = to_utf8(path, to_json(path, record) + "\n")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: a line in the making is not an unfinished one
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            if file.read() not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            while line:  # a disk that fills up takes a part and refuses the rest
                line = line[file.write(line) :]


def write_json(path: str | Path, value: Any) -> None:
    """Writes one JSON document atomically, indented for reading; its folder is made when missing."""
    write_text(path, to_json(path, value, indent=2) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically; its folder is made when missing."""
    write_bytes(path, to_utf8(path, text))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file atomically; its folder is made when missing."""
    with _replacing(path) as file:
        file.write(content)


@contextmanager
def _replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a temporary file, which takes the place of the path once all is written."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def read_records(
    path: str | Path, record_of: Callable[[int, str, dict[str, Any]], Record], what: str = "JSON-lines file"
) -> list[Record]:
    """Reads the records of a file, at least one, their ids unique, given what makes one as `read_lines` yields it."""
    found: dict[str, Record] = {}
    for number, place, line in read_lines(path, what):
        record = record_of(number, place, line)
        if record.id in found:
            raise DataError(f"{place}: expected a unique id, got {record.id!r}, which an earlier line has too.")
        found[record.id] = record
    if not found:
        raise DataError(f"{path}: expected at least one JSON line, got an empty file.")
    return list(found.values())
