"""Bad input at every door, by the thousand where it is cheap: what is taken, what refused in a sentence, what crashes.

    python benchmarks/fuzz.py --examples 5000 --seed 0

A door is whatever reads something a user, a model, a data set or a server wrote. The rule: it takes the input, or
refuses it with a DQOError of one sentence (the command line: with status 2 and no traceback). Anything else is a crash;
more than `--limit` seconds of processor time on one input is a hang. The status is 1 where there was one of either.
"""

import argparse
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from dqo.errors import DQOError

_LONGEST = 3000  # characters of a sentence


@dataclass(frozen=True)
class Door:
    """Something that reads input.

    Attributes:
        name: What the table calls it.
        inputs: Strategy of hypothesis.
        enter: Called with (input, an empty folder); raises what it raises.
        cost: About how many times dearer than the cheapest doors; they get so many fewer inputs.
    """

    name: str
    inputs: st.SearchStrategy
    enter: Callable[[Any, Path], Any]
    cost: int = 1


@dataclass
class Tally:
    """What came of the inputs of one door; `crashes` maps kind and place of a crash to the first input that had it."""

    taken: int = 0
    refused: int = 0
    slowest: float = 0.0
    crashes: dict[str, str] = field(default_factory=dict)
    refusals: Counter = field(default_factory=Counter)

    @property
    def tried(self) -> int:
        """All inputs, crashes by their number too."""
        return self.taken + self.refused + self.crashed

    crashed: int = 0


class Hang(BaseException):
    """An input took longer than the limit; no `except Exception` on the way may stop it."""


def knock(door: Door, examples: int, seed_value: int, limit: int = 20) -> Tally:
    """Throw inputs at one door.

    Args:
        door: The door.
        examples: Most inputs; hypothesis gives fewer where there are no more different ones.
        seed_value: Of the inputs.
        limit: Seconds an input may take.

    Returns:
        What came of them.
    """
    tally = Tally()

    @seed(seed_value)
    @settings(max_examples=examples, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(door.inputs)
    def throw(value: Any) -> None:
        _one(door, value, limit, tally)

    throw()
    return tally


def _one(door: Door, value: Any, limit: int, tally: Tally) -> None:
    start = time.process_time()
    try:
        with tempfile.TemporaryDirectory(prefix="dqo-fuzz-") as folder, _silence(), _alarm(limit):
            door.enter(value, Path(folder))
        tally.taken += 1
    except DQOError as error:
        sentence = str(error)
        if not sentence or "\n" in sentence.strip() or len(sentence) > _LONGEST:
            _crash(tally, f"{type(error).__name__} that is no sentence ({len(sentence)} characters)", value, error)
        else:
            tally.refused += 1
            tally.refusals[type(error).__name__] += 1
    except (Exception, Hang) as error:
        _crash(tally, type(error).__name__, value, error)
    tally.slowest = max(tally.slowest, time.process_time() - start)


def _crash(tally: Tally, kind: str, value: Any, error: BaseException) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{Path('dqo')}/" in frame.filename and "benchmarks" not in frame.filename]
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed([*own[-2:], frames[-1]]))
    tally.crashed += 1
    tally.crashes.setdefault(f"{kind} at {where}", f"{str(error)[:200]!r} for {value!r}"[:1200])


@contextmanager
def _silence() -> Iterator[None]:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _alarm(limit: int) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise Hang(f"more than {limit} s of processor time, or {10 * limit} s in all")

    alarms = {signal.SIGPROF: signal.ITIMER_PROF, signal.SIGALRM: signal.ITIMER_REAL}
    for number, timer in alarms.items():  # processor time, which a busy machine does not stretch; waiting counts too
        signal.signal(number, ring)
        signal.setitimer(timer, limit if timer == signal.ITIMER_PROF else 10 * limit)
    try:
        yield
    finally:
        for timer in alarms.values():
            signal.setitimer(timer, 0)


def _import_hosts() -> None:
    """So that no input is charged for the seconds that importing them takes."""


def main() -> int:
    """Knock at every door, or at those named."""
    from fuzz_doors import doors

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=5000, help="inputs for a cheap door (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=20, help="seconds an input may take (default: %(default)s)")
    parser.add_argument("doors", nargs="*", help="names; all of them where none is given")
    args = parser.parse_args()
    print(
        f"{'door':22} {'tried':>7} {'taken':>7} {'refused':>8} {'crashed':>8} {'kinds':>6} {'slowest':>8}", flush=True
    )
    total, left = Counter(), 0
    for door in doors():
        if args.doors and door.name not in args.doors:
            continue
        if door.cost > 1:
            _import_hosts()
        tally = knock(door, max(20, args.examples // door.cost), args.seed, args.limit)
        print(f"{door.name:22} {tally.tried:7} {tally.taken:7} {tally.refused:8} {tally.crashed:8} "
              f"{len(tally.crashes):6} {tally.slowest:7.2f}s", flush=True)  # fmt: skip
        for kind, example in tally.crashes.items():
            print(f"    {kind}: {example}", flush=True)
        total += Counter(tried=tally.tried, taken=tally.taken, refused=tally.refused)
        left += tally.crashed
    print(f"{'all':22} {total['tried']:7} {total['taken']:7} {total['refused']:8} {left:8}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
