"""Every error a user can cause. Each message is one sentence: what was expected, what came, which item, what to change.

The command line prints such an error without a traceback and exits with status 2; anything else that escapes is a
bug of ours and keeps its traceback. Standard library only, so that every layer may raise them.
"""

import difflib
from collections.abc import Iterable
from typing import Any

_LONGEST, _END = 1200, 300  # characters of a message, and how many of its end are kept: they say what to change


class DQOError(ValueError):
    """Base of every error caused by input, settings or environment rather than by a bug.

    Attributes:
        status: Exit status of the command line.
    """

    status = 2


def printable(message: str) -> str:
    """Makes a message fit for a terminal: control characters as escapes, long lines without their middle."""
    # A terminal obeys control characters, and what a message quotes may come from anywhere.
    return "\n".join(_printable_line(line) for line in message.split("\n"))


def _printable_line(line: str) -> str:
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line.strip()
    )
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - _END - 3]} … {shown[-_END:]}"


class NonFiniteError(DQOError):
    """NaN or infinity where a finite number was promised; the message names the row."""


class NotPSDError(DQOError):
    """A kernel matrix that is not symmetric positive semi-definite; the message names the group."""


class GroupError(DQOError):
    """Rows that do not form whole groups of responses to one prompt."""


class DataError(DQOError):
    """A bad file or record; the message names file, line and field."""


class RecipeError(DQOError):
    """A recipe, override or configuration that cannot be run as written."""


class FolderBusyError(DQOError):
    """A folder that another process writes to; the message names that process."""

    status = 75  # EX_TEMPFAIL: the same command may do later


class RewardError(DQOError):
    """A reward function that raised, or returned the wrong count, type or a non-finite number.

    Attributes:
        batch: What it was called with, one mapping per row; None where that is not known.
    """

    batch: list[dict[str, Any]] | None = None


class ModelError(DQOError):
    """A policy, tokenizer or checkpoint that cannot be found or used."""


class EncoderError(DQOError):
    """An encoder that cannot be found, or returned something that is not one finite vector per text."""


class TrainingError(DQOError):
    """A training step whose numbers cannot be trained on; the message names the step."""


class EndpointError(DQOError):
    """A server of completions, judgements or embeddings that cannot be reached, or does not answer as asked."""


def check_choice(name: str, value: object, allowed: Iterable[str], error: type[DQOError] = DQOError) -> None:
    """Refuses a value of a setting that is none of the allowed ones; the error lists these, with the nearest."""
    if value not in allowed:
        raise error(f"`{name}` must be {choices(value, allowed)}, got {value!r}; choose one of these.")


def refuse(found: Iterable[tuple[bool, str]]) -> None:
    """Raises a RecipeError with the sentence of the first pair that is true; pairs are made as they are asked for."""
    for wrong, sentence in found:
        if wrong:
            raise RecipeError(sentence)


def nearest(wrong: str, names: Iterable[str]) -> str | None:
    """Finds the valid name, dotted or not, whose last part is near to that of a wrong one; None where none is."""
    # Of two names with one last part the first is taken.
    by_last = {name.rpartition(".")[2]: name for name in reversed(list(names))}
    near = difflib.get_close_matches(wrong.rpartition(".")[2], by_last, n=1)
    return by_last[near[0]] if near else None


def choices(wrong: object, valid: Iterable[str]) -> str:
    """Lists the valid names in words, with the nearest to a wrong one."""
    names = list(valid)
    near = nearest(str(wrong), names)
    return f"one of {', '.join(names)}" + (f" (did you mean {near!r}?)" if near else "")
