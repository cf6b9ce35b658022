r"""Where a solution states its final answer: after "####", in <answer> or \boxed{}, or after "the answer is"."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dqo.rewards.math_number import MAX_CHARACTERS, stated_number

_HASHES = re.compile(r"#{4,}[ \t]*([^\n]*?)(?=####|\n|\Z)")  # there may be several on one line
_LABEL = re.compile(r"(?i)\W*(?:the\s+)?(?:final\s+)?answer\b(?:\s+is\b)?\s*[:=]?")
# "#### Step 1: add" and "#### 2. Add it", as Markdown has them; \frac is an answer's
_HEADING = re.compile(r"[^\w\\]*(?:\d+[.):]\s+)?[A-Za-z]{2}")
_TAGGED = re.compile(r"(?is)<answer>((?:(?!<answer>).)*?)(?:</answer>|\Z)")  # the innermost of nested ones
_BOXED = re.compile(r"\\f?boxed\s*\{")
# No two neighbours may match the same blanks: on a run of them the time would grow with its cube.
_SAID = re.compile(
    r"(?i)\banswer(?: (?:to|for|in|of) [^.:=\n]{1,60}?)?(?:\s+(?:is|was|would be|should be|must be)\b|[\s*_]*[:=])"
    r"(?: (?:therefore|thus|then|simply|just|indeed)\b)?[\s:=*_`]*"
)
_TITLE = re.compile(r"(?im)^[ \t#*_>]*(?:the )?(?:final )?answer[ \t*_]*\n[\s*_]*")  # the answer is on the next line
_CLAUSE = re.compile(r"[^\n]*?(?:\?(?=\s|\Z)|(?=[.!;][\"*_)$\]]*(?:\s|\Z)|\n|\Z))")
_ASIDE = re.compile(
    r"[,;(]|\s[-–—]\s(?=[A-Za-z]{2})|\s(?:because|since|as|so|which|that|when|where)\b"
    r"|\s(?:for|in|on|by|with|after)\b(?! \S?\d)"
)
_FORMULA = re.compile(r"\$\$?[^$\n]+\$\$?|\\\(.+?\\\)|\\\[.+?\\\]")
# What takes an answer back or adds another one: "72, 73", "72. Or 73?", "72 or maybe 73".
_HEDGE = re.compile(
    r"[\s.,;)*$]*(?:(?<=,)\s*\S?\d|\(?(?:or|and|but|no|wait|actually|maybe|perhaps|possibly)\b[^\n]{0,30}?\d)", re.I
)
_JOINED = re.compile(r"[\s$.]*(,|or\b|and\b|/|,\s*(?:or|and)\b)[\s$]*")  # between two boxes that are one answer
_UNIT = re.compile(r"\$?(?:[ \t]+[A-Za-z]+){0,3}(?=\s*(?:[.!\n]|$))")  # "\boxed{72} red apples."
_RUN_ON = re.compile(r"\n[^\S\n]*(?:Question|Q|Problem|User|Human)\s*\d*:")  # a base model invents the next question
_CLOSERS = r"(?:\s|[.$*)`_\"!\]}]|\\[\])]|</\w+>)"  # what may follow an answer without saying anything
_CLOSING = re.compile(rf"\A{_CLOSERS}+|{_CLOSERS}+\Z")


@dataclass(frozen=True)
class FinalAnswer:
    """The answer that a text states.

    Attributes:
        text: The answer.
        end: Offset in the text behind the statement.
        tail: What follows it, closing marks left out.
    """

    text: str
    end: int
    tail: str


def final_answer(text: str) -> FinalAnswer | None:
    """The answer in the strictest form that occurs: "####", <answer>, boxed, then said in words.

    Of several "####" the first counts, of the other forms the last, as is usual for each; whichever it is, a text can
    never be paid for one of several answers. The statement ends where the answer that counts was first given, so that
    what stands between it and its repetition is tail. Where an answer is stated in another form, or another "####" has
    a number, a "####" that a word follows is a heading.

    Args:
        text: A response.

    Returns:
        The answer, or None where none is stated.
    """
    run_on = _RUN_ON.search(text)
    stated = (run_on and _last(text, run_on.start())) or _last(text, len(text))
    hashed = [(answer, found.end()) for found in _HASHES.finditer(text) if (answer := _unlabelled(found[1])).strip()]
    # Before a number it is passed over, behind one it is never reached, so that it does not matter where the number is.
    headings = stated or any(re.search(r"\d", answer) and not _HEADING.match(answer) for answer, _ in hashed)
    for answer, end in hashed:
        if not (headings and _HEADING.match(answer)):
            return _answer(text, answer, end)
    return _answer(text, *stated) if stated else None


def _last(text: str, stop: int) -> tuple[str, int] | None:
    """The last answer of the strictest form up to a place, and where it was first given; "####" is not looked at."""
    for form in (_tagged, _boxed, _said):
        if answers := list(form(text, stop)):
            return next((answer, end) for answer, end in answers if answer == answers[-1][0])
    return None


def _tagged(text: str, stop: int) -> Iterator[tuple[str, int]]:
    for found in _TAGGED.finditer(text, 0, stop):
        inside = final_answer(found[1])
        yield inside.text if inside else found[1].strip(), found.end()


def _boxed(text: str, stop: int) -> Iterator[tuple[str, int]]:
    answer, behind, closing = "", 0, _closing_braces(text)
    for found in _BOXED.finditer(text, 0, stop):
        if (end := closing.get(found.end() - 1)) is not None:
            joined = bool(answer) and _JOINED.fullmatch(text, behind, found.start())  # "\\boxed{72} or \\boxed{73}"
            answer = f"{answer} {joined[1]} {text[found.end() : end]}" if joined else text[found.end() : end].strip()
            behind = end + 1
            yield answer, _behind_unit(text, behind)


def _said(text: str, stop: int) -> Iterator[tuple[str, int]]:
    starts = sorted(found.end() for pattern in (_SAID, _TITLE) for found in pattern.finditer(text, 0, stop))
    for start in starts:
        clause = _CLAUSE.match(text, start, min(stop, start + MAX_CHARACTERS))
        assert clause is not None, "it matches anything"
        if re.search(r"[\d\\]", clause.group()):
            yield _stated(clause.group()), start + len(_stated(clause.group()))


def _stated(clause: str) -> str:
    """A clause up to where it goes on to speak of the answer, if it begins with one; else all of it."""
    aside = _ASIDE.search(clause)
    for end in (len(clause), aside.start() if aside else 0):
        if stated_number(clause[:end]) is not None and not _HEDGE.match(clause, end):
            return clause[:end]
    formula = _FORMULA.match(clause)
    return formula.group() if formula and not _HEDGE.match(clause, formula.end()) else clause


def _behind_unit(text: str, end: int) -> int:
    unit = _UNIT.match(text, end)
    return unit.end() if unit else end


def _unlabelled(line: str) -> str:
    """The line without "Answer:" and the like before it."""
    label = _LABEL.match(line)
    return line[label.end() :] if label else line


def _answer(text: str, answer: str, end: int) -> FinalAnswer:
    hedge = _HEDGE.match(text, end)
    whole = re.sub("</answer>.*", "", answer) + (hedge.group() if hedge else "")
    return FinalAnswer(whole.strip().strip("*`").strip(), end, _CLOSING.sub("", text[end:]))


def _closing_braces(text: str) -> dict[int, int]:
    """Offset of each opening brace that is closed -> offset of the brace that closes it."""
    opened: list[int] = []
    closing: dict[int, int] = {}
    for brace in re.finditer("[{}]", text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened:
            closing[opened.pop()] = brace.start()
    return closing
