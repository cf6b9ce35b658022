r"""Where a solution states its final answer: after "####", in \boxed{}, or after "the answer is"."""

import re
from dataclasses import dataclass

_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_BOXED = re.compile(r"\\boxed\s*\{")
_SAID = re.compile(r"(?i)\banswer(?:\s+is)?\s*:?\s*(?:\*\*|\$)*\s*([-+]?\$?[\d.]?[\d,]*\d(?:\.\d+)?(?:\s*/\s*\d+)?%?)")
_UNIT = re.compile(r"(?:[ \t]+[A-Za-z]+){0,2}(?=\s*(?:[.!\n]|$))")  # "the answer is 72 red apples."
_CLOSING = " \t\r\n.$*)`"  # what may follow an answer without saying anything


@dataclass(frozen=True)
class FinalAnswer:
    """The first answer that a text states.

    Attributes:
        text: The answer.
        end: Offset in the text behind the statement.
        tail: What follows it, closing marks left out.
    """

    text: str
    end: int
    tail: str


def final_answer(text: str) -> FinalAnswer | None:
    """The first answer in the strictest form that occurs: "####", then boxed, then said in words.

    The first and not the last, so that a text cannot state several answers and be paid for one of them.

    Args:
        text: A response.

    Returns:
        The answer, or None where none is stated.
    """
    if (found := _HASHES.search(text)) and found[1].strip():
        answer = found[1]
        if "####" in answer:  # several on one line
            answer = answer[: answer.index("####")]
        return _answer(text, answer, found.start(1) + len(answer))
    if found := _BOXED.search(text):
        end = _closing_brace(text, found.end())
        return None if end is None else _answer(text, text[found.end() : end], end + 1)
    if found := _SAID.search(text):
        unit = _UNIT.match(text, found.end())
        return _answer(text, found[1], unit.end() if unit else found.end())
    return None


def _answer(text: str, answer: str, end: int) -> FinalAnswer:
    return FinalAnswer(answer.strip().strip("*`").strip(), end, text[end:].strip(_CLOSING))


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return None
