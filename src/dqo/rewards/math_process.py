"""The process that runs math-verify: started once, killed and started anew when an answer takes too long."""

import json
import selectors
import subprocess
import sys
import time
from pathlib import Path

from dqo.errors import RecipeError, RewardError

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
