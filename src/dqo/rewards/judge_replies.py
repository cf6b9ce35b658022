"""Reads what an LLM judge replies: a score on a scale, or whether two texts say the same.

Servers that take a JSON schema make this easy; the other forms are for those that ignore it. A reply that leaves a
doubt is unread (None): two scores, a score of another scale, a range, a condition.
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
_AFTER = r"(?=\s*(?:$|[.,;:!?)\]}>\"'\n–—-]|(?:points?|stars?|overall|because|since|for|as)\b))"
_IS = r"[\s\"'\]>)]*(?:is|should be|would be|will be|:=|:|=|->|→)[\s\"'<\[({~≈]*(?:(?:about|around|an?)\s+)?"
_MARKED = rf"(?:\[\[|\\boxed\{{|<(?:score|rating|grade|answer)>)\s*{_SCORE}\s*(?:\]\]|\}}|</)"
_STATED = (
    r"(?:(?<![A-Za-z-])(?P<of>[A-Za-z-]{0,30})[ _\"']*\b(?:score|rating|grade|mark)\b"
    rf"(?:{_IS}|(?:\s+of)?(?:\s+|\s*[-–—]\s+))"
    rf"|\b(?:overall|total|verdict|answer|result)[\"' ]*[:=]\s*){_SCORE}{_AFTER}"
)
_ALONE = rf"[\s\"'(\[<:]*{_SCORE}\s*(?:points?|stars?)?(?:[\s\"')\]>.!]*|\s+[-–—]\s.*)"
_FRACTION = rf"(?<![\w./-]){_SCORE}{_AFTER}"
_FINAL = ("final", "overall", "total")
_WHOLE = ("", "my", "the", "a", "your", "its", "this", "quality", "response", "judge", "so", "therefore", "thus", "new")
_LIMITS = ("max", "maximum", "min", "minimum", "highest", "lowest", "best", "worst", "possible", "perfect", "average",
           "no", "any", "if")  # fmt: skip
_DENIED = re.compile(
    r"(?i)\b(?:if|unless|had it|could have|would have|not|never|cannot|otherwise|short|below|above|than)\b|n't\b"
)
# In parentheses, about the scale.
_ASIDE = re.compile(
    rf"(?i)\((?:(?:out )?of |[^()]*(?:{_DIGITS}\s*(?:to|-|–|=)\s*\w|=\s*{_DIGITS}|worst|best|highest|lowest|max|min|"
    r"possible|scale|\bnot\b))[^()]*\)"
)
_SCORE_KEYS = ("finalscore", "overallscore", "totalscore", "finalrating", "overallrating", "overall", "score", "rating",
               "grade", "mark", "points", "value")  # fmt: skip
_VERDICT_KEYS = ("finalverdict", "verdict", "answer", "result", "judgement", "judgment", "decision", "conclusion",
                 "same")  # fmt: skip
# Characters in which a score is looked for, at each end.
_END_LENGTH = 2000
# The question repeated, other words for the same, and the same of something else.
_NO_VERDICT = re.compile(
    r"(?i)[\"']?\bsame\b[\"']?\s*(?:or|/|\|)\s*[\"']?different\b[\"']?"
    r"|\bdifferent\s+(?:words?|ways?|wording|terms|phrasings?|phrases|styles?|tones?)\b"
    r"|\bdifferent(?:ly)?\s+in\s+(?:wording|phrasing|style|tone|form|length)\b"
    r"|\bsame[^\S\n]+"  # not "same" and, below it, the first word of a reason
    r"(?!thing|meaning|content|idea|message|information|point|answer|because|since|as|in|and|but|here|overall)\w+"
)
_DOUBT = re.compile(r"(?i)\b(?:not|never|hardly|neither|nor|no(?!\s+doubt)|far from|wrong|incorrect)\b|n't\b")
_END = r"(?=\W*(?:$|[.,;:!?\n–—-]|because\b|since\b|as\b))"
_NAMED_VERDICT = re.compile(
    r"(?i)\b(?:answer|verdict|conclusion|judge?ment|decision|result)\b[\s\"'\]>:=-]*(?:is\s+)?[\s\"'\[(<]*"
    rf"(same|different)\b{_END}"
)


def read_score(reply: str, lowest: float, highest: float) -> float | None:
    """Reads the score in [lowest, highest] that a reply states; None where no score is sure."""
    value = next(_fields(reply, _SCORE_KEYS), reply)
    score = _in_words(_plain(value), highest) if isinstance(value, str) else value
    is_number = isinstance(score, int | float) and not isinstance(score, bool)
    return float(score) if is_number and lowest <= score <= highest else None


def read_same(reply: str) -> bool | None:
    """Reads whether a reply says "same" or "different"; None where neither is sure."""
    for value in _fields(reply, _VERDICT_KEYS):
        value = {"yes": True, "true": True, "no": False, "false": False}.get(str(value).lower(), value)
        return value if isinstance(value, bool) else read_same(value) if isinstance(value, str) else None
    # A question may be the one that was asked, whose words are no answer to it.
    text = _NO_VERDICT.sub(" ", re.sub(r"[^.?!\n]*\?", " ", _plain(reply)))
    if named := _NAMED_VERDICT.findall(text):
        return named[-1].lower() == "same"
    for line in (text.strip(), text.strip().rpartition("\n")[2]):
        if opening := re.match(rf"(?i)[^\w\n]*(same|different)\b{_END}", line):
            return opening[1].lower() == "same"
    said = {word.lower() for word in re.findall(r"(?i)\b(?:same|different)\b", text)}
    return "same" in said if len(said) == 1 and not _DOUBT.search(text) else None


def _in_words(text: str, highest: float) -> float | None:
    """The score of a reply in words, by the surest form that occurs."""
    if marked := _found(_MARKED, text):
        return _agreed(marked[-1:], highest)
    text = _ASIDE.sub(" ", re.sub(r"(?<=\d)\s*\((?:out )?of (\d+)\)", r"/\1", text))
    stated = [found for found in _sure(_STATED, text) if (found["of"] or "").lower() not in _LIMITS]
    final = [found for found in stated if found["of"] is None or found["of"].lower() in _FINAL]
    if whole := final or [found for found in stated if found["of"].lower() in _WHOLE]:
        return _agreed(whole[-1:], highest)
    if stated:  # "Clarity score: 3", "Style score: 8"
        return _agreed(stated, highest)
    lines = [line for line in text.split("\n") if line.strip()]
    for line in (text, *lines[-1:], *lines[:1]):
        if found := re.fullmatch(_ALONE, line, re.IGNORECASE):
            return _agreed([found], highest)
    return _agreed([found for found in _sure(_FRACTION, text) if found["top"]], highest)


def _found(form: str, text: str) -> list[re.Match[str]]:
    return list(re.finditer(form, text, re.IGNORECASE))


def _sure(form: str, text: str) -> list[re.Match[str]]:
    """Matches of a form, without those that their sentence denies or makes depend on something."""
    return [found for found in _found(form, text) if not _is_denied(text, found)]


def _is_denied(text: str, found: re.Match[str]) -> bool:
    before = re.split(r"[.!?;\n](?:\s|$)", text[: found.start("score")])[-1]
    after = re.split(r"[.!?;\n](?:\s|$)", text[found.end() :])[0]
    return bool(_DENIED.search(before) or re.search(r"(?i)\b(?:if|unless|only when)\b", after))


def _agreed(found: list[re.Match[str]], highest: float) -> float | None:
    """The one number of all matches; None where there are several, or one is out of another highest score."""
    scores = {float(match["score"]) if match["top"] in (None, "") or float(match["top"]) == highest else None
              for match in found}  # fmt: skip
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


def _fields(reply: str, keys: tuple[str, ...]) -> Iterator[Any]:
    """What stands under the first of the keys in JSON objects of a reply, the whole of it first, then from the last."""
    between = reply[reply.find("{") : reply.rfind("}") + 1]
    for text in (reply, between, *reversed(re.findall(r"\{[^{}]*\}", reply))):
        try:
            level = [json.loads(text)]
        except (ValueError, RecursionError):
            continue
        while level:
            fields = {}
            for entry in level:
                fields |= entry if isinstance(entry, dict) else {}
            named = {re.sub(r"[^a-z]", "", key.lower()): value for key, value in reversed(fields.items())}
            yield from [named[key] for key in keys if key in named and not isinstance(named[key], dict | list)][:1]
            nested = [value for entry in level if isinstance(entry, list) for value in entry]
            level = [value for value in (*fields.values(), *nested) if isinstance(value, dict | list)]
