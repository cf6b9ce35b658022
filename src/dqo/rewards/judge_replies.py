"""Reads what an LLM judge replies: the score of a response, or the scores or classes of a whole group.

Servers that take a JSON schema make this easy; of one score the other forms are for those that ignore it. A reply that
leaves a doubt is unread (None): two scores, a score of another scale, a range, a condition, a response named twice.
"""

import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, Field, TypeAdapter, ValidationError

# The scale.
LOWEST, HIGHEST = 1, 10

_DIGITS = r"-?(?:\d+(?:\.\d+)?|\.\d+)"
# A number is no score where more of it follows, a letter, a percent sign, another number, or what it is a part of.
_SCORE = (
    rf"(?P<score>{_DIGITS})(?![\d.]*\d)(?![A-Za-z%])(?:\s*(?:/|out of|of)\s*(?P<top>\d+(?:\.\d+)?)(?![\d.]*\d))?"
    r"(?!\s*%|\s*(?:,|/|to|or|and|-|–|—)\s*\d|\s*(?:out )?of\b|\s*/)"
)
# What may follow, but no noun, which the number would count.
_AFTER = r"(?=\s*(?:$|[.,;:!?)\]}>\"'\n–—-]|(?:points?|stars?|overall|because|since|for|as)\b))"
_IS = r"[\s\"'\]>)]*(?:is|should be|would be|will be|:=|:|=|->|→)[\s\"'<\[({~≈]*(?:(?:about|around|an?)\s+)?"
_MARKED = re.compile(rf"(?i)(?:\[\[|\\boxed\{{|<(?:score|rating|grade|answer)>)\s*{_SCORE}\s*(?:\]\]|\}}|</)")
# Of the whole response, not of its style: what stands before the word tells.
_STATED = re.compile(
    r"(?i)(?:(?<![A-Za-z-])(?P<of>[A-Za-z-]{0,30})[ _\"']*\b(?:score|rating|grade|mark)\b"
    rf"(?:{_IS}|(?:\s+of)?(?:\s+|\s*[-–—]\s+))"
    rf"|\b(?:overall|total|verdict|answer|result)[\"' ]*[:=]\s*){_SCORE}{_AFTER}"
)
_WHOLE = ("", "final", "overall", "total", "my", "the", "a", "your", "its", "this", "quality", "response", "so")
_ALONE = re.compile(rf"(?i)[\s\"'(\[<:]*{_SCORE}\s*(?:points?|stars?)?(?:[\s\"')\]>.!]*|\s+[-–—]\s.*)")
_FRACTION = re.compile(rf"(?i)(?<![\w./-]){_SCORE}{_AFTER}")
# A sentence that makes its number depend on something, or denies the number behind.
_DENIED = re.compile(
    r"(?i)\b(?:if|unless|only when)\b"
    r"|(?:\b(?:had it|could have|would have|not|never|cannot|otherwise|short|below|above|than)\b|n't\b)(?=.*\d)"
)
# In parentheses, about the scale.
_ASIDE = re.compile(
    rf"(?i)\((?:(?:out )?of |[^()]*(?:{_DIGITS}\s*(?:to|-|–|=)\s*\w|=\s*{_DIGITS}|worst|best|highest|lowest|max|min|"
    r"possible|scale|\bnot\b))[^()]*\)"
)
_OBJECT = TypeAdapter(dict[str, Any])
# Characters in which a score is looked for, at each end.
_END_LENGTH = 2000


class _Score(BaseModel):
    """An object with a score, or words that state one."""

    value: Annotated[float, Field(strict=True)] | str = Field(
        validation_alias=AliasChoices("final_score", "overall_score", "overall", "score", "rating", "grade")
    )


class _Classes(BaseModel):
    """An object with lists of numbers; a number that stands alone is a list of one."""

    value: list[list[int] | int] = Field(validation_alias=AliasChoices("groups", "ranking"))


def read_score(reply: str) -> float | None:
    """Reads the score from 1 to 10 that a reply states; None where no score is sure."""
    said: float | str | None = None
    for given in _objects(reply):
        with suppress(ValidationError):
            said = _Score.model_validate(given).value
            break
    score = said if isinstance(said, float) else _in_words(_plain(said or reply))
    return score if score is not None and LOWEST <= score <= HIGHEST else None


def read_scores(reply: str, n: int) -> list[float] | None:
    """Reads a score from 1 to 10 for each of n responses, by their numbers from 1; None where one is missing."""
    for given in _objects(reply):
        scores = [given.get(str(number)) for number in range(1, n + 1)]
        if all(type(score) in (int, float) and LOWEST <= score <= HIGHEST for score in scores):
            return [float(score) for score in scores]
    return None


def read_classes(reply: str, n: int) -> list[int] | None:
    """Reads the place of the list that each of n responses stands in; None unless each stands in exactly one."""
    for given in _objects(reply):
        with suppress(ValidationError):
            lists = [[one] if isinstance(one, int) else one for one in _Classes.model_validate(given).value]
            places = {number: place for place, numbers in enumerate(lists) for number in numbers}
            if sorted(number for numbers in lists for number in numbers) == list(range(1, n + 1)):
                return [places[number] for number in range(1, n + 1)]
    return None


def _objects(reply: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a reply: the whole of it, then those without another inside, the last one first."""
    for text in (reply[reply.find("{") : reply.rfind("}") + 1], *reversed(re.findall(r"\{[^{}]*\}", reply))):
        with suppress(ValidationError):
            yield _OBJECT.validate_json(text)


def _in_words(text: str) -> float | None:
    """The score of a reply in words, by the surest form that occurs."""
    text = _ASIDE.sub(" ", re.sub(r"(?<=\d)\s*\((?:out )?of (\d+)\)", r"/\1", text))
    lines = text.strip().split("\n")
    sure = "\n".join(part for part in re.split(r"(?<=[.!?;])\s|\n", text) if not _DENIED.search(part))
    forms = (
        list(_MARKED.finditer(sure))[-1:],
        [found for found in _STATED.finditer(sure) if (found["of"] or "").strip("-").lower() in _WHOLE][-1:],
        [found for line in (text, lines[-1], lines[0]) if (found := _ALONE.fullmatch(line))][:1],
        [found for found in _FRACTION.finditer(sure) if found["top"]],
    )
    # Several fractions have to agree, and one of another highest score is none.
    scores = {
        float(found["score"]) if float(found["top"] or HIGHEST) == HIGHEST else None
        for found in next(filter(None, forms), [])
    }
    return scores.pop() if len(scores) == 1 else None


def _plain(reply: str) -> str:
    """Both ends of a reply without markup, numbers in digits with a decimal point."""
    if len(reply) > 2 * _END_LENGTH:
        reply = f"{reply[:_END_LENGTH]}\n…\n{reply[-_END_LENGTH:]}"
    # Forms are found in quadratic time.
    reply = re.sub(r"([^\S\n])\1+", r"\1", re.sub(r"\n\s*\n+", "\n", reply))
    text = unicodedata.normalize("NFKC", re.sub(r"(?<=\d)\s?½", ".5", reply)).replace("\N{MINUS SIGN}", "-")
    text = re.sub(r"[*`#$|★☆]|(?<!\w)_+|_+(?!\w)", "", text)
    return re.sub(r"(?<=\d),(?=\d{1,2}(?!\d))", ".", text)
