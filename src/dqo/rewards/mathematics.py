"""Right or wrong of a final answer: numbers compared here, formulas by math-verify in a process that ends in time."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from dqo.errors import RewardError
from dqo.models.chat import completion_text
from dqo.rewards.math_reading import final_answer, read_number, simplified, stated_number
from dqo.rewards.references import Reference, references_of

# A longer answer is wrong without a look.
MAX_CHARACTERS = 200
# Words, which math-verify passes over; not commands of LaTeX.
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
# What math-verify passes over beside a number: 18_{16}.
_NO_FORMULA = re.compile(r"[=?']|(?<!log)_|\\[bp]?mod\b")
_MERIDIEM = re.compile(r"(?i)(?<=\d)\s*[ap]\.?m\.?\Z")
# -P keeps the folder of the worker off the path, where our modules would hide packages of the same name.
_WORKER = [sys.executable, "-P", str(Path(__file__).with_name("math_worker.py"))]


class MathReward:
    """1 for a response whose final answer equals the reference, else 0; a reward in TRL's convention.

    Two numbers, however written (`dqo.rewards.math_reading`), are compared as exact fractions, units passed over; where
    the reference is a number, an answer in words has to state exactly one. Two texts may be equal as they stand.
    Anything else goes to math-verify, which reads LaTeX with a grammar and never runs it. An answer such as 9**9**9**9
    would keep a thread busy for ever, so this is done in a process of its own, which ends at the time limit. The answer
    then counts as wrong, and `counts` says how often that happened.

    Args:
        timeout: Seconds an answer may take.

    Raises:
        RewardError: When called: a row without a reference, or math-verify is not installed.
    """

    def __init__(self, timeout: Annotated[float, Field(gt=0, lt=3600)] = 5.0):
        self.__name__ = "math"
        self._timeout, self._timeouts = timeout, 0
        self._process: subprocess.Popen[str] | None = None
        self._equal = lru_cache(maxsize=4096)(self._compare)

    def __reduce__(self) -> tuple[type, tuple[float]]:
        return MathReward, (self._timeout,)

    def counts(self) -> dict[str, int]:
        """Answers that took too long so far."""
        return {"timeouts": self._timeouts}

    def __call__(self, *, completions: Sequence[Any], reference: Sequence[Reference], **columns: Any) -> list[float]:
        """Scores N responses; N numbers, 1 or 0. Any of several references will do."""
        rows = zip(completions, references_of(self.__name__, reference), strict=True)
        found = [(final_answer(completion_text(completion)), golds) for completion, golds in rows]
        return [float(bool(said) and any(self._equal(gold, said.text) for gold in golds)) for said, golds in found]

    def _compare(self, gold: str, answer: str) -> bool:
        if not answer or not gold.strip() or len(answer) > MAX_CHARACTERS:
            return False
        number = read_number(gold)
        if number is not None:
            stated = stated_number(answer)
            if stated is not None or _PROSE.search(simplified(answer)) or _NO_FORMULA.search(answer):
                return stated is not None and number.equals(stated)
        left, right = spelled(gold), spelled(answer)
        if left == right or (":" in left and left == _MERIDIEM.sub("", right)):
            return True
        # A ratio, a time or a choice, which are no formulas.
        if ":" in left + right or re.fullmatch("[A-Za-z]", left):
            return False
        return self._verify(gold, answer)

    def _verify(self, gold: str, answer: str) -> bool:
        """Whether math-verify finds two expressions equal; False, and counted, where time or memory did not do."""
        if self._process is None:
            self._process = subprocess.Popen(
                [*_WORKER, str(self._timeout)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a training that Ctrl-C stops still scores the step in progress
            )  # fmt: skip
        process, reply = self._process, ""
        with suppress(BrokenPipeError):  # it ended between two answers
            print(json.dumps([gold, answer]), file=process.stdin, flush=True)
            reply = process.stdout.readline()
        if reply:
            return json.loads(reply)
        self._process = None
        self._timeouts += 1
        # Below 0 by a signal, the alarm's or that of the memory's end.
        if process.wait() > 0:
            needed = "the reward 'math' needs the package math-verify, but its process did not start"
            raise RewardError(f"{needed}; run `pip install -e '.[data]'`.")
        return False


def spelled(text: str) -> str:
    """Spells a text as it counts for equality: no blanks around marks, lower case but for a single letter."""
    plain = re.sub(r"\s*([^\w\s])\s*", r"\1", simplified(text.replace("\\colon", ":")))
    plain = plain[1:-1] if re.fullmatch(r"\([A-Za-z]\)", plain) else plain  # a choice: (B) is B
    return re.sub(r"[A-Za-z]{2,}", lambda word: word.group().casefold(), plain)
