"""Right or wrong of a final answer: numbers compared here, the rest by math-verify in a process that can be killed."""

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from dqo.errors import RewardError
from dqo.response import completion_text
from dqo.rewards.final_answer import final_answer
from dqo.rewards.math_process import MathProcess

MAX_CHARACTERS = 200  # a longer answer is wrong without a look
_MAX_DIGITS = 1000  # Python refuses to read integers of more than 4300

_LATEX_MARKS = re.compile(r"\\(?:[,;! ]|\$|%|text\{[^{}]*\}|mathrm\{[^{}]*\})|\$")
# A unit stands apart: the xy of 2xy and the i of 3i belong to the answer, as the comma of 1,2 does (72km is left to
# math-verify). So do single letters that are no usual unit, and words that multiply. One may be per another, "km/h".
_FACTOR = r"(?:pi|hundred|thousand|million|billion|trillion|dozen)s?\b"
_WORDS = rf"(?!{_FACTOR})(?:[A-Za-z]{{2}}|[ghlLms]\b)[A-Za-z .]*"
_UNIT = rf"(?:\s*%|\s+{_WORDS}(?:/\s*{_WORDS})?)"
_NUMBER = re.compile(rf"([-+]?(?:(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?|\.\d+)){_UNIT}?\.?")


class MathReward:
    """1 for a response whose final answer equals the reference, else 0; a reward in TRL's convention.

    Two plain numbers are compared as exact fractions (units, thousands commas and a dollar sign are passed over).
    Anything else goes to math-verify, which reads LaTeX with a grammar and never runs it, in a process of its own: an
    answer such as 9**9**9**9 would keep a thread busy for ever, so the process is killed at the time limit and the
    answer counts as wrong. `counts` says how often that happened.

    Args:
        timeout: Seconds an answer may take.

    Raises:
        RewardError: When called: a row without a reference.
    """

    def __init__(self, timeout: float = 5.0):
        self.__name__ = "math"
        self._process = MathProcess(timeout)
        self._equal = lru_cache(maxsize=4096)(self._compare)

    def __reduce__(self) -> tuple[type, tuple[float]]:
        return MathReward, (self._process.timeout,)

    def counts(self) -> dict[str, int]:
        """Answers that took too long so far."""
        return {"timeouts": self._process.timeouts}

    def __call__(
        self,
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        reference: Sequence[str | list[str]],
        **columns: Any,
    ) -> list[float]:
        """N numbers, 1 or 0.

        Args:
            prompts: Not looked at.
            completions: Strings, or lists of chat messages.
            reference: The right answer of each row, or a list of answers any of which will do.
            **columns: Whatever else TRL passes.

        Returns:
            1.0 where the final answer equals the reference, else 0.0.
        """
        rewards = []
        for row, (completion, gold) in enumerate(zip(completions, reference, strict=True)):
            golds = [gold] if isinstance(gold, str) else gold
            if not golds:
                raise RewardError(
                    f"reward 'math': expected the right answer in `reference` of row {row}, got none; use data with "
                    "answers, or another reward."
                )
            found = final_answer(completion_text(completion))
            rewards.append(float(found is not None and any(self._equal(text, found.text) for text in golds)))
        return rewards

    def _compare(self, gold: str, answer: str) -> bool:
        if not answer or len(answer) > MAX_CHARACTERS:
            return False
        left, right = as_number(gold), as_number(answer)
        if left is not None and right is not None:
            return left == right
        return self._process.equal(gold, answer)


def as_number(text: str) -> Fraction | None:
    """The number that a text is, units passed over; None for anything more than a number.

    Args:
        text: Such as "$1,200.50", "-3" or "72 apples".

    Returns:
        The exact number. A percent sign is a unit: "5%" is 5.
    """
    found = _NUMBER.fullmatch(_LATEX_MARKS.sub("", text.strip()).strip())
    if found is None or len(found[1]) > _MAX_DIGITS:
        return None
    return Fraction(found[1].replace(",", ""))
