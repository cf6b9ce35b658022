"""Does jobs side by side in processes of their own: a crash stops one job, and work begun elsewhere is waited for."""

import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dqo.errors import DQOError, FolderBusyError
from dqo.files.run import owning
from dqo.files.stop_signals import StopSignals
from dqo.sweep.launch import Launch, LocalProcess, Process

# A scheduler holds a lock on the folder of each job it works on, so that two sweeps over one folder share the work. The
# process of a stage holds another lock, on the folder that it writes to. When a sweep is killed, the process that it
# had started goes on, and the next sweep waits for it.
LOCK = ".sweep.lock"
_OWN_ERROR = "dqo: error: "
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
    """

    name: str
    argv: list[str]
    log: Path
    done: Callable[[], bool]
    folder: Path
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Job:
    """Stages to be done one after the other in one folder; `finish` is called after the last."""

    name: str
    folder: Path
    stages: list[Stage]
    finish: Callable[[], None] = lambda: None


def run_jobs(
    jobs: Sequence[Job],
    environments: Sequence[Mapping[str, str]] = ({},),
    say: Callable[[str], None] = print,
    launch: Launch = LocalProcess,
) -> dict[str, str]:
    """Does every stage that is not done, as many jobs at a time as there are environments; returns what failed.

    SIGINT, SIGTERM and SIGHUP are passed on to the processes as SIGTERM, and what they do then is waited for; a second
    SIGINT ends them at once.
    """
    scheduler = _Scheduler(jobs, say, launch)
    with scheduler.stop.listening(), ThreadPoolExecutor(len(environments)) as threads:
        list(threads.map(scheduler.work, environments))
    if scheduler.stop.asked is not None:
        raise KeyboardInterrupt
    return scheduler.errors


class _Scheduler:
    """What the threads share: jobs not begun, processes that run, and what failed."""

    def __init__(self, jobs: Sequence[Job], say: Callable[[str], None], launch: Launch) -> None:
        self.waiting, self.busy, self.say, self.launch = deque(jobs), set[str](), say, launch
        self.running: dict[str, Process] = {}  # job -> process
        self.errors: dict[str, str] = {}
        announcement = "stopping; a training finishes its step and saves it. Ctrl-C again ends all at once."
        self.stop = StopSignals(announcement, self._kill)

    def work(self, environment: Mapping[str, str]) -> None:
        """Does one job after the other."""
        while self.stop.asked is None:
            try:
                job = self.waiting.popleft()
            except IndexError:  # what is left is in the hands of other threads
                return
            self._attempt(job, environment)

    def _attempt(self, job: Job, environment: Mapping[str, str]) -> None:
        try:
            with owning(job.folder, LOCK, grace=0):
                self._do(job, environment)
        except FolderBusyError as error:
            if job.name not in self.busy:
                self.say(f"{job.name}: waiting: {error}")
                self.busy.add(job.name)
            self.waiting.append(job)
            time.sleep(_TICK)
        except (OSError, DQOError) as error:
            self.errors[job.name] = str(error)
            self.say(f"{job.name}: FAILED: {error}")

    def _do(self, job: Job, environment: Mapping[str, str]) -> None:
        """Runs the stages of a job that are not done; returns early when a signal asked to stop."""
        for stage in (stage for stage in job.stages if not stage.done()):
            if stage.folder.exists():  # what an earlier sweep has started may still write there
                with owning(stage.folder, grace=0):
                    pass
            stage.prepare()
            stage.log.parent.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            begin = stage.log.stat().st_size if stage.log.exists() else 0
            process = self.running[job.name] = self.launch(stage.argv, stage.log, environment)
            self.say(f"{job.name}: {stage.name} {process.state} (log: {stage.log})")
            code = self._wait(process)
            if self.stop.asked is not None:
                return
            if code == FolderBusyError.status:  # another process took the folder while this one started
                raise FolderBusyError(f"{stage.folder}: another process writes to it.")
            if code != 0 or not stage.done():
                with stage.log.open("rb") as log:
                    log.seek(begin)
                    text = log.read().decode(errors="replace")
                raise DQOError(f"{stage.name}: {failure(text, code)} (log: {stage.log})")
            self.say(f"{job.name}: {stage.name} done in {(time.monotonic() - started) / 60:.1f} min")
        job.finish()

    def _wait(self, process: Process) -> int:
        """Waits for a process; when a signal asks to stop, as long as it takes to save its work."""
        while self.stop.asked is None:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(_TICK)
        process.terminate()
        return process.wait()

    def _kill(self) -> None:
        for process in list(self.running.values()):
            process.kill()


def failure(log: str, returncode: int) -> str:
    """Says in one sentence why a process failed: its own error, its last line, or the signal that ended it."""
    lines = [line.strip() for line in re.split(r"[\r\n]", log) if line.strip()] or ["without a word"]
    own = [line.removeprefix(_OWN_ERROR) for line in lines if line.startswith(_OWN_ERROR)]
    if own:
        return own[-1]
    if returncode < 0:
        name = signal.Signals(-returncode).name
        return f"its process was ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"status {returncode}: {lines[-1][:300]}"
