"""The answer that a response from elsewhere gives: found by a rule, told apart from others, and right or wrong.

A task of this package knows its answers. For other responses `--answer` names the rule.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dqo.errors import RecipeError
from dqo.files.records import Group, Prompt
from dqo.rewards.math_reading import final_answer, last_boxed, read_number
from dqo.rewards.mathematics import spelled
from dqo.tasks import TASKS, load_task


class Answers:
    r"""The part of a response that is its answer.

    Two answers are the same where they are the same number, or the same text but for case and blanks. References are
    cut by the rule too, so that "… #### 72" and 72 are one; where it finds nothing, the reference is taken whole.

    Args:
        rule: "boxed" takes the last \boxed{}, "stated" what the reward `math` reads ("####", <answer>, \boxed{} or "the
            answer is"), the name of a task its `answer_span`; anything else is a regular expression, of which the last
            match counts, or its first group where it has one.

    Raises:
        RecipeError: No regular expression, or a task that needs options.
    """

    def __init__(self, rule: str):
        self.name = f"answer {rule}"
        self._find = _finder(rule)

    def __call__(self, response: str) -> str:
        """Finds the answer of a response, "" where it gives none."""
        return self._find(response).strip()

    def key(self, prompt: Prompt, response: str) -> str | None:
        """Makes a text that is equal for equal answers; None where there is none."""
        return _key(self(response)) or None

    def same(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Tells of each pair of answers whether they are the same."""
        return [_key(one) == _key(other) for one, other in pairs]

    def equals_reference(self, completions: Sequence[str], reference: Sequence[Any], **columns: Any) -> list[Any]:
        """Scores N responses: 1 where the answer is a reference, else 0, None where there is no reference."""
        rows = zip(completions, reference, strict=True)
        return [self._scored(str(text), [gold] if isinstance(gold, str) else gold) for text, gold in rows]

    def cut_references(self, group: Group) -> Group:
        """A group whose references are their answers, where the rule finds one in them."""
        golds = group.reference
        cut = (self(golds) or golds) if isinstance(golds, str) else [self(gold) or gold for gold in golds]
        return replace(group, reference=cut)

    def _scored(self, text: str, golds: Sequence[str]) -> float | None:
        answer = _key(self(text))
        return float(bool(answer) and answer in map(_key, golds)) if golds else None


def _finder(rule: str) -> Callable[[str], str]:
    if rule == "boxed":
        return last_boxed
    if rule == "stated":
        return lambda text: found.text if (found := final_answer(text)) else ""
    if rule in TASKS:
        return load_task(rule).answer_span
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise RecipeError(
            f"--answer {rule!r}: expected boxed, stated, the name of a task or a regular expression, but it is none "
            f"({error}); correct it."
        ) from error
    return lambda text: next(reversed([found[pattern.groups and 1] for found in pattern.finditer(text)]), "") or ""


def _key(answer: str) -> str:
    number = read_number(answer)
    return spelled(answer) if number is None else f"{number.value}{'%' * number.percent}"
