r"""Where a solution states its final answer: after "####", in <answer> or \boxed{}, or after "the answer is"."""

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

# There may be several on one line.
_HASHES = re.compile(r"#{4,}[ \t]*([^\n]*?)(?=####|\n|\Z)")
# "#### Step 1: add" and "#### 2. Add it", as Markdown has them; \frac is an answer's
_HEADING = re.compile(r"[^\w\\]*(?:\d+[.):]\s+)?[A-Za-z]{2}")
# The innermost of nested ones.
_TAGGED = re.compile(r"(?is)<answer>((?:(?!<answer>).)*?)(?:</answer>|\Z)")
# Braces inside of braces to a depth of three.
_BRACED = r"(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+\})*+"
_BOXED = re.compile(rf"\\f?boxed\s*\{{({_BRACED})\}}")
# No two neighbours may match the same blanks: on a run of them the time would grow with its cube.
_SAID = re.compile(
    r"(?im)\banswer(?: (?:to|for|in|of) [^.:=\n]{1,60}?)?(?:\s+(?:is|was|would be|should be|must be)\b|[\s*_]*[:=])"
    r"(?: (?:therefore|thus|then|simply|just|indeed)\b)?[\s:=*_`]*"
    r"|^[ \t#*_>]*(?:the )?(?:final )?answer[ \t*_]*\n[\s*_]*"  # a title, the answer on the next line
)
_CLAUSE = re.compile(r"[^\n]*?(?:\?(?=\s|\Z)|(?=[.!;][\"*_)$\]]*(?:\s|\Z)|\n|\Z))")
_ASIDE = re.compile(
    r"[,;(]|\s[-–—]\s(?=[A-Za-z]{2})|\s(?:because|since|as|so|which|that|when|where)\b"
    r"|\s(?:for|in|on|by|with|after)\b(?! \S?\d)"
)
# What takes an answer back or adds another one: "72, 73", "72. Or 73?", "72 or maybe 73".
_HEDGE = re.compile(
    r"[\s.,;)*$]*(?:(?<=,)\s*\S?\d|\(?(?:or|and|but|no|wait|actually|maybe|perhaps|possibly)\b[^\n]{0,30}?\d)", re.I
)
# Between two boxes that are one answer.
_JOINED = re.compile(r"[\s$.]*(,|or\b|and\b|/|,\s*(?:or|and)\b)[\s$]*")
# "\boxed{72} red apples."
_UNIT_BEHIND = re.compile(r"\$?(?:[ \t]+[A-Za-z]+){0,3}(?=\s*(?:[.!\n]|$))")
# What makes another answer of the box before it: "\boxed{24}{25}", "\boxed{24}^2", but not "\boxed{24}^\circ".
_GOES_ON = re.compile(r"(?:\s*\{|[-+*/_]?\d|_\{|\^(?!\s*\{?\s*\\circ)|\\(?:times|cdot|div|frac|sqrt|pm)\b\s*)\S*")
# A base model invents the next question.
_RUN_ON = re.compile(r"\n[^\S\n]*(?:Question|Q|Problem|User|Human)\s*\d*:")
# What may follow an answer without saying anything.
_CLOSERS = r"(?:\s|[.$*)`_\"!\]}]|\\[\])]|</\w+>)"
_CLOSING = re.compile(rf"\A{_CLOSERS}+|{_CLOSERS}+\Z")


