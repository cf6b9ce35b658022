"""Reads what servers that speak OpenAI's protocol say: replies, and refusals of parameters."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_LENGTHS = ("max_tokens", "max_completion_tokens")
_ABOUT_THE_PROMPT = ("content_filter", "content_policy_violation", "context_length_exceeded", "invalid_prompt",
                     "moderation_blocked", "messages", "prompt")  # fmt: skip
_TOO_LONG = re.compile(r"(?i)too (large|long|big|high)|context|greater|exceed|at most|at least|maximum|must be|reduce")
# Why a response ended, in the words of servers and of tools that write down what one said.
_ENDS = {
    "stop": "eos", "eos": "eos", "eos_token": "eos", "end_turn": "eos", "stop_sequence": "eos", "completed": "eos",
    "length": "length", "max_tokens": "length", "max_output_tokens": "length", "max_length": "length",
    "model_length": "length",
}  # fmt: skip
UNKNOWN = "unknown"  # a finish that nothing tells


class Reply(NamedTuple):
    """Text of a reply and why it ended: "eos", "length", or the server's own word for anything else."""

    text: str
    finish: str


class NoAnswer(Exception):
    """A document with status 200 and no answer in it; `status_code` is the one that the document itself names."""

    def __init__(self, reason: str, status_code: Any = None):
        super().__init__(reason)
        self.status_code = status_code if isinstance(status_code, int) else None


def read_reply(document: Any) -> Reply:
    """Reads the first choice of a chat completion; its text is "" where the model only thought, or was cut off so."""
    if not isinstance(document, dict):
        raise NoAnswer(f"{str(document)[:120]!r} in place of a chat completion")
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    if failed := document.get("error") or choice.get("error"):
        raise NoAnswer(_message(failed), failed.get("code") if isinstance(failed, dict) else None)
    message, said = choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, dict):
        raise NoAnswer(f"a chat completion without message: {json.dumps(document)[:120]}")
    finish = read_end(said)
    text = _read_text(message.get("content"))
    if not text and message.get("refusal"):
        raise NoAnswer(f"a refusal: {str(message['refusal'])[:120]}")
    # A field of its own, which is no part of the answer.
    thought = message.get("reasoning_content") or message.get("reasoning")
    silent = text is None and finish != "length" and not thought
    if silent or (not text and finish not in ("eos", "length", UNKNOWN)):
        raise NoAnswer(f"no text, finish reason {finish}")
    return Reply(text or "", finish)


def read_end(said: Any) -> str:
    """Reads why a response ended, in our words where there is one."""
    return _ENDS.get(str(said).lower(), str(said)) if said else UNKNOWN


def read_usage(document: Any) -> dict[str, int]:
    """Reads how many tokens a server says it read and wrote; 0 where it does not say."""
    usage = document.get("usage") if isinstance(document, dict) else None
    counted = usage if isinstance(usage, dict) else {}
    found = {"tokens_read": counted.get("prompt_tokens"), "tokens_written": counted.get("completion_tokens")}
    return {name: count if type(count) is int else 0 for name, count in found.items()}


def _read_text(content: Any) -> str | None:
    """Reads a string, or the text parts of a list."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part for part in parts if isinstance(part, str)) if parts else None
    if content is None:
        return None
    if not isinstance(content, str):
        raise NoAnswer(f"a message whose content is {json.dumps(content)[:60]}")
    # JSON can hold half characters, UTF-8 cannot: some servers cut a stream in the middle of one.
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_words(error: BaseException) -> str:
    """Reads what a server said about an error, in its own words, on one line of at most 300 characters."""
    words = " ".join(_message(getattr(error, "body", None) or str(error)).split()).rstrip(" .:")
    return words if len(words) <= 300 else words[:300].rsplit(" ", 1)[0] + " …"


def _message(body: Any) -> str:
    if isinstance(body, dict):
        for key in ("message", "detail", "error", "msg"):
            if body.get(key):
                return _message(body[key])
    if isinstance(body, list) and body and isinstance(body[0], dict):
        return "; ".join(f"{'.'.join(map(str, e.get('loc') or []))} {_message(e)}".strip() for e in body if e)
    return body if isinstance(body, str) else json.dumps(body)


def refused_parameter(error: Any, sent: Mapping[str, Any]) -> str | None:
    """Finds the parameter that a server refuses; None where the refusal is about something else, such as the prompt."""
    if error.status_code not in (400, 415, 422, 501) or {error.code, str(error.param)} & {*_ABOUT_THE_PROMPT}:
        return None
    said = _message(error.body or str(error))
    # The server may point at the parameter; else it is the first that its sentence speaks of.
    places = {name: place for name in sent if (place := _mention(name, f"{error.param} {said}")) is not None}
    name = min(places, key=places.__getitem__, default=None)
    # Many servers lack this one, and few name it.
    if name is None:
        return "response_format" if "response_format" in sent else None
    if name in _LENGTHS and _TOO_LONG.search(said):
        return None
    return name


def _mention(name: str, text: str) -> int | None:
    """Where a text speaks of a parameter."""
    if name in ("model", "messages", "input"):
        return None
    other = "|json_schema|structured output|guided|grammar" * (name == "response_format")
    words = name.replace("_", "[_ ]?")
    found = re.search(rf"(?i)(?<![A-Za-z0-9_])(?:{words}{other})(?![A-Za-z0-9_])", text)
    return found and found.start()


def without(body: Mapping[str, Any], refused: Iterable[str]) -> dict[str, Any]:
    """Leaves out of a request what a server refuses, or sends the length by its other name."""
    refused, kept = set(refused), dict(body)
    for name, other in (_LENGTHS, _LENGTHS[::-1]):
        if name in refused and name in kept and other not in refused:
            kept.setdefault(other, kept[name])
    return {name: value for name, value in kept.items() if name not in refused}
