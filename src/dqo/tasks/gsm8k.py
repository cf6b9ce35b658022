"""GSM8K: grade-school word problems with one number as the answer, the paper's reasoning task."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from dqo.files.records import Prompt
from dqo.rewards.math_reading import final_answer, read_number
from dqo.rewards.mathematics import MathReward
from dqo.tasks.datasets import DatasetTask, HubData, Record, Row

# An answer is stated where it was asked for, but it is another one.
WRONG = 0.1
# Factor for a response that goes on after its answer.
TAIL = 0.5

_CALCULATOR = re.compile(r"<<[^<>]*>>")


def _records(rows: Iterator[Row], split: str) -> Iterator[Record]:
    for number, row in enumerate(rows):
        solution, _, answer = row["answer"].rpartition("####")
        solution = _CALCULATOR.sub("", solution).strip()
        meta = {"solution": solution, "steps": len(solution.splitlines())}
        yield f"gsm8k-{split}-{number:05d}", row["question"], answer.strip().replace(",", ""), meta


@dataclass(kw_only=True)
class Gsm8kTask(DatasetTask):
    r"""Word problems; quality 1 for the right number, `WRONG` for another one, 0 for none or a response cut off.

    The answer is what is stated as asked, after "####", in \\boxed{} or <answer>, or after "the answer is"; a number
    that only stands in the solution is none. What follows it is left out of the embedded span and halves the quality
    (`TAIL`), because a policy paid for the answer alone learns to answer and then to write something unique. Answers
    are compared as numbers, and by math-verify where they are more than a number; nothing of an answer is executed.

    Attributes:
        timeout: Seconds an answer may take to compare before it counts as wrong.
    """

    timeout: float = 5.0

    name: ClassVar[str] = "gsm8k"
    max_completion_length: ClassVar[int] = 300
    needs: ClassVar[str] = "the answer as one number"
    outcome_only: ClassVar[bool] = True
    cuts_span: ClassVar[bool] = True
    default_template: ClassVar[str] = (
        "{prompt}\n\nThink step by step. End with one line that holds only #### and the answer as a number."
    )
    hub: ClassVar[HubData] = HubData(
        name="openai/gsm8k",
        splits={"train": "train", "test": "test"},
        to_records=_records,
        revision="e53f048856ff4f594e959d75785d2c2d37b678ee",
        config="main",
    )
    _reward: MathReward = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._reward = MathReward(timeout=self.timeout)

    def answer_span(self, response: str) -> str:
        """Cuts the solution behind its answer; takes the whole response where it states none."""
        found = final_answer(response)
        return (response[: found.end] if found else response).strip()

    def is_scorable(self, prompt: Prompt) -> bool:
        """Tells whether the reference is a number."""
        return isinstance(prompt.reference, str) and read_number(prompt.reference) is not None

    def counts(self) -> dict[str, int]:
        """Counts the answers that took too long to compare so far, each taken as wrong; training logs it."""
        return self._reward.counts()

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """Scores each of the N rows 1, `WRONG` or 0, halved by text after the answer."""
        right = self._reward(completions=responses, reference=[prompt.reference for prompt in prompts])
        return [_score(*row) for row in zip(responses, right, ended, strict=True)]


def _score(response: str, right: float, ended: bool) -> float:
    found = final_answer(response)
    if found is None or not ended:
        return 0.0
    return (1.0 if right else WRONG) * (TAIL if found.tail else 1.0)
