"""Countdown: reach a target from given numbers with arithmetic; every prompt has many right answers."""

import ast
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import chain, combinations, product
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field
from torch import Tensor

from dqo.embedders.local import hashed_rows
from dqo.errors import RecipeError
from dqo.files.records import Prompt
from dqo.tasks.splits import GeneratedTask, meta_field

# A well-formed expression over the allowed numbers that misses the target.
PARTIAL = 0.1
MAX_CHARACTERS = 200

# Normal forms of right answers that a puzzle has: below, there is little to be diverse about.
FEWEST_SOLUTIONS = 8

_TARGETS = range(10, 100)
# A 1 would make "times 1" a cheap second solution.
_SMALLEST = 2
_ATTEMPTS = 1000
# Numbers whose expressions are all written down, 70 of three; those of more are built for one value.
_LISTED = 3
# A puzzle of a user's file may have more numbers; it takes minutes to solve.
_MOST_SOLVED = 6
# At this width features that differ have a cosine of about 0 ± 0.05.
_WIDTH = 512
_QUESTION = (
    "Use the numbers {numbers} with + - * / and parentheses to make {target}. "
    "Use each number at most once and no other number. Write only the expression."
)
_SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})
_ARITHMETIC = re.compile(r"[0-9+\-*/() \t]+")
_LEADING_ZEROS = re.compile(r"\b0+(?=[0-9])")
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
# What reading a text that is no expression raises: it marks a wrong answer, not a mistake of the user.
NO_EXPRESSION = (ValueError, SyntaxError, ZeroDivisionError)

Exact = int | Fraction
Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Expression:
    """An expression, its value, and a form in which order and grouping that do not matter are gone.

    Attributes:
        value: Exact value.
        numbers: The integers written in it, from left to right.
        kind: "number", "sum" or "product".
        parts: Of a sum, its terms with sign; of a product, its factors with exponent ±1; of a number, itself. Sorted.
    """

    value: Exact
    numbers: Numbers
    kind: str
    parts: tuple[tuple[int, str], ...]

    @cached_property
    def text(self) -> str:
        """The normal form: equal for expressions that differ by commuting or regrouping alone."""
        plus, minus = (" + ", " - ") if self.kind == "sum" else (" * ", " / ")
        first, *rest = self.parts
        return first[1] + "".join((plus if sign > 0 else minus) + part for sign, part in rest)

    @property
    def steps(self) -> list[str]:
        """The operations of the normal form, in the order of a reader: from left to right, inner ones first."""
        return [_read_tree(node).text for node in _operations(ast.parse(self.text, mode="eval").body)]


def parse(text: str) -> Expression:
    """Reads an expression of + - * / and parentheses over plain integers; `NO_EXPRESSION` for any other text."""
    text = text.translate(_SPELLINGS)
    if len(text) > MAX_CHARACTERS or not _ARITHMETIC.fullmatch(text):
        raise ValueError(f"{text[:80]!r} holds more than short arithmetic")
    # Python only parses what a model wrote, into a tree of which four operations are read; it evaluates nothing.
    return _read_tree(ast.parse(_LEADING_ZEROS.sub("", text).strip(" \t"), mode="eval").body)


