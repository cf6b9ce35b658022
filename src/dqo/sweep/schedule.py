"""Does jobs side by side in processes of their own: one crash stops one job, and work begun elsewhere is waited for.

A scheduler holds a lock on the folder of each job it works on, so that two sweeps over one folder share the work. The
process of a stage holds another lock, on the folder that it writes to. When a sweep is killed, the process that it had
started goes on, and the next sweep waits for it.
"""

import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dqo.errors import DQOError, FolderBusyError
from dqo.files.run import owner, owning
from dqo.files.stop_signals import StopSignals

LOCK = ".sweep.lock"  # not the lock that the stages take
_PATIENCE = 60.0  # seconds between asking a process to stop and killing it
_TICK = 0.1


@dataclass(frozen=True)
class Stage:
    """One command of a job.

    Attributes:
        name: What it does, in a word.
        argv: The command.
        log: Where its output goes, after what is there already.
        done: Whether what it makes is there and whole.
        folder: What it writes to and holds the lock of.
        prepare: Called before the command is started.
        patience: Seconds that it may need to stop where nothing is lost.
    """

    name: str
    argv: list[str]
    log: Path
    done: Callable[[], bool]
    folder: Path
    prepare: Callable[[], None] = lambda: None
    patience: Callable[[], float] = lambda: _PATIENCE


@dataclass(frozen=True)
class Job:
    """Stages to be done one after the other in one folder; `finish` is called after the last."""

    name: str
    folder: Path
    stages: list[Stage]
    finish: Callable[[], None] = lambda: None


@dataclass
class _Work:
    """A job that is held, and the process of the stage it is at."""

    job: Job
    lock: ExitStack
    stage: Stage | None = None
    process: subprocess.Popen | None = None
    log_start: int = 0
    started: float = field(default_factory=time.monotonic)


def run_jobs(
    jobs: Sequence[Job],
    *,
    slots: int = 1,
    environment: Callable[[int], dict[str, str]] = lambda slot: {},
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Do every stage that is not done, several jobs at a time.

    SIGINT, SIGTERM and SIGHUP are passed on to the processes as SIGTERM, and what they do then is waited for; a second
    SIGINT ends them at once.

    Args:
        jobs: In the order they are started; names unique.
        slots: How many jobs at a time.
        environment: Slot number -> variables set for its processes, on top of this process's own.
        say: Gets one line an event.

    Returns:
        Name of every failed job -> one sentence on why; empty when all is done.

    Raises:
        KeyboardInterrupt: A signal asked to stop.
    """
    waiting, busy, errors = deque(jobs), set[str](), dict[str, str]()
    working: dict[int, _Work] = {}
    signals = StopSignals(
        "stopping; a training finishes its step and saves it. Ctrl-C again ends all at once.",
        lambda: _kill(working.values()),
    )
    with signals.listening():
        try:
            while (waiting or working) and signals.asked is None:
                moved = False
                for slot in sorted(set(range(slots)) - set(working)):
                    work = _take(waiting, busy, say)
                    if work is not None:
                        working[slot], moved = work, True
                for slot, work in list(working.items()):
                    try:
                        going_on = _advance(work, os.environ | environment(slot), say)
                    except FolderBusyError:
                        waiting.append(work.job)
                        going_on = False
                    except (OSError, DQOError, _StageFailed) as error:
                        errors[work.job.name] = str(error)
                        say(f"{work.job.name}: FAILED: {error}")
                        going_on = False
                    if not going_on:
                        work.lock.close()
                        del working[slot]
                        moved = True
                if not moved:
                    time.sleep(_TICK)
        finally:
            _stop(working.values())
            for work in working.values():
                work.lock.close()
    if signals.asked is not None:
        raise KeyboardInterrupt
    return errors


def failure(log: str, returncode: int) -> str:
    """Why a process failed, in one sentence.

    Args:
        log: What it wrote.
        returncode: As `subprocess` gives it.

    Returns:
        The command's own error where it has one, else its last line; how it ended where a signal ended it.
    """
    lines = [line.strip() for line in re.split(r"[\r\n]", log) if line.strip()]
    told = next((line for line in reversed(lines) if line.startswith("dqo: error: ")), None)
    if told:
        return told.removeprefix("dqo: error: ")
    if returncode < 0:
        name = signal.Signals(-returncode).name
        return f"its process was ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"status {returncode}: {lines[-1][:300]}" if lines else f"status {returncode} without a word"


class _StageFailed(Exception):
    """A stage's process ended without what it should have made."""


def _take(waiting: deque[Job], busy: set[str], say: Callable[[str], None]) -> _Work | None:
    """The first waiting job that nobody else works on; those that are busy stay in their places."""
    for job in list(waiting):
        lock = ExitStack()
        try:
            lock.enter_context(owning(job.folder, LOCK, grace=0))
            stage = next((stage for stage in job.stages if not stage.done()), None)
            holder = owner(stage.folder) if stage is not None else None
        except FolderBusyError:
            holder = owner(job.folder, LOCK) or "another process"
        if holder is None:
            waiting.remove(job)
            return _Work(job, lock)
        lock.close()
        if job.name not in busy:
            say(f"{job.name}: {holder} works on it; waiting for it")
            busy.add(job.name)
    return None


def _advance(work: _Work, environment: dict[str, str], say: Callable[[str], None]) -> bool:
    """Looks after one job; False when there is nothing left to do for it."""
    if work.process is not None:
        code = work.process.poll()
        if code is None:
            return True
        stage, work.process = work.stage, None
        if code == FolderBusyError.status:  # another process took the folder while this one started
            raise FolderBusyError(f"{stage.folder}: another process writes to it.")
        if code != 0 or not stage.done():
            with stage.log.open("rb") as log:
                log.seek(work.log_start)
                text = log.read().decode(errors="replace")
            raise _StageFailed(f"{stage.name}: {failure(text, code)} (log: {stage.log})")
        say(f"{work.job.name}: {stage.name} done in {(time.monotonic() - work.started) / 60:.1f} min")
    work.stage = next((stage for stage in work.job.stages if not stage.done()), None)
    if work.stage is None:
        work.job.finish()
        return False
    _start(work, environment)
    say(f"{work.job.name}: {work.stage.name} started (log: {work.stage.log})")
    return True


def _start(work: _Work, environment: dict[str, str]) -> None:
    stage = work.stage
    stage.prepare()
    stage.log.parent.mkdir(parents=True, exist_ok=True)
    with stage.log.open("ab") as log:
        work.log_start = log.tell()
        work.started = time.monotonic()
        work.process = subprocess.Popen(
            stage.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            start_new_session=True,  # the terminal's Ctrl-C reaches the sweep alone, which asks politely
        )  # fmt: skip


def _stop(works: Iterable[_Work]) -> None:
    """Asks the processes of a stopped sweep to end, and ends those that take longer than their stage may."""
    running = [work for work in works if work.process is not None and work.process.poll() is None]
    for work in running:
        work.process.terminate()
    deadlines = [(work, time.monotonic() + work.stage.patience()) for work in running]
    while deadlines := [(work, end) for work, end in deadlines if work.process.poll() is None]:
        _kill(work for work, end in deadlines if time.monotonic() > end)
        time.sleep(_TICK)


def _kill(works: Iterable[_Work]) -> None:
    """Ends processes at once, with all that they have started."""
    for work in works:
        if work.process is not None and work.process.poll() is None:
            with suppress(ProcessLookupError):  # it ended just now
                os.killpg(work.process.pid, signal.SIGKILL)
