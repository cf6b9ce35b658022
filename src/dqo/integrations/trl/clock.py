"""Wall-clock shares of an optimizer step, so that what diversity costs is a number in every log."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class StepClock:
    """Adds up named spans of wall time until they are collected, once an optimizer step.

    Spans nest: "time/step" holds "time/rollout", which holds "time/generate", "time/reward", "time/embed" and
    "time/credit". `collect` adds "time/update", the step without its rollout.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time the block under this name, in seconds; an exception inside is timed too and passes on."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start

    def collect(self) -> dict[str, float]:
        """Seconds by name since the last call, with "time/update"; starts anew."""
        seconds = dict(self._seconds)
        seconds["time/update"] = seconds.get("time/step", 0.0) - seconds.get("time/rollout", 0.0)
        self._seconds.clear()
        return seconds
