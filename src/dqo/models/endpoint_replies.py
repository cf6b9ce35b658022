"""Reads what a server that speaks OpenAI's protocol says: answers, lists of models, and refusals of parameters."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

LENGTHS = ("max_tokens", "max_completion_tokens")
NEARLY_ZERO = 0.01  # for servers that refuse temperature 0
ZERO = "temperature 0"
_PROMPT_S_OWN = ("content_filter", "content_policy_violation", "context_length_exceeded", "invalid_prompt",
                 "moderation_blocked")  # fmt: skip
_TOO_LONG = re.compile(r"(?i)too (large|long|big|high)|context|greater|exceed|at most|at least|maximum|must be|reduce")
_ALIASES = {"response_format": ("json_schema", "structured output", "guided", "grammar")}
_ENDED = {"stop": "eos", "eos_token": "eos", "end_turn": "eos", "max_tokens": "length", "max_length": "length"}


class Reply(NamedTuple):
    """Text of a reply and why it ended: "eos", "length", or the server's own word for anything else."""

    text: str
    finish: str


class NoAnswer(Exception):
    """A document with status 200 and no answer in it.

    Args:
        reason: What the document says instead.
        code: Status that the document itself names, if any.
    """

    def __init__(self, reason: str, code: Any = None):
        super().__init__(reason)
        self.code = code if isinstance(code, int) else None


def read_reply(document: Any) -> Reply:
    """The first choice of a chat completion; what a reasoning model thinks in fields of its own is no part of it.

    Args:
        document: JSON of any kind.

    Returns:
        Text and finish reason; the text is "" where the model only thought, or reached the limit before it answered.

    Raises:
        NoAnswer: No choice, no message, an error in place of them, a refusal, or a filtered answer.
    """
    if not isinstance(document, dict):
        raise NoAnswer(f"{str(document)[:120]!r} in place of a chat completion")
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    failed = document.get("error") or (isinstance(choice, dict) and choice.get("error"))
    if failed:
        raise NoAnswer(_words(failed), failed.get("code") if isinstance(failed, dict) else None)
    if not isinstance(choice, dict):
        raise NoAnswer(f"a chat completion without choices: {json.dumps(document)[:120]}")
    message, said = choice.get("message"), choice.get("finish_reason")
    finish = _ENDED.get(str(said).lower(), str(said)) if said else "unknown"
    if not isinstance(message, dict):
        raise NoAnswer(f"no message, finish reason {finish}")
    text = _text(message.get("content"))
    thought = message.get("reasoning_content") or message.get("reasoning")
    if not text and message.get("refusal"):
        raise NoAnswer(f"a refusal: {str(message['refusal'])[:120]}")
    if (not text and finish not in ("eos", "length", "unknown")) or (
        text is None and finish != "length" and not thought
    ):
        raise NoAnswer(f"no text, finish reason {finish}")
    return Reply(text or "", finish)


def read_models(document: Any) -> dict[str, str]:
    """Names and owners of a list of models, in any of the forms that servers give it; empty where it is none."""
    if isinstance(document, dict):
        document = document.get("data") or document.get("models")
    named = {}
    for entry in document if isinstance(document, list) else []:
        fields = entry if isinstance(entry, dict) else {"id": entry}
        name = fields.get("id") or fields.get("name") or fields.get("model")
        if isinstance(name, str):
            named[name] = str(fields.get("owned_by") or "unknown")
    return named


def detail(error: BaseException) -> str:
    """What a server said about an error, in its own words, on one line of at most 300 characters."""
    body = getattr(error, "body", None)
    words = " ".join((_words(body) if body else str(error)).split()).rstrip(" .:")
    return words if len(words) <= 300 else words[:300].rsplit(" ", 1)[0] + " …"


def refused_parameter(error: Any, sent: Mapping[str, Any]) -> str | None:
    """The parameter of a request that a server refuses.

    Args:
        error: Of the package openai, with the server's answer.
        sent: Body of the request.

    Returns:
        Its name, `ZERO` for a temperature of 0; None where the refusal is about something else, such as the prompt.
    """
    body = error.body
    own = error.code in _PROMPT_S_OWN or (isinstance(error.param, str) and error.param in ("messages", "prompt"))
    if error.status_code not in (400, 415, 422, 501) or own:
        return None
    said = detail(error)
    names = [name for name in sent if name not in ("model", "messages", "input")]
    found = [part for part in _places(body) if part in names]
    if not found:  # the earliest that the sentence speaks of
        places = {name: place for name in names if (place := _mention(name, _words(body) if body else said)) >= 0}
        found = sorted(places, key=places.__getitem__)
    if not found and "response_format" in sent:  # the one that many servers lack and few name
        return "response_format"
    if not found or (found[0] in LENGTHS and _TOO_LONG.search(said)):
        return None
    return ZERO if found[0] == "temperature" and sent["temperature"] == 0 else found[0]


def without(body: Mapping[str, Any], refused: Iterable[str]) -> dict[str, Any]:
    """A request without what a server refuses.

    Args:
        body: What would be sent.
        refused: As `refused_parameter` names them.

    Returns:
        The body; a refused limit of the length goes by its other name, and a refused temperature of 0 is nearly 0.
    """
    refused, kept = set(refused), dict(body)
    for name, other in (LENGTHS, LENGTHS[::-1]):
        if name in refused and name in kept and other not in refused:
            kept.setdefault(other, kept[name])
    if ZERO in refused and kept.get("temperature") == 0:
        kept["temperature"] = NEARLY_ZERO
    return {name: value for name, value in kept.items() if name not in refused}


def _places(body: Any) -> list[str]:
    """What a refusal points at: `param` of OpenAI's form, `loc` of FastAPI's."""
    if not isinstance(body, dict):
        return []
    pointers = [body.get("param")]
    entries = body.get("detail")
    for entry in entries if isinstance(entries, list) else []:
        pointers += list(entry.get("loc") or []) if isinstance(entry, dict) else []
    return [re.split(r"[.\[]", pointer.removeprefix("body."))[0] for pointer in pointers if isinstance(pointer, str)]


def _mention(name: str, text: str) -> int:
    """Where a text speaks of a parameter; -1 where it does not."""
    forms = [re.escape(name).replace("_", "[_ ]?"), *map(re.escape, _ALIASES.get(name, ()))]
    found = re.search(rf"(?i)(?<![A-Za-z0-9_])(?:{'|'.join(forms)})(?![A-Za-z0-9_])", text)
    return found.start() if found else -1


def _words(body: Any) -> str:
    """The message of an error's body, whatever its form."""
    if isinstance(body, dict):
        for key in ("message", "detail", "error", "msg"):
            if body.get(key):
                return _words(body[key])
    if isinstance(body, list) and body and isinstance(body[0], dict):
        return "; ".join(f"{'.'.join(map(str, e.get('loc') or []))} {_words(e)}".strip() for e in body if e)
    return body if isinstance(body, str) else json.dumps(body)


def _text(content: Any) -> str | None:
    """The text of a message: a string, or the text parts of a list; None where there is neither.

    Half characters, which JSON can hold and UTF-8 cannot, become the replacement character: some servers cut a stream
    in the middle of a character, and tokenizers read such bytes the same way.
    """
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part for part in parts if isinstance(part, str)) if parts else None
    if content is None:
        return None
    if not isinstance(content, str):
        raise NoAnswer(f"a message whose content is {json.dumps(content)[:60]}")
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
