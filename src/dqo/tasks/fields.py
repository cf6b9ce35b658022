"""Reading what a task needs from the `meta` of a prompt, which may come from a user's file."""

from typing import Any

from dqo.errors import DataError
from dqo.records import Prompt


def meta_field(prompt: Prompt, field: str, kind: type, task: str) -> Any:
    """One field of a prompt's `meta`, with its type checked; a list must hold one type of item and not be empty.

    Args:
        prompt: The prompt.
        field: Name of the field.
        kind: `int`, `str`, or `list[int]` or `list[str]`.
        task: Name of the task that needs it, for the message.

    Returns:
        The value.

    Raises:
        DataError: A field that is missing or of another type.
    """
    value = prompt.meta.get(field)
    item_kind = getattr(kind, "__args__", [None])[0]
    items = value if isinstance(value, list) and item_kind else [value]
    if not items or not all(type(item) is (item_kind or kind) for item in items) or bool(item_kind) != (items is value):
        expected = f"a non-empty list of {item_kind.__name__}" if item_kind else f"a value of type {kind.__name__}"
        raise DataError(
            f"prompt {prompt.id!r}: the task {task!r} needs {expected} in meta.{field}, got "
            f"{'nothing' if field not in prompt.meta else repr(value)[:80]}; use data of this task or another task."
        )
    return value
