r"""Where a solution states its final answer: after "####", in \boxed{}, or after "the answer is"."""

import re
from dataclasses import dataclass

_HASHES = re.compile(r"#{4,}[ \t]*([^\n]*?)(?=####|\n|\Z)")  # there may be several on one line
_LABEL = re.compile(r"(?i)\W*(?:the\s+)?(?:final\s+)?answer\b(?:\s+is\b)?\s*[:=]?")
_HEADING = re.compile(r"[^\w\\]*[A-Za-z]{2}")  # "#### Step 1: add", as Markdown has it; \frac is an answer's
_BOXED = re.compile(r"\\boxed\s*\{")
# "The answer is 5*12 = 60" states 60. Only a sum is passed over, never a number: "5 = 60" would be two answers.
_TERM = r"[-+$(]*\d[\d.,]*[)%]*"
_SUM = rf"{_TERM}(?:\s*(?:[-+*/x×÷−]|\\times|\\cdot|\\div)\s*{_TERM})+\s*=\s*"
# No two neighbours may match the same blanks: on a run of them the time would grow with its cube.
_SAID = re.compile(
    rf"(?i)\banswer(?:\s+is|\s*[:=])[\s:*$]*(?:{_SUM})*([-+]?\$?[\d.]?[\d,]*\d(?:\.\d+)?(?:\s*/\s*\d+)?%?)"
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
    is boxed, or another "####" has a number, a "####" that a word follows is a heading.

    Args:
        text: A response.

    Returns:
        The answer, or None where none is stated.
    """
    boxed = _BOXED.search(text)
    hashed = [(answer, found.end()) for found in _HASHES.finditer(text) if (answer := _unlabelled(found[1])).strip()]
    # Before a number it is passed over, behind one it is never reached, so that it does not matter where the number is.
    headings = boxed or any(re.search(r"\d", answer) and not _HEADING.match(answer) for answer, _ in hashed)
    for answer, end in hashed:
        if not (headings and _HEADING.match(answer)):
            return _answer(text, answer, end)
    if boxed:
        end = _closing_brace(text, boxed.end())
        return None if end is None else _answer(text, text[boxed.end() : end], end + 1)
    if found := _SAID.search(text):
        unit = _UNIT.match(text, found.end())
        return _answer(text, found[1], unit.end() if unit else found.end())
    return None


def _unlabelled(line: str) -> str:
    """The line without "Answer:" and the like before it."""
    label = _LABEL.match(line)
    return line[label.end() :] if label else line


def _answer(text: str, answer: str, end: int) -> FinalAnswer:
    return FinalAnswer(answer.strip().strip("*`").strip(), end, text[end:].strip(_CLOSING))


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return None
