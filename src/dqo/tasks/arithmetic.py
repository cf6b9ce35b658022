"""A strict reader of arithmetic written by a model: + − × ÷, parentheses and plain integers, on exact fractions.

Model output is untrusted, so nothing is evaluated by Python: a tokenizer and a recursive-descent parser accept

    sum     = product (("+" | "-") product)*
    product = factor (("*" | "/") factor)*
    factor  = integer | "(" sum ")"

and nothing else: no powers, signs, decimals, names or digits outside 0-9. Length, literal size and nesting are limited.
"""

from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 200
MAX_DIGITS = 6
MAX_DEPTH = 20

_SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})
_SIGNS = {"+": 1, "-": -1, "*": 1, "/": -1}


class ExpressionError(ValueError):
    """Text that is no expression of the grammar; it marks a wrong answer, not a mistake of the user."""


@dataclass(frozen=True)
class Expression:
    """An expression, its value, and a form in which order and grouping that do not matter are gone.

    Attributes:
        value: Exact value.
        numbers: The integers written in it, from left to right.
        kind: "number", "sum" or "product".
        parts: Of a sum, its terms with sign; of a product, its factors with exponent ±1; of a number, itself. Sorted.
    """

    value: Fraction
    numbers: tuple[int, ...]
    kind: str
    parts: tuple[tuple[int, str], ...]

    @property
    def text(self) -> str:
        """The normal form: equal for expressions that differ by commuting or regrouping alone."""
        plus, minus = (" + ", " - ") if self.kind == "sum" else (" * ", " / ")
        first, *rest = self.parts
        return first[1] + "".join((plus if sign > 0 else minus) + part for sign, part in rest)


def number(value: int) -> Expression:
    """The expression that is one integer.

    Args:
        value: The integer, at least 0.

    Returns:
        The expression.
    """
    return Expression(Fraction(value), (value,), "number", ((1, str(value)),))


def combine(left: Expression, operator: str, right: Expression) -> Expression:
    """Join two expressions.

    Args:
        left: First operand.
        operator: One of "+", "-", "*", "/".
        right: Second operand.

    Returns:
        The joined expression in normal form.

    Raises:
        ExpressionError: Division by zero.
    """
    if operator == "/" and right.value == 0:
        raise ExpressionError("division by zero")
    kind, sign = ("sum" if operator in "+-" else "product"), _SIGNS[operator]
    if kind == "sum":
        value = left.value + sign * right.value
    else:
        value = left.value * right.value if sign > 0 else left.value / right.value
    parts = [*_parts(left, kind), *((sign * s, text) for s, text in _parts(right, kind))]
    parts.sort(key=lambda part: (-part[0], len(part[1]), part[1]))
    return Expression(value, left.numbers + right.numbers, kind, tuple(parts))


def parse(text: str) -> Expression:
    """Read one expression that fills the whole text.

    Args:
        text: Any string; "×", "·", "÷" and the typographic minus are read as * / and -.

    Returns:
        The expression with its exact value.

    Raises:
        ExpressionError: Anything outside the grammar or the limits, or a division by zero.
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"longer than {MAX_CHARACTERS} characters")
    parser = _Parser(_tokens(text.translate(_SPELLINGS)))
    expression = parser.sum(0)
    if parser.rest:
        raise ExpressionError(f"unexpected {parser.rest[-1]!r}")
    return expression


class _Parser:
    """Recursive descent over the tokens, which are taken from the end of the reversed list."""

    def __init__(self, tokens: list[str]):
        self.rest = tokens[::-1]

    def take(self, choices: str) -> str | None:
        return self.rest.pop() if self.rest and self.rest[-1] in choices else None

    def sum(self, depth: int) -> Expression:
        left = self.product(depth)
        while operator := self.take("+-"):
            left = combine(left, operator, self.product(depth))
        return left

    def product(self, depth: int) -> Expression:
        left = self.factor(depth)
        while operator := self.take("*/"):
            left = combine(left, operator, self.factor(depth))
        return left

    def factor(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise ExpressionError(f"more than {MAX_DEPTH} nested parentheses")
        if self.take("("):
            inside = self.sum(depth + 1)
            if not self.take(")"):
                raise ExpressionError("a parenthesis is not closed")
            return inside
        if not self.rest or self.rest[-1] in "+-*/()":
            raise ExpressionError(f"expected a number, got {self.rest[-1] if self.rest else 'the end'!r}")
        return number(int(self.rest.pop()))


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    digits = ""
    for character in f"{text} ":  # the final blank closes a number at the end
        if character in "0123456789":
            digits += character
            continue
        if digits:
            if len(digits) > MAX_DIGITS:
                raise ExpressionError(f"a number of more than {MAX_DIGITS} digits")
            tokens.append(digits)
            digits = ""
        if character in "+-*/()":
            tokens.append(character)
        elif character not in " \t":
            raise ExpressionError(f"unexpected character {character!r}")
    return tokens


def _parts(expression: Expression, kind: str) -> tuple[tuple[int, str], ...]:
    if expression.kind == kind:
        return expression.parts
    text = expression.text
    return ((1, f"({text})" if (kind, expression.kind) == ("product", "sum") else text),)