class FinalAnswer(NamedTuple):
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
    """
    run_on = _RUN_ON.search(text)
    stated = (run_on and _last(text, run_on.start())) or _last(text, len(text))
    hashed = [(found[1], found.end()) for found in _HASHES.finditer(text) if found[1].strip()]
    # Before a number it is passed over, behind one it is never reached, so that it does not matter where the number is.
    headings = stated or any(re.search(r"\d", answer) and not _HEADING.match(answer) for answer, _ in hashed)
    for answer, end in hashed:
        if not (headings and _HEADING.match(answer)):
            return _answer(text, answer, end)
    return _answer(text, *stated) if stated else None


def last_boxed(text: str) -> str:
    r"""Finds what stands in the last \boxed{}, "" where there is none."""
    return next(reversed([answer for answer, _ in _boxed(text, len(text))]), "")


def _last(text: str, stop: int) -> tuple[str, int] | None:
    """The last answer of the strictest form up to a place, and where it was first given; "####" is not looked at."""
    for form in (_tagged, _boxed, _said):
        if answers := list(form(text, stop)):
            return next((answer, end) for answer, end in answers if answer == answers[-1][0])
    return None


def _tagged(text: str, stop: int) -> Iterator[tuple[str, int]]:
    for found in _TAGGED.finditer(text, 0, stop):
        yield found[1].strip(), found.end()


def _boxed(text: str, stop: int) -> Iterator[tuple[str, int]]:
    answer, behind = "", 0
    for found in _BOXED.finditer(text, 0, stop):
        joined = bool(answer) and _JOINED.fullmatch(text, behind, found.start())  # "\\boxed{72} or \\boxed{73}"
        answer = f"{answer} {joined[1]} {found[1]}" if joined else found[1].strip()
        behind = found.end()
        if more := _GOES_ON.match(text, behind):
            answer, behind = f"{answer}, {more.group()}", more.end()
        unit = _UNIT_BEHIND.match(text, behind)
        yield answer, unit.end() if unit else behind


def _said(text: str, stop: int) -> Iterator[tuple[str, int]]:
    for found in _SAID.finditer(text, 0, stop):
        clause = _CLAUSE.match(text, found.end(), min(stop, found.end() + MAX_CHARACTERS))
        if clause and re.search(r"[\d\\]", clause.group()):
            stated = _stated(clause.group())
            yield stated, found.end() + len(stated)


def _stated(clause: str) -> str:
    """A clause up to where it goes on to speak of the answer, if it begins with one; else all of it."""
    aside = _ASIDE.search(clause)
    for end in (len(clause), aside.start() if aside else 0):
        if stated_number(clause[:end]) is not None and not _HEDGE.match(clause, end):
            return clause[:end]
    return clause


def _answer(text: str, answer: str, end: int) -> FinalAnswer:
    hedge = _HEDGE.match(text, end)
    whole = re.sub("</answer>.*", "", answer) + (hedge.group() if hedge else "")
    return FinalAnswer(whole.strip().strip("*`").strip(), end, _CLOSING.sub("", text[end:]))


# Numbers as people and models write them: $1,234.50, 70 000, –3, 2 1/2, \frac34, ½, 1.2 × 10^3, 42°, 50\%, 6 €.

# Of a text that is read as a number.
MAX_CHARACTERS = 300

_CHARACTERS = str.maketrans(
    dict.fromkeys("−–‐‑﹣－", "-")
    | dict.fromkeys("\u00a0\u2007\u2008\u2009\u200a\u202f\u3000\t", " ")
    | dict.fromkeys("\u200b\u2060\ufeff\"“”", None)
    | {"⁄": "/", "∕": "/", "÷": "/", "×": "*", "·": "*", "⋅": "*", "’": "'", "º": "°", "≈": "~"}
    | {chr(code + 0xFEE0): chr(code) for code in (*range(0x30, 0x3A), *map(ord, "$%,.+/="))}  # full width
)  # fmt: skip
_VULGAR = re.compile(r"[¼-¾⅐-⅞]")
_SUPERSCRIPT = re.compile(r"[⁻⁰¹²³⁴-⁹]+")
# Not the ** of 2**3.
_EMPHASIS = re.compile(r"(?<![\w)*])(\*{1,3}|__?|`+)(?=[^\s*])([^*`]*?[^\s*`])\1(?![\w(*])")
# $x$, not the two dollars of $5 and $6.
_INLINE = re.compile(r"(?<!\\)\$(?=[^\s$])([^$]*?[^\s$\\])\$(?!\d)")
_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf)|bm|mbox|boldsymbol|boxed)\s*\{([^{}]*)\}")
_FRAC = re.compile(r"\\[dtc]?frac\s*(?:\{\s*([^{}]*?)\s*\}|(\d))\s*(?:\{\s*([^{}]*?)\s*\}|(\d))")
_TIMES = re.compile(r"\\(?:times|cdot|ast)\b")
_BLANK = re.compile(
    r"\\(?:[,;:! ()\[\]]|q?quad\b|thinspace\b|left\b|right\b|displaystyle\b)|\$\$|(?<=\d)~(?=\d{3}\b)|~(?=[A-Za-z])|\s+"
)

# Words that make another number of the one before them ("3 million", "3 and a half", "3 or 4"): no unit has one.
_CHANGE = (
    r"(?i:(?:pi|hundred|thousand|million|billion|trillion|dozen|grand|lakh|crore|half|third|fourth|fifth|sixth|seventh|"
    r"eighth|ninth|tenth|hundredth|thousandth)s?|quarters?\s+of|halves|mil|mln|bn|and|or|to|plus|minus|over|divided|"
    r"multiplied|squared|cubed|factorial|than|not|nor|if|versus|vs)\b"
)
# Words that make another number of the one behind them ("half of 3", "at least 3", "not 3").
_TURN = (
    r"(?i:no|never|nearly|almost|under|above|below|between|without|except|twice|double|triple|times|least|most|how|one|"
    r"root|square|cube|sum|product|difference|quotient|opposite|inverse|reciprocal|rest|percent|step|option|question|"
    r"problem|equation|from|log|ln|sin|cos|tan|sqrt)\b"
)
# "18 is wrong", "18 mod 5"
_NO_UNIT = r"(?i:is|are|was|were|wrong|incorrect|off|mod|base|short)\b"
_LETTERS = rf"(?!{_CHANGE}|{_NO_UNIT})(?:[A-Za-zµ][A-Za-zµ']+|[ghlLms]\b|a(?=\s)|[ap]\.m\b)\.?(?:\s?\^\{{?-?[1-3]\}}?)?"
_GLUED = r"(?:[kcm]m|km/h|[km]g|m[lL]|kWh|mph|ft|lbs?|oz|hrs?|min|secs?|[ap]m|[AP]M)\b\.?(?:\^\{?[23]\}?)?"
_UNIT = (
    rf"(?P<percent>\s*(?:%|per\s?cent\b|pct\b))?(?:\s*°(?:\s*[CF]\b)?|\s*[€£¥₹₩¢]|{_GLUED})?"
    rf"(?:(?:\s+|\s*(?<=[a-z€$%])/\s*){_LETTERS}(?:[ -]{_LETTERS}|\s*/\s*{_LETTERS}){{0,5}})?(?:\s*\([^()\d]*\))?"
)
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:'\d{3})+|\d{1,3}(?: \d{3})+(?![\d/])|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
_CURRENCY = r"(?:(?:US|CA?|AU?|NZ)?\$|[€£¥₹₩]|(?:USD|EUR|GBP|INR|Rs\.?|\\euro|\\pounds)(?=[\s\d]))"
_VALUE = (
    rf"(?P<sign>[-+]?)\s*(?:{_CURRENCY}\s*)?(?P<inner>[-+]?)(?:"
    rf"(?:(?P<whole>\d+)\s+(?:and\s+|&\s*)?(?=\d+\s*/))?(?P<over>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL})"
    rf"|(?P<plain>{_DECIMAL})\.?(?:\s*[*x]\s*10\s*\^\s*\{{?(?P<ten>[-+]?\d{{1,3}})\}}?|[eE](?P<exponent>[-+]?\d{{1,3}}))?"
    r")"
)
_NUMBER = re.compile(rf"{_VALUE}{_UNIT}")
_TERM = rf"[-+$(]*{_DECIMAL}[)%]*"
_SUM = re.compile(rf"(?:{_TERM}(?:\s*[-+*/x]\s*{_TERM})+\s*=\s*)+")
_NAMED = re.compile(r"(?:[A-Za-z](?:_\{?\w+\}?)?|[A-Za-z][A-Za-z ]{1,40})\s*[=:]\s*")
_ABOUT = re.compile(r"(?i)(?:=|~|\\approx\b|\b(?:about|approximately|approx|roughly|exactly|only|just)\b\.?)\s*")
_NEGATIVE = re.compile(r"(?i)\b(?:negative|minus)\s+(?=[$.\d])")
_SENTENCE = re.compile(
    rf"(?:(?!{_CHANGE}|{_TURN})(?:[A-Za-z][A-Za-z'-]+|[aAI]),?:?\s+){{1,15}}(?P<rest>(?:[^A-Za-z\s-]|(?<=is )-).*)"
)


class Number(NamedTuple):
    """An exact number, and whether a percent sign stands behind it."""

    value: Fraction
    percent: bool = False

    def equals(self, answer: "Number") -> bool:
        """Compares an answer with this number.

        A percent sign is a unit: 50 % is 50. Where this number is a fraction without the sign, 50 % is 0.5 too, and
        where it lies between -1 and 1, only that: 0.5 % is not 0.5.
        """
        if self.percent and not answer.percent:
            return answer.value in (self.value, self.value / 100)
        if answer.percent and not self.percent and self.value.denominator > 1:
            return self.value == answer.value / 100 or (abs(self.value) >= 1 and self.value == answer.value)
        return self.value == answer.value


def simplified(text: str) -> str:
    """Gives signs, blanks, digits and fractions one spelling; emphasis and commands of layout go."""
    text = _VULGAR.sub(lambda found: f" {unicodedata.normalize('NFKC', found.group())}", text)
    text = _SUPERSCRIPT.sub(lambda found: f"^{{{unicodedata.normalize('NFKC', found.group())}}}", text)
    text = _INLINE.sub(r" \1 ", text.translate(_CHARACTERS)).replace("\\%", "%").replace("\\$", "$").replace("{,}", ",")
    text = _EMPHASIS.sub(r"\2", text)
    for pattern, by in ((_WRAPPED, r" \1 "), (_TIMES, "*"), (_BLANK, " ")):
        text = pattern.sub(by, text)
    return text.strip(" $*`_").rstrip(" .,;*`_$").strip()


def read_number(text: str) -> Number | None:
    """Reads the number that a text is, whatever its unit of a few words; None for anything more."""
    if len(text) > MAX_CHARACTERS:
        return None
    plain = _FRAC.sub(lambda found: f" {found[1] or found[2]}/{found[3] or found[4]} ", simplified(text))
    found = _NUMBER.fullmatch(" ".join(plain.split()).replace("- ", "-"))
    if found is None:
        return None
    if found["plain"]:
        value = _decimal(found["plain"]) * Fraction(10) ** int(found["ten"] or found["exponent"] or 0)
    else:
        over, under, whole = _decimal(found["over"]), _decimal(found["under"]), int(found["whole"] or 0)
        if not under or (found["whole"] and over >= under):  # 2 5/3 is no mixed number
            return None
        value = whole + over / under
    negative = (found["sign"] == "-") != (found["inner"] == "-")
    return Number(-value if negative else value, bool(found["percent"]))


def stated_number(text: str) -> Number | None:
    """Reads the one number that an answer states: "x = 5", "24 + 48 = 72", "about 72", "She has 72 apples left"."""
    if len(text) > MAX_CHARACTERS:
        return None
    plain = simplified(text)
    for pattern in (_NAMED, _SUM, _ABOUT):
        found = pattern.match(plain)
        plain = plain[found.end() :] if found else plain
    plain = _NEGATIVE.sub("-", plain)
    if (number := read_number(plain)) is not None:
        return number
    sentence = _SENTENCE.fullmatch(plain)
    return read_number(sentence["rest"]) if sentence and "?" not in plain else None


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub("[, ']", "", text))
