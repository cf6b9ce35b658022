r"""Numbers as people and models write them: $1,234.50, 70 000, –3, 2 1/2, \frac34, ½, 1.2 × 10^3, 42°, 50\%, 6 €."""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 300  # of a text that is read as a number

_CHARACTERS = str.maketrans(
    dict.fromkeys("−–‐‑﹣－", "-")
    | dict.fromkeys("\u00a0\u2007\u2008\u2009\u200a\u202f\u3000\t", " ")
    | dict.fromkeys("\u200b\u2060\ufeff\"“”", None)
    | {"⁄": "/", "∕": "/", "÷": "/", "×": "*", "·": "*", "⋅": "*", "’": "'", "º": "°", "≈": "~"}
    | {chr(code + 0xFEE0): chr(code) for code in (*range(0x30, 0x3A), *map(ord, "$%,.+/="))}  # full width
)  # fmt: skip
_VULGAR = re.compile(r"[¼-¾⅐-⅞]")
_SUPERSCRIPT = re.compile(r"[⁻⁰¹²³⁴-⁹]+")
_EMPHASIS = re.compile(r"(?<![\w)*])(\*{1,3}|__?|`+)(?=[^\s*])([^*`]*?[^\s*`])\1(?![\w(*])")  # not the ** of 2**3
_INLINE = re.compile(r"(?<!\\)\$(?=[^\s$])([^$]*?[^\s$\\])\$(?!\d)")  # $x$, not the two dollars of $5 and $6
_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf)|bm|mbox|boldsymbol|boxed)\s*\{([^{}]*)\}")
_FRAC = re.compile(r"\\[dtc]?frac\s*(?:\{\s*([^{}]*?)\s*\}|(\d))\s*(?:\{\s*([^{}]*?)\s*\}|(\d))")
_DEGREES = re.compile(r"\^?\s*\{?\s*(?:\\circ|\\degree|°)\s*\}?")
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
_NO_UNIT = r"(?i:is|are|was|were|wrong|incorrect|off|mod|base|short)\b"  # "18 is wrong", "18 mod 5"
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


@dataclass(frozen=True)
class Number:
    """An exact number, and whether a percent sign stands behind it."""

    value: Fraction
    percent: bool = False

    def equals(self, answer: "Number") -> bool:
        """Whether an answer is this number.

        A percent sign is a unit: 50 % is 50. Where this number is a fraction without the sign, 50 % is .5 too, and
        where it lies between -1 and 1, only that: .5 % is not .5.

        Args:
            answer: The answer.

        Returns:
            True or False.
        """
        hundredth = answer.value / 100
        if self.percent == answer.percent:
            return self.value == answer.value
        if self.percent:
            return answer.value in (self.value, self.value / 100)
        if self.value.denominator == 1:
            return self.value == answer.value
        return self.value == hundredth or (abs(self.value) >= 1 and self.value == answer.value)


def simplified(text: str) -> str:
    """A text with one spelling of signs, blanks, digits and fractions, without emphasis and commands of layout.

    Args:
        text: An answer, as written.

    Returns:
        It in few characters; what is more than layout is left as it is.
    """
    text = _VULGAR.sub(lambda found: f" {unicodedata.normalize('NFKC', found.group())}", text)
    text = _SUPERSCRIPT.sub(lambda found: f"^{{{unicodedata.normalize('NFKC', found.group())}}}", text)
    text = _INLINE.sub(r" \1 ", text.translate(_CHARACTERS)).replace("\\%", "%").replace("\\$", "$").replace("{,}", ",")
    text = re.sub(r"(?<=\d)\\[,! ](?=\d{3}(?!\d))", " ", text)
    text = _EMPHASIS.sub(r"\2", text)
    for pattern, by in ((_WRAPPED, r" \1 "), (_WRAPPED, r" \1 "), (_DEGREES, "°"), (_TIMES, "*"), (_BLANK, " ")):
        text = pattern.sub(by, text)
    return text.strip(" $*`_").rstrip(" .,;*`_$").strip()


def read_number(text: str) -> Number | None:
    """The number that a text is, whatever its unit.

    Args:
        text: Such as "$1,200.50", "-3", "72 apples" or "2\u00a01/2".

    Returns:
        The number; None for anything more than a number and a unit of a few words.
    """
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
    """The one number that an answer states: "x = 5", "24 + 48 = 72", "about 72", "She has 72 apples left".

    Args:
        text: An answer.

    Returns:
        The number; None where there are several, or where a word makes it another one ("half of 72", "not 72").
    """
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
