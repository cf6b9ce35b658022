"""Countdown: reach a target from given numbers with arithmetic; every prompt has many right answers."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from dqo.errors import RecipeError
from dqo.records import Prompt
from dqo.tasks.arithmetic import Expression, ExpressionError, combine, number, parse
from dqo.tasks.fields import meta_field
from dqo.tasks.splits import draw_splits, pick_split

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
