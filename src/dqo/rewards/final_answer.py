r"""Where a solution states its final answer: after "####", in \boxed{}, or after "the answer is"."""

import re
from dataclasses import dataclass

_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_LABEL = re.compile(r"(?i)\W*(?:the\s+)?(?:final\s+)?answer\b(?:\s+is\b)?\s*[:=]?")
_HEADING = re.compile(r"\W*[A-Za-z]{2}")  # "#### Step 1: add", as Markdown has it
_BOXED = re.compile(r"\\boxed\s*\{")
_SAID = re.compile(
    r"(?i)\banswer(?:\s+is\s*:?|\s*[:=])\s*(?:\*\*|\$)*\s*([-+]?\$?[\d.]?[\d,]*\d(?:\.\d+)?(?:\s*/\s*\d+)?%?)"
)
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

    The first and not the last, so that a text cannot state several answers and be paid for one of them. Where an answer
    is boxed, a "####" that a word follows is a heading.

    Args:
        text: A response.

    Returns:
        The answer, or None where none is stated.
    """
    boxed = _BOXED.search(text)
    for found in _HASHES.finditer(text):
        answer, start = found[1], found.start(1)
        if "####" in answer:  # several on one line
            answer = answer[: answer.index("####")]
        if label := _LABEL.match(answer):
            answer, start = answer[label.end() :], start + label.end()
        if answer.strip() and not (boxed and _HEADING.match(answer)):
            return _answer(text, answer, start + len(answer))
    if boxed:
        end = _closing_brace(text, boxed.end())
        return None if end is None else _answer(text, text[boxed.end() : end], end + 1)
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