def _read_tree(node: ast.expr) -> Expression:
    if isinstance(node, ast.Constant):
        return _number(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _combine(_read_tree(node.left), _OPERATORS[type(node.op)], _read_tree(node.right))
    raise ValueError(f"expected + - * / between numbers, got {type(node).__name__}")


def _operations(node: ast.expr) -> Iterator[ast.BinOp]:
    if isinstance(node, ast.BinOp):
        yield from _operations(node.left)
        yield from _operations(node.right)
        yield node


def _number(value: int) -> Expression:
    return Expression(value, (value,), "number", ((1, str(value)),))


def _combine(left: Expression, operator: str, right: Expression) -> Expression:
    kind, sign = ("sum" if operator in "+-" else "product"), (1 if operator in "+*" else -1)
    if kind == "sum":
        value = left.value + sign * right.value
    else:
        value = left.value * right.value if sign > 0 else _divided(left.value, right.value)
    parts = [*_parts(left, kind), *((sign * s, text) for s, text in _parts(right, kind))]
    parts.sort(key=lambda part: (-part[0], len(part[1]), part[1]))
    return Expression(value, left.numbers + right.numbers, kind, tuple(parts))


def _divided(value: Exact, by: Exact) -> Exact:
    exact = Fraction(value, by)
    # A whole number is equal to its fraction and calculated with ten times as fast.
    return exact.numerator if exact.denominator == 1 else exact


def _parts(expression: Expression, kind: str) -> tuple[tuple[int, str], ...]:
    if expression.kind == kind:
        return expression.parts
    text = expression.text
    return ((1, f"({text})" if (kind, expression.kind) == ("product", "sum") else text),)


class Puzzle(NamedTuple):
    """Numbers in ascending order, a target, and its solutions by length."""

    numbers: Numbers
    target: int
    solutions: tuple[str, ...]


@dataclass(kw_only=True)
class CountdownTask(GeneratedTask):
    """Numbers and a target, each prompt with `FEWEST_SOLUTIONS` that differ by more than order or grouping.

    Quality is 1 for an expression that equals the target and uses each number at most once, `PARTIAL` for another
    expression of two or more of the numbers, else 0; a response that did not end by itself is worth 0. An expression
    may be followed by "= " and its value, or steps to it, and by a full stop: a false equation is worth 0, and so is
    chatter after the answer.
    No two splits share a set of numbers.

    Attributes:
        numbers: How many numbers a puzzle has, 4 or 5.
        max_number: The largest of them, 5 to 99.
    """

    numbers: Annotated[int, Field(ge=4, le=5)] = 4
    max_number: Annotated[int, Field(ge=5, le=99)] = 12

    name: ClassVar[str] = "countdown"
    max_completion_length: ClassVar[int] = 48

    def draw(self, rng: random.Random) -> Puzzle:
        """Draws numbers, and a target among those that they reach in many ways."""
        for _ in range(_ATTEMPTS):
            numbers = tuple(sorted(rng.randint(_SMALLEST, self.max_number) for _ in range(self.numbers)))
            # What a few of the numbers reach in two ways already is reached in many ways by all of them.
            short = Counter(made.value for some in _subsets(numbers, _LISTED) for made in _every(some))
            targets = [value for value in _TARGETS if short[value] >= 2 and value not in numbers]
            if targets:
                target = rng.choice(targets)
                found = sorted(solve(numbers, target), key=lambda text: (len(text), text))
                if len(found) >= FEWEST_SOLUTIONS:
                    return Puzzle(numbers, target, tuple(found))
        raise RecipeError(
            f"countdown: no target with {FEWEST_SOLUTIONS} solutions was found for {self.numbers} numbers up to "
            f"{self.max_number}; raise one of them."
        )

    def clash(self, one: Puzzle, other: Puzzle) -> bool:
        """Tells whether two puzzles have the same numbers."""
        return one.numbers == other.numbers

    def ask(self, item: Puzzle) -> tuple[str, list[str], dict]:
        """Asks for an expression; `meta` holds numbers, target and how many solutions there are."""
        text = _QUESTION.format(numbers=", ".join(map(str, item.numbers)), target=item.target)
        meta = {"numbers": list(item.numbers), "target": item.target, "solutions": len(item.solutions)}
        return text, list(item.solutions[:2]), meta

    def answer_span(self, response: str) -> str:
        """Writes the expression in normal form, equal for answers that differ by order or grouping alone."""
        expression = _read(response)
        return expression.text if expression else response.strip()

    def answer_key(self, prompt: Prompt, response: str) -> str | None:
        """Writes a solution in normal form; None for another response."""
        return self.answer_span(response) if self._score(prompt, response, ended=True) == 1.0 else None

    def right_answers(self, prompt: Prompt) -> Mapping[str, str]:
        """Lists the normal form of every solution with its first step; none for a puzzle of too many numbers."""
        numbers = tuple(sorted(meta_field(prompt, "numbers", list[int], self.name)))
        target = meta_field(prompt, "target", int, self.name)
        found = solve(numbers, target) if len(numbers) <= _MOST_SOLVED else {}
        return {text: expression.steps[0] for text, expression in found.items()}

    def features(self, responses: Sequence[str]) -> Tensor:
        """Describes each expression by its steps, its operators and its first step; any other text by zeros.

        The cosine of two rows is the mean of three cosines, one of each kind: 1 for one normal form, 0 where nothing
        is shared.
        """
        # Hashed, not by a vocabulary of the batch: a row then depends on its own text alone, so that every process
        # and every batch places it alike.
        return hashed_rows(list(map(_described, responses)), _WIDTH)  # (N, D)

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
    except NO_EXPRESSION:
        return None
    return sides[0] if len({side.value for side in sides}) == 1 else None


def _described(response: str) -> dict[str, float]:
    """Features of a response with their weights, those of each kind of norm 1."""
    expression, found = _read(response), {}
    steps = expression.steps if expression else []
    operators = re.findall(r"[-+*/]", expression.text) if expression else []
    for kind, features in (("step", steps), ("operator", operators), ("first", steps[:1])):
        times = Counter(features)
        norm = sum(count**2 for count in times.values()) ** 0.5
        found |= {f"{kind} {feature}": count / norm for feature, count in times.items()}
    return found


def solve(numbers: Numbers, target: Exact) -> dict[str, Expression]:
    """Finds every solution that uses two or more of the numbers, each once at most, by its normal form."""
    return {found.text: found for some in _subsets(numbers, len(numbers)) for found in _reaching(some, target)}


def _subsets(numbers: Numbers, most: int) -> list[Numbers]:
    return sorted({some for size in range(2, most + 1) for some in combinations(numbers, size)})


def _reaching(numbers: Numbers, value: Exact) -> list[Expression]:
    """Lists the expressions of all these numbers that have a value, perhaps one normal form twice."""
    # Of 0 there is no dividing, and no way back from a product with it.
    if len(numbers) <= _LISTED or value == 0:
        return _forms(numbers).get(value, [])
    found = []
    for fewer, others in _splits(numbers):
        for one in _every(fewer):
            a = one.value
            wanted = {value - a, value + a, a - value}
            wanted |= {value * a, _divided(value, a), _divided(a, value)} if a else set()
            pairs = product([one], chain(*(_reaching(others, each) for each in wanted)))
            found += [made for pair in pairs for made in _joined(*pair) if made.value == value]
    return found


@lru_cache(maxsize=512)
def _forms(numbers: Numbers) -> dict[Exact, list[Expression]]:
    """Lists the expressions of all these numbers, one of each normal form, by value."""
    if len(numbers) == 1:
        return {numbers[0]: [_number(numbers[0])]}
    found = {}
    for halves in _splits(numbers):
        for pair in product(*map(_every, halves)):
            found |= {(made.kind, made.parts): made for made in _joined(*pair)}
    by_value: dict[Exact, list[Expression]] = {}
    for made in found.values():
        by_value.setdefault(made.value, []).append(made)
    return by_value


def _every(numbers: Numbers) -> Iterator[Expression]:
    return chain.from_iterable(_forms(numbers).values())


def _splits(numbers: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """Parts numbers in two, the first half no larger than the second."""
    places = range(len(numbers))
    for size in range(1, len(numbers) // 2 + 1):
        for chosen in combinations(places, size):
            yield tuple(numbers[i] for i in chosen), tuple(numbers[i] for i in places if i not in chosen)


def _joined(one: Expression, other: Expression) -> list[Expression]:
    made = [_combine(one, "+", other), _combine(one, "-", other), _combine(other, "-", one), _combine(one, "*", other)]
    divisions = [_combine(a, "/", b) for a, b in ((one, other), (other, one)) if b.value]
    return made + divisions
