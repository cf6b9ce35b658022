"""Reads single fields of rows that other tools write: prompts, completions, references, numbers and settings."""

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from dqo.errors import DataError
from dqo.files.records import Conversation, PromptLine
from dqo.models.chat import completion_text

# Settings of sampling: our name -> those of other tools.
_SETTINGS = {
    "model": ("model",),
    "temperature": ("temperature",),
    "max_new_tokens": ("max_new_tokens", "max_gen_toks", "max_tokens", "max_completion_tokens", "max_output_tokens"),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "system_prompt": ("system_message",),
}


def read_completion(value: Any, place: str) -> str:
    """Reads a response, text or the messages of a turn, as it was sampled; DataError for anything else."""
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
        return completion_text(value).sampled
    if not isinstance(value, str):
        raise DataError(f"{place}: expected a response as text or chat messages, got {value!r:.80}; name its column.")
    return value


def read_prompt(value: Any, place: str) -> str:
    """Reads a prompt: text, or a conversation that ends with the user; DataError for anything else."""
    text = value
    if isinstance(value, list) and (messages := read_messages(value)):
        try:
            return PromptLine(prompt=messages).prompt
        except ValidationError:
            # Tools, or an end that is not the user's: no conversation that could be asked again, but a text to show.
            text = str(Conversation(messages))
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place}: expected a prompt as text or chat messages, got {value!r:.80}; correct the file.")
    return text


def read_messages(value: Any) -> list[dict[str, str]]:
    """Reads messages, or the text of one, as role and text alone."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    found = [message for message in value if isinstance(message, dict)]
    return [{"role": str(one.get("role", "user")), "content": read_content(one.get("content"))} for one in found]


def read_content(content: Any) -> str:
    """Reads the text of a message's content, a string or parts."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def read_references(value: Any) -> str | list[str]:
    """Reads right answers: text stays, a list becomes one of texts, nothing []."""
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple | set):
        return [text for one in value for text in [read_references(one)] if isinstance(text, str)]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def read_number(value: Any) -> float | None:
    """Reads a finite number, also true and false; None for anything else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def settings_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Takes the settings of sampling that are there, by our names."""
    known = {ours: [settings[name] for name in names if settings.get(name) is not None] for ours, names in
             _SETTINGS.items()}  # fmt: skip
    return {ours: values[0] for ours, values in known.items() if values}
