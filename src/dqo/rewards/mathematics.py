"""Right or wrong of a final answer: numbers compared here, formulas by math-verify in a process that can be killed."""

import json
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dqo.errors import RecipeError, RewardError
from dqo.models.response import completion_text
from dqo.rewards.math_reading import final_answer, read_number, simplified, stated_number

MAX_CHARACTERS = 200  # a longer answer is wrong without a look
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")  # words, which math-verify passes over; not commands of LaTeX
_NO_FORMULA = re.compile(r"[=?']|(?<!log)_|\\[bp]?mod\b")  # what math-verify passes over beside a number: 18_{16}
_MERIDIEM = re.compile(r"(?i)(?<=\d)\s*[ap]\.?m\.?\Z")


class MathReward:
    """1 for a response whose final answer equals the reference, else 0; a reward in TRL's convention.

    Two numbers, however written (`dqo.rewards.math_reading`), are compared as exact fractions, units passed over; where
    the reference is a number, an answer in words has to state exactly one. Two texts may be equal as they stand.
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
            if not any(text.strip() for text in golds):
                raise RewardError(
                    f"reward 'math': expected the right answer in `reference` of row {row}, got none; use data with "
                    "answers, or another reward."
                )
            found = final_answer(completion_text(completion))
            rewards.append(
                float(found is not None and any(self._equal(text, found.text) for text in golds if text.strip()))
            )
        return rewards

    def _compare(self, gold: str, answer: str) -> bool:
        if not answer or len(answer) > MAX_CHARACTERS:
            return False
        number = read_number(gold)
        if number is not None:
            stated = stated_number(answer)
            if stated is not None or _PROSE.search(simplified(answer)) or _NO_FORMULA.search(answer):
                return stated is not None and number.equals(stated)
        left, right = _spelled(gold), _spelled(answer)
        if left == right or (":" in left and left == _MERIDIEM.sub("", right)):
            return True
        if ":" in left + right or re.fullmatch("[A-Za-z]", left):  # a ratio, a time or a choice, which are no formulas
            return False
        return self._process.equal(gold, answer)


def _spelled(text: str) -> str:
    """A text as it counts for equality: no blanks around marks, words in lower case, a single letter as it is."""
    plain = re.sub(r"\s*([^\w\s])\s*", r"\1", simplified(text.replace("\\colon", ":")))
    plain = plain[1:-1] if re.fullmatch(r"\([A-Za-z]\)", plain) else plain  # a choice: (B) is B
    return re.sub(r"[A-Za-z]{2,}", lambda word: word.group().casefold(), plain)


# The process that runs math-verify: started once, killed and started anew when an answer takes too long.

_START_SECONDS = 120.0  # sympy loads in seconds, on a busy machine in many
_WORKER = Path(__file__).with_name("math_worker.py")


class MathProcess:
    """Equality of two mathematical expressions, within a time limit.

    Args:
        timeout: Seconds a comparison may take.

    Raises:
        RecipeError: A time limit that is no positive number.
        RewardError: When used: math-verify is not installed or cannot be started.
    """

    def __init__(self, timeout: float):
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < 3600:
            raise RecipeError(f"timeout: expected a positive number of seconds, got {timeout!r}.")
        self.timeout = timeout
        self.timeouts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def equal(self, gold: str, answer: str) -> bool:
        """Whether two expressions are equal; False, and counted, where the time limit or the memory did not do.

        Args:
            gold: The reference.
            answer: From a model, so nothing is taken for granted.

        Returns:
            True or False.
        """
        process = self._started()
        assert process.stdin is not None, "opened as a pipe"
        try:
            process.stdin.write(json.dumps([gold, answer]).encode() + b"\n")
            process.stdin.flush()
        except OSError:  # it died between two answers; the next one gets a new process
            return self._gave_up()
        reply = self._line(self.timeout)
        return self._gave_up() if reply is None else json.loads(reply)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self._process.kill()
            self._process.wait()

    def _gave_up(self) -> bool:
        self.timeouts += 1
        self.close()
        return False

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            # -P keeps the folder of the worker off the path, where our modules would hide packages of the same name
            command = [sys.executable, "-P", str(_WORKER)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                start_new_session=True,  # a training that Ctrl-C stops still scores the step in progress
            )  # fmt: skip
            if self._line(_START_SECONDS) != b"ready\n":
                self.close()
                raise RewardError(
                    "the reward 'math' needs the package math-verify, but its process did not start; run "
                    "`pip install -e '.[data]'`."
                )
        return self._process

    def _line(self, seconds: float) -> bytes | None:
        """The next line the process writes; None if it does not come in time or the process ends."""
        assert self._process is not None, "started before"
        assert self._process.stdout is not None, "opened as a pipe"
        line, deadline = b"", time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                piece = self._process.stdout.read1(4096)
                if not piece:
                    return None
                line += piece
        return line
