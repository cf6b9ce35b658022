"""What lives for one step of training: its clock, and notes that TRL's methods cannot hand to each other."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from dqo.diversity.credit import Evidence


class StepClock:
    """Adds up named spans of wall time until they are collected, once per optimizer step.

    Spans nest: "time/step" holds "time/rollout", which holds "time/generate", "time/reward", "time/embed" and
    "time/credit". `collect` adds "time/update", the step without its rollout.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
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


@dataclass
class Step:
    """Notes of the step under way; the parts of a trainer read and write them.

    Attributes:
        clock: wall time by name.
        losses: of the micro-batches since the last optimizer step, () each.
        sampling: True from the start of a rollout until its rewards are computed.
        prompt_ids: tokens of each prompt of this process's rows.
        task: (P, G) task rewards of the newest batch, of all processes.
        combined: (P, G) rewards that are optimised.
        evidence: what the signal was given beside the embeddings.
        forwards: log-probabilities, entropies and auxiliary loss of each forward; None while nobody asks for them.
    """

    clock: StepClock = field(default_factory=StepClock)
    losses: list[Tensor] = field(default_factory=list)
    sampling: bool = False
    prompt_ids: list[list[int]] = field(default_factory=list)
    task: Tensor | None = None
    combined: Tensor | None = None
    evidence: Evidence = field(default_factory=Evidence)
    forwards: list[tuple] | None = None

    @contextmanager
    def keeping_forwards(self) -> Iterator[list[tuple]]:
        """Collects the results of the forwards inside the block, so that none has to run twice."""
        self.forwards = []
        try:
            yield self.forwards
        finally:
            self.forwards = None
