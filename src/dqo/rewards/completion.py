"""The text of a completion as TRL hands it to reward functions: a string, or a list of chat messages."""

from typing import Any


def completion_text(completion: Any) -> str:
    """Text of a completion: the string itself, or the content of the last message of a conversation.

    Args:
        completion: str, or [{"role": ..., "content": str or list of {"type": "text", "text": str}}, ...].

    Returns:
        the text; "" for a conversation without content.
    """
    if isinstance(completion, str):
        return completion
    content = (completion[-1].get("content") if completion else None) or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if part.get("type") == "text")
