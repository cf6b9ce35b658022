"""Doing jobs side by side in processes of their own: one crash stops one job, and a job begun elsewhere is waited for.

Each job holds a lock on its folder, and so does the process that works for it: when a sweep is killed, the process it
had started goes on, and the next sweep neither starts a second one nor loses what the first one does. For the same
reason two sweeps over one folder share the work.
"""

import fcntl
import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from dqo.errors import DQOError

_PATIENCE = 60.0  # seconds between asking a process to stop and killing it: a training finishes its step and saves
_TICK = 0.1


@dataclass(frozen=True)
class Stage:
    """One command of a job.

    Attributes:
        name: What it does, in a word.
        argv: The command.
        log: Where its output goes, after what is there already.
        done: Whether what it makes is there and whole.
        prepare: Called before the command is started.
    """

    name: str
    argv: list[str]
    log: Path
    done: Callable[[], bool]
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Job:
    """Stages to be done one after the other in one folder; `finish` is called after the last."""

    name: str
    folder: Path
    stages: list[Stage]
    finish: Callable[[], None] = lambda: None


@dataclass
class _Work:
    """A job that holds its lock, and the process of the stage it is at."""

    job: Job
    lock: IO[str]
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

    Args:
        jobs: In the order they are started; names unique.
        slots: How many jobs at a time.
        environment: Slot number -> variables set for its processes, on top of this process's own.
        say: Gets one line an event.

    Returns:
        Name of every failed job -> one sentence on why; empty when all is done.
    """
    waiting, busy, errors = deque(jobs), set[str](), dict[str, str]()
    working: dict[int, _Work] = {}
    try:
        while waiting or working:
            moved = False
            for slot in sorted(set(range(slots)) - set(working)):
                work = _take(waiting, busy, say)
                if work is not None:
                    working[slot], moved = work, True
            for slot, work in list(working.items()):
                try:
                    going_on = _advance(work, os.environ | environment(slot), say)
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
        _stop([work.process for work in working.values() if work.process is not None])
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
        job.folder.mkdir(parents=True, exist_ok=True)
        lock = (job.folder / ".lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if job.name not in busy:
                lock.seek(0)
                say(f"{job.name}: process {lock.read().strip() or '?'} of another sweep works on it; waiting for it")
                busy.add(job.name)
            lock.close()
            continue
        waiting.remove(job)
        return _Work(job, lock)
    return None


def _advance(work: _Work, environment: dict[str, str], say: Callable[[str], None]) -> bool:
    """Look after one job; False when there is nothing left to do for it."""
    if work.process is not None:
        code = work.process.poll()
        if code is None:
            return True
        stage, work.process = work.stage, None
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
            pass_fds=[work.lock.fileno()],  # held until this process too has ended
        )  # fmt: skip
    work.lock.truncate(0)
    work.lock.write(str(work.process.pid))
    work.lock.flush()


def _stop(processes: list[subprocess.Popen]) -> None:
    """End what an interrupted sweep has started, gently first."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _PATIENCE
    for process in processes:
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
