"""Reads what an LLM judge replies: a score on a scale, or whether two texts say the same.

A reply that leaves a doubt is unread (None): two scores, a score of another scale, a range, a condition.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

_DIGITS = r"-?(?:\d+(?:\.\d+)?|\.\d+)"
# A number is no score where more of it follows, a letter, a percent sign, another number, or what it is a part of.
_SCORE = (
    rf"(?P<score>{_DIGITS})(?![\d.]*\d)(?![A-Za-z%])(?:\s*(?:/|out of|of)\s*(?P<top>\d+(?:\.\d+)?)(?![\d.]*\d))?"
    r"(?!\s*%|\s*(?:,|/|to|or|and|-|–|—)\s*\d|\s*(?:out )?of\b|\s*/)"
)
# What may follow, but no noun, which the number would count.
_AFTER = r"(?=\s*(?:$|[.,;:!?)\]}\"'\n–—-]|(?:points?|stars?|overall|because|since|for|as)\b))"
_LABEL = r"(?<![A-Za-z-])(?P<before>[A-Za-z-]{0,30})[ _\"']*\b(?:score|rating|grade|mark)\b"
_IS = (
    r"[\s\"'\]>)]*(?:is|should be|would be|will be|:=|:|=|->|→)[\s\"'<\[({~≈]*"
    r"(?:(?:about|around|approximately|an?)\s+)?"
)
_FORMS = {  # the surest first
    "brackets": rf"\[\[\s*{_SCORE}\s*\]\]",
    "box": rf"\\boxed\{{\s*{_SCORE}\s*\}}",
    "tag": rf"<(?:score|rating|grade|answer)>\s*{_SCORE}\s*</",
    "label": rf"{_LABEL}{_IS}{_SCORE}",
    "loose label": rf"{_LABEL}(?:\s+of)?(?:\s+|\s*[-–—]\s+){_SCORE}{_AFTER}",
    "total": rf"\b(?:overall|total|verdict|answer|result|evaluation|assessment)[\"' ]*[:=]\s*{_SCORE}{_AFTER}",
    "given": r"\b(?:giv(?:e|en|ing)|gave|rated?|scored|graded|award(?:ed)?|assign(?:ed)?|deserves?|earns?|gets?|"
    rf"receives?|merits?|warrants?|say|call it|go with|settle on)\b[^.\n\d]{{0,60}}?(?<![\w.-]){_SCORE}{_AFTER}",
    "alone": rf"[\s\"'(\[<:]*(?:about |around |approximately |~)?{_SCORE}\s*(?:points?|stars?)?[\s\"')\]>.!]*",
    "fraction": rf"(?<![\w./-]){_SCORE}{_AFTER}",
    "opening": rf"\s*{_SCORE}\s*(?:[-–—:,;]\s|\.\s+(?-i:[A-Z]))",
}
_FOUND = {name: re.compile(form, re.IGNORECASE) for name, form in _FORMS.items()}
_FINAL = ("final", "overall", "total")
_PLAIN = ("", "my", "the", "a", "your", "its", "this", "quality", "response", "judge", "so", "therefore", "thus", "new")
_LIMIT = ("maximum", "max", "minimum", "min", "highest", "lowest", "best", "worst", "possible", "perfect", "passing",
          "top", "average", "mean", "no", "any", "if")  # fmt: skip
_DENIED = re.compile(
    r"(?i)\b(?:if|unless|had it|could have|would have|not|never|cannot|otherwise|short|below|above|than)\b|n't\b"
)
_RANGE = rf"{_DIGITS}(?:\s*\([^()]*\))?\s*(?:to|-|–|—|and|through)\s*{_DIGITS}(?:\s*\([^()]*\))?"
_SCALE = re.compile(
    r"(?i)(?:\b(?:on|using|with|in)\s+)?(?:\b(?:an?|the|this|your)\s+)?"
    rf"(?:\b(?:scale|range)\b\s*(?:of|from|between|:)?|\bfrom\b|\bbetween\b)\s*{_RANGE}(?:\s+scale\b)?"
    rf"|\b{_RANGE}\s+(?:scale|range)\b"
    rf"|\b(?:where |with )?{_DIGITS}\s*(?:is|being|=|means|meaning)\s*(?:the |a |an )?(?:worst|best|lowest|highest|"
    r"maximum|minimum|perfect|useless|excellent|poor|terrible|top)\b(?: possible)?(?: score| rating| mark)?"
)
_ASIDE = re.compile(r"\([^()]*\)")
_ABOUT_SCALE = re.compile(
    rf"(?i){_DIGITS}\s*(?:to|-|–|=)\s*\w|=\s*{_DIGITS}|worst|best|highest|lowest|max|min|possible|scale|\bnot\b"
    r"|^\((?:out )?of "
)
_TOP_ASIDE = re.compile(r"(?i)(?<=\d)\s*\((?:out\s+)?of\s+(\d+(?:\.\d+)?)\)")  # "8 (out of 10)"
_KEYS = ("finalscore", "overallscore", "totalscore", "finalrating", "overallrating", "overall", "score", "rating",
         "grade", "mark", "points", "value")  # fmt: skip
_END_LENGTH = 2000  # characters in which a score is looked for, at each end
_DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_VERDICT_KEYS = (
    "finalverdict",
    "verdict",
    "answer",
    "result",
    "judgement",
    "judgment",
    "decision",
    "conclusion",
    "same",
)
_NO_VERDICT = re.compile(  # the question repeated, other words for the same, and the same of something else
    r"(?i)[\"']?\bsame\b[\"']?\s*(?:or|/|\|)\s*[\"']?different\b[\"']?"
    r"|\bdifferent\s+(?:words?|ways?|wording|terms|phrasings?|phrases|styles?|tones?)\b"
    r"|\bdifferent(?:ly)?\s+in\s+(?:wording|phrasing|style|tone|form|length)\b"
    r"|\bsame[^\S\n]+"  # not "same" and, below it, the first word of a reason
    r"(?!thing|meaning|content|idea|message|information|point|answer|because|since|as|in|and|but|here|overall)\w+"
)
_ASKED = re.compile(r"(?i)(?<![^.?!\n])(?P<question>[^.?!\n]*)\?\W*(?:(?P<yes>yes|no)\b)?")
_VERDICT = re.compile(
    r"(?i)(?P<no>(?:\b(?:not|never|hardly|neither|no(?!\s+doubt)|far\s+from|(?:wrong|incorrect)\s+to)|n't)\s+"
    r"(?:\w+\s+){0,3}?)?\b(?P<word>same|different)\b"
)
_END = r"(?=\W*(?:$|[.,;:!?\n–—-]|because\b|since\b|as\b))"
_NAMED_VERDICT = re.compile(
    r"(?i)\b(?:answer|verdict|conclusion|judge?ment|decision|result)\b[\s\"'\]>:=-]*(?:is\s+)?[\s\"'\[(<]*"
    rf"(same|different)\b{_END}"
)


def read_score(reply: str, lowest: float, highest: float) -> float | None:
    """The score that a reply states.

    Args:
        reply: What the judge wrote, without a reasoning trace.
        lowest: Worst score of the scale.
        highest: Best score.

    Returns:
        A number in [lowest, highest], None where no score is sure.
    """
    for found in _objects(reply):
        stated, value = _under(found, _KEYS)
        if stated:
            return _on_scale(_in_words(_plain(value), highest) if isinstance(value, str) else value, lowest, highest)
    return _on_scale(_in_words(_plain(reply), highest), lowest, highest)


def read_same(reply: str) -> bool | None:
    """Whether a reply says "same".

    Args:
        reply: What the judge wrote, without a reasoning trace.

    Returns:
        True for "same", False for "different", None where neither is sure.
    """
    for found in _objects(reply):
        stated, value = _under(found, _VERDICT_KEYS)
        if stated:
            value = {"yes": True, "true": True, "no": False, "false": False}.get(str(value).lower(), value)
            return value if isinstance(value, bool) else read_same(value) if isinstance(value, str) else None
    text = _plain(reply)
    for asked in _ASKED.finditer(text):
        words = {found["word"].lower() for found in _VERDICT.finditer(asked["question"])}
        if asked["yes"] and len(words) == 1:
            return (asked["yes"].lower() == "yes") == ("same" in words)
    text = _NO_VERDICT.sub(" ", _ASKED.sub(" ", text))
    if named := _NAMED_VERDICT.findall(text):
        return named[-1].lower() == "same"
    for line in (text.strip(), text.strip().rpartition("\n")[2]):
        if opening := re.match(rf"(?i)[^\w\n]*(same|different)\b{_END}", line):
            return opening[1].lower() == "same"
    said = {(verdict["word"].lower() == "same") != bool(verdict["no"]) for verdict in _VERDICT.finditer(text)}
    return said.pop() if len(said) == 1 else None


def _in_words(text: str, highest: float) -> float | None:
    """The score of a reply in words, by the surest form that occurs."""
    for form in ("brackets", "box", "tag"):
        if found := list(_FOUND[form].finditer(text)):
            return _value(found[-1], highest)
    text = _TOP_ASIDE.sub(r"/\1", text)
    text = _ASIDE.sub(lambda aside: " " if _ABOUT_SCALE.search(aside[0]) else aside[0], text)
    text = _SCALE.sub(" ", text)
    for form in ("label", "loose label"):  # "Maximum score: 10"
        text = _FOUND[form].sub(lambda found: " " if found["before"].lower() in _LIMIT else found[0], text)
    labelled = _sure("label", text) or _sure("loose label", text)
    final = [found for found in labelled if found["before"].lower() in _FINAL] or _sure("total", text)
    plain = final or [found for found in labelled if found["before"].lower() in _PLAIN]
    if plain:
        return _value(plain[-1], highest)
    if several := labelled or _sure("given", text):  # "Clarity score: 3", "Style score: 8"
        return _agreed(several, highest)
    lines = [line for line in text.split("\n") if line.strip()]
    for line in (text, *lines[-1:], *lines[:1]):
        if found := _FOUND["alone"].fullmatch(line):
            return _value(found, highest)
    fractions = [found for found in _sure("fraction", text) if found["top"] and float(found["top"]) == highest]
    if fractions:
        return _agreed(fractions, highest)
    found = _FOUND["opening"].match(text)
    return _value(found, highest) if found and found["score"] != "1" else None  # "1." opens a list


def _sure(form: str, text: str) -> list[re.Match[str]]:
    """Matches of a form, without those that their sentence denies or makes depend on something."""
    return [found for found in _FOUND[form].finditer(text) if not _is_denied(text, found)]


def _value(found: re.Match[str], highest: float) -> float | None:
    """The number of a match; None where it is out of another highest score."""
    return float(found["score"]) if found["top"] is None or float(found["top"]) == highest else None


def _is_denied(text: str, found: re.Match[str]) -> bool:
    before = re.split(r"[.!?;\n](?:\s|$)", text[: found.start("score")])[-1]
    after = re.split(r"[.!?;\n](?:\s|$)", text[found.end() :])[0]
    return bool(_DENIED.search(before) or re.search(r"(?i)\b(?:if|unless|only when)\b", after))


def _agreed(found: list[re.Match[str]], highest: float) -> float | None:
    values = {_value(match, highest) for match in found}
    return values.pop() if len(values) == 1 else None


def _on_scale(value: Any, lowest: float, highest: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
        return None
    return float(value)


def _plain(reply: str) -> str:
    """Both ends of a reply without markup, numbers in digits with a decimal point."""
    if len(reply) > 2 * _END_LENGTH:
        reply = f"{reply[:_END_LENGTH]}\n…\n{reply[-_END_LENGTH:]}"
    reply = re.sub(r"([^\S\n])\1+", r"\1", re.sub(r"\n\s*\n+", "\n", reply))  # forms are found in quadratic time
    text = unicodedata.normalize("NFKC", re.sub(r"(?<=\d)\s?½", ".5", reply)).replace("\N{MINUS SIGN}", "-")
    text = re.sub(r"[*`#$|★☆]|(?<!\w)_+|_+(?!\w)", "", text)
    text = re.sub(rf"(?i)\b({'|'.join(_DIGIT_WORDS)})\b", lambda word: str(_DIGIT_WORDS.index(word[0].lower())), text)
    text = re.sub(r"(?i)(?<=\d) and a half\b", ".5", text)
    return re.sub(r"(?<=\d),(?=\d{1,2}(?!\d))", ".", text)


def _objects(reply: str) -> Iterator[Any]:
    """JSON objects and lists in a reply, the whole of it first, the others from the last."""
    inner = re.findall(r"\{[^{}]*\}", reply)
    between = reply[reply.find("{") : reply.rfind("}") + 1]
    for text in (reply, between, *reversed(inner)):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            yield value


def _under(value: Any, keys: tuple[str, ...]) -> tuple[bool, Any]:
    """Whether one of the keys is in a JSON value, the nearest to its root, and what stands there."""
    level, depth = [value], 0
    while level and depth < 5:
        fields = [item for entry in level if isinstance(entry, dict) for item in entry.items()]
        named = {re.sub(r"[^a-z]", "", str(key).lower()): found for key, found in reversed(fields)}
        for key in keys:
            if key in named and not isinstance(named[key], dict | list):
                return True, named[key]
        level = [found for _, found in fields] + [
            found for entry in level if isinstance(entry, list) for found in entry
        ]
        depth += 1
    return False, None
