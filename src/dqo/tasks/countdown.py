"""Countdown: reach a target from given numbers with arithmetic; every prompt has many right answers."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from dqo.errors import RecipeError
from dqo.files.records import Prompt
from dqo.tasks.splits import draw_splits, meta_field, pick_split

# A strict reader of arithmetic written by a model: + − × ÷, parentheses and plain integers, on exact fractions.
#
# Model output is untrusted, so nothing is evaluated by Python: a tokenizer and a recursive-descent parser accept
#
#     sum     = product (("+" | "-") product)*
#     product = factor (("*" | "/") factor)*
#     factor  = integer | "(" sum ")"
#
# and nothing else: no powers, signs, decimals, names or digits outside 0-9. Length, literal size and nesting are
# limited.

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


PARTIAL = 0.1  # a well-formed expression over the allowed numbers that misses the target
_TARGETS = range(10, 100)
_SMALLEST = 2  # a 1 would make "times 1" a cheap second solution
_DRAWS = 150  # random expressions among which a target with two solutions is looked for
_ATTEMPTS = 50

_QUESTION = (
    "Use the numbers {numbers} with + - * / and parentheses to make {target}. "
    "Use each number at most once and no other number. Write only the expression."
)


@dataclass(frozen=True)
class Puzzle:
    """Numbers in ascending order, a target, and two solutions in normal form that are no part of its identity."""

    numbers: tuple[int, ...]
    target: int
    solutions: tuple[str, ...] = field(compare=False)


class CountdownTask:
    """Numbers and a target, each prompt with at least two solutions that differ by more than order or grouping.

    Quality is 1 for an expression that equals the target and uses each number at most once, `PARTIAL` for another
    expression of two or more of the numbers, else 0; a response that did not end by itself is worth 0. An expression
    may be followed by "= " and its value, or steps to it, and by a full stop: a false equation is worth 0, and so is
    chatter after the answer.
    No two splits share a set of numbers.

    Args:
        seed: Seed of the puzzles.
        train_size: Prompts to train on.
        dev_size: Prompts to choose settings on.
        test_size: Prompts to report on.
        numbers: How many numbers a puzzle has, 3 to 6.
        max_number: The largest of them, 5 to 99.
    """

    name = "countdown"
    max_completion_length = 48

    def __init__(
        self,
        seed: int = 0,
        train_size: int = 400,
        dev_size: int = 60,
        test_size: int = 60,
        numbers: int = 4,
        max_number: int = 25,
    ):
        if numbers not in range(3, 7):
            raise RecipeError(f"numbers: expected 3 to 6 numbers a puzzle, got {numbers!r}.")
        if max_number not in range(5, 100):
            raise RecipeError(f"max_number: expected a number from 5 to 99, got {max_number!r}.")
        self._splits = draw_splits(
            lambda rng: _puzzle(rng, numbers, max_number),
            {"train": train_size, "dev": dev_size, "test": test_size},
            seed=seed,
            clash=lambda one, other: one.numbers == other.numbers,
        )

    def prompts(self, split: str) -> list[Prompt]:
        """Puzzles of one split; `reference` holds two known solutions, `meta` the numbers and the target."""
        return [
            Prompt(
                id=(prompt_id := f"countdown-{split}-{index:04d}"),
                prompt=_QUESTION.format(numbers=", ".join(map(str, puzzle.numbers)), target=puzzle.target),
                reference=list(puzzle.solutions),
                meta={"id": prompt_id, "numbers": list(puzzle.numbers), "target": puzzle.target},
            )
            for index, puzzle in enumerate(pick_split(self._splits, split))
        ]

    def answer_span(self, response: str) -> str:
        """The expression in normal form, equal for answers that differ by order or grouping alone; else the text."""
        expression = _read(response)
        return expression.text if expression else response.strip()

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """1, `PARTIAL` or 0 for each of the N rows."""
        return [_score(*row) for row in zip(prompts, responses, ended, strict=True)]


def _score(prompt: Prompt, response: str, ended: bool) -> float:
    allowed = Counter(meta_field(prompt, "numbers", list[int], CountdownTask.name))
    target = meta_field(prompt, "target", int, CountdownTask.name)
    expression = _read(response)
    if not ended or expression is None or len(expression.numbers) < 2 or not Counter(expression.numbers) <= allowed:
        return 0.0
    return 1.0 if expression.value == target else PARTIAL


def _read(response: str) -> Expression | None:
    """The expression of a response, None where it is none or where one side of its "=" is not what another side is."""
    try:
        sides = [parse(side) for side in response.strip().rstrip(".").strip("`*$ ").split("=")]
    except ExpressionError:
        return None
    return sides[0] if len({side.value for side in sides}) == 1 else None


def _puzzle(rng: random.Random, count: int, max_number: int) -> Puzzle:
    for _ in range(_ATTEMPTS):
        numbers = sorted(rng.randint(_SMALLEST, max_number) for _ in range(count))
        found: dict[int, list[str]] = {}
        for _ in range(_DRAWS):
            expression = _random_expression(rng, numbers)
            if expression is None or expression.value.denominator > 1:
                continue
            value = int(expression.value)
            if value in _TARGETS and value not in numbers:
                texts = found.setdefault(value, [])
                if expression.text not in texts:
                    texts.append(expression.text)
        rich = [value for value, texts in found.items() if len(texts) >= 2]
        if rich:
            target = rng.choice(rich)
            return Puzzle(tuple(numbers), target, tuple(found[target][:2]))
    raise RecipeError(
        f"countdown: no target with two solutions was found for {count} numbers up to {max_number}; raise one of them."
    )


def _random_expression(rng: random.Random, numbers: list[int]) -> Expression | None:
    pool = [number(value) for value in rng.sample(numbers, rng.randint(2, len(numbers)))]
    while len(pool) > 1:
        left = pool.pop(rng.randrange(len(pool)))
        right = pool.pop(rng.randrange(len(pool)))
        operator = rng.choice("+-*/")
        if operator == "/" and right.value == 0:
            return None
        pool.append(combine(left, operator, right))
    return pool[0]
