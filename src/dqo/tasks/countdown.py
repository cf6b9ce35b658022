"""Countdown: reach a target from given numbers with arithmetic; every prompt has many right answers."""

import ast
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, ClassVar

from pydantic import Field

from dqo.errors import RecipeError
from dqo.files.records import Prompt
from dqo.tasks.splits import GeneratedTask, meta_field

# A well-formed expression over the allowed numbers that misses the target.
PARTIAL = 0.1
MAX_CHARACTERS = 200
MAX_DIGITS = 6

_TARGETS = range(10, 100)
# A 1 would make "times 1" a cheap second solution.
_SMALLEST = 2
# Random expressions among which a target with two solutions is looked for.
_DRAWS = 150
_ATTEMPTS = 50
_QUESTION = (
    "Use the numbers {numbers} with + - * / and parentheses to make {target}. "
    "Use each number at most once and no other number. Write only the expression."
)
_SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})
_ARITHMETIC = re.compile(r"[0-9+\-*/() \t]+")
_TOO_LONG = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")
_LEADING_ZEROS = re.compile(r"\b0+(?=[0-9])")
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


class ExpressionError(ValueError):
    """Text that is no expression; it marks a wrong answer, not a mistake of the user."""


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


def parse(text: str) -> Expression:
    """Reads an expression of + - * / and parentheses over plain integers; ExpressionError for any other text."""
    text = text.translate(_SPELLINGS)
    if len(text) > MAX_CHARACTERS or not _ARITHMETIC.fullmatch(text) or _TOO_LONG.search(text):
        raise ExpressionError(f"{text[:80]!r} holds more than short arithmetic")
    try:
        # Python only parses what a model wrote, into a tree of which four operations are read; it evaluates nothing.
        tree = ast.parse(_LEADING_ZEROS.sub("", text).strip(" \t"), mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(f"{text!r} is no expression") from error
    return _read_tree(tree)


def _read_tree(node: ast.expr) -> Expression:
    if isinstance(node, ast.Constant):
        return _number(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _combine(_read_tree(node.left), _OPERATORS[type(node.op)], _read_tree(node.right))
    raise ExpressionError(f"expected + - * / between numbers, got {type(node).__name__}")


def _number(value: int) -> Expression:
    return Expression(Fraction(value), (value,), "number", ((1, str(value)),))


def _combine(left: Expression, operator: str, right: Expression) -> Expression:
    if operator == "/" and right.value == 0:
        raise ExpressionError("division by zero")
    kind, sign = ("sum" if operator in "+-" else "product"), (1 if operator in "+*" else -1)
    if kind == "sum":
        value = left.value + sign * right.value
    else:
        value = left.value * right.value if sign > 0 else left.value / right.value
    parts = [*_parts(left, kind), *((sign * s, text) for s, text in _parts(right, kind))]
    parts.sort(key=lambda part: (-part[0], len(part[1]), part[1]))
    return Expression(value, left.numbers + right.numbers, kind, tuple(parts))


def _parts(expression: Expression, kind: str) -> tuple[tuple[int, str], ...]:
    if expression.kind == kind:
        return expression.parts
    text = expression.text
    return ((1, f"({text})" if (kind, expression.kind) == ("product", "sum") else text),)


@dataclass(frozen=True)
class Puzzle:
    """Numbers in ascending order, a target, and two solutions in normal form that are no part of its identity."""

    numbers: tuple[int, ...]
    target: int
    solutions: tuple[str, ...] = field(compare=False)


@dataclass(kw_only=True)
class CountdownTask(GeneratedTask):
    """Numbers and a target, each prompt with at least two solutions that differ by more than order or grouping.

    Quality is 1 for an expression that equals the target and uses each number at most once, `PARTIAL` for another
    expression of two or more of the numbers, else 0; a response that did not end by itself is worth 0. An expression
    may be followed by "= " and its value, or steps to it, and by a full stop: a false equation is worth 0, and so is
    chatter after the answer.
    No two splits share a set of numbers.

    Attributes:
        numbers: How many numbers a puzzle has, 3 to 6.
        max_number: The largest of them, 5 to 99.
    """

    numbers: Annotated[int, Field(ge=3, le=6)] = 4
    max_number: Annotated[int, Field(ge=5, le=99)] = 25

    name: ClassVar[str] = "countdown"
    max_completion_length: ClassVar[int] = 48

    def draw(self, rng: random.Random) -> Puzzle:
        """Draws numbers, and a target among those that random expressions reach in two ways."""
        for _ in range(_ATTEMPTS):
            numbers = sorted(rng.randint(_SMALLEST, self.max_number) for _ in range(self.numbers))
            # Value -> solutions in the order of their drawing.
            found: dict[int, dict[str, None]] = {}
            for expression in (_random_expression(rng, numbers) for _ in range(_DRAWS)):
                value = None if expression is None or expression.value.denominator > 1 else int(expression.value)
                if value in _TARGETS and value not in numbers:
                    found.setdefault(value, {})[expression.text] = None
            rich = [value for value, texts in found.items() if len(texts) >= 2]
            if rich:
                target = rng.choice(rich)
                return Puzzle(tuple(numbers), target, tuple(found[target])[:2])
        raise RecipeError(
            f"countdown: no target with two solutions was found for {self.numbers} numbers up to {self.max_number}; "
            "raise one of them."
        )

    def clash(self, one: Puzzle, other: Puzzle) -> bool:
        """Tells whether two puzzles have the same numbers."""
        return one.numbers == other.numbers

    def ask(self, item: Puzzle) -> tuple[str, list[str], dict]:
        """Asks for an expression; the references are two known solutions, `meta` holds numbers and target."""
        text = _QUESTION.format(numbers=", ".join(map(str, item.numbers)), target=item.target)
        return text, list(item.solutions), {"numbers": list(item.numbers), "target": item.target}

    def answer_span(self, response: str) -> str:
        """Writes the expression in normal form, equal for answers that differ by order or grouping alone."""
        expression = _read(response)
        return expression.text if expression else response.strip()

    def answer_key(self, prompt: Prompt, response: str) -> str | None:
        """Writes a solution in normal form; None for another response."""
        return self.answer_span(response) if self._score(prompt, response, ended=True) == 1.0 else None

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """Scores each of the N rows 1, `PARTIAL` or 0."""
        return [self._score(*row) for row in zip(prompts, responses, ended, strict=True)]

    def _score(self, prompt: Prompt, response: str, ended: bool) -> float:
        allowed = Counter(meta_field(prompt, "numbers", list[int], self.name))
        target = meta_field(prompt, "target", int, self.name)
        expression = _read(response)
        if not ended or expression is None or len(expression.numbers) < 2 or not Counter(expression.numbers) <= allowed:
            return 0.0
        return 1.0 if expression.value == target else PARTIAL


def _read(response: str) -> Expression | None:
    """Reads the expression of a response; None where it is none, or where two sides of its "=" differ."""
    try:
        sides = [parse(side) for side in response.strip().rstrip(".").strip("`*$ ").split("=")]
    except ExpressionError:
        return None
    return sides[0] if len({side.value for side in sides}) == 1 else None


def _random_expression(rng: random.Random, numbers: list[int]) -> Expression | None:
    pool = [_number(value) for value in rng.sample(numbers, rng.randint(2, len(numbers)))]
    while len(pool) > 1:
        left = pool.pop(rng.randrange(len(pool)))
        right = pool.pop(rng.randrange(len(pool)))
        operator = rng.choice("+-*/")
        if operator == "/" and right.value == 0:
            return None
        pool.append(_combine(left, operator, right))
    return pool[0]
