"""Jobs in real processes: in order, side by side, a crash alone, a kill survived, two schedulers sharing the work."""

import os
import signal
import subprocess
import sys
import time

import pytest

from dqo.sweep.schedule import Job, Stage, failure, run_jobs


def stage(folder, name, code):
    """A stage that runs shell code in its folder and is done when the file of its name is there."""
    return Stage(name, ["sh", "-c", f"cd {folder} && {code}"], folder / f"{name}.log", (folder / name).exists)


def job(tmp_path, name, **stages):
    folder = tmp_path / name
    return Job(name, folder, [stage(folder, key, code) for key, code in stages.items()])


def test_stages_in_order_done_ones_skipped_and_finish_called(tmp_path):
    finished = []
    one = job(tmp_path, "one", train="touch train", eval="test -e train && touch eval")
    one = Job(one.name, one.folder, one.stages, lambda: finished.append("one"))
    assert run_jobs([one], say=lambda line: None) == {}
    before = (tmp_path / "one" / "train").stat().st_mtime_ns
    assert run_jobs([one], say=lambda line: None) == {}
    assert (tmp_path / "one" / "train").stat().st_mtime_ns == before, "a finished stage must not run again"
    assert finished == ["one", "one"]


def test_a_crash_stops_its_own_run_only_and_is_told_in_a_sentence(tmp_path):
    said = []
    jobs = [
        job(tmp_path, "refused", train="echo noise; echo 'dqo: error: alpha must be >= 0, got -1.'; exit 2"),
        job(tmp_path, "killed", train="kill -9 $$"),
        job(tmp_path, "crashed", train="printf 'Traceback\\n  line\\nKeyError: 3\\n' >&2; exit 1", eval="touch eval"),
        job(tmp_path, "idle", train="true"),
        job(tmp_path, "fine", train="touch train"),
    ]
    errors = run_jobs(jobs, slots=2, say=said.append)
    assert set(errors) == {"refused", "killed", "crashed", "idle"}
    assert errors["refused"].startswith("train: alpha must be >= 0, got -1. (log: ")
    assert "ended by SIGKILL, perhaps for want of memory" in errors["killed"]
    assert "status 1: KeyError: 3" in errors["crashed"]
    assert "status 0 without a word" in errors["idle"], "a stage that made nothing is not done"
    assert not (tmp_path / "crashed" / "eval").exists()
    assert (tmp_path / "fine" / "train").exists()
    assert any(line.startswith("refused: FAILED: train: alpha") for line in said)


def test_an_earlier_attempt_s_error_is_not_told_again():
    assert failure("", 1) == "status 1 without a word"
    assert failure("a\rb\rlast words\r", 3) == "status 3: last words"


def test_slots_run_side_by_side_with_their_own_environment(tmp_path):
    """Each waits for the other's file: one at a time they would wait for ever."""
    wait = "touch here; i=0; until test -e ../{}/here; do sleep 0.05; i=$((i+1)); test $i -lt 200 || exit 1; done; "
    jobs = [job(tmp_path, name, train=wait.format(other) + "echo $SLOT > train") for name, other in ("ab", "ba")]
    assert run_jobs(jobs, slots=2, environment=lambda slot: {"SLOT": str(slot)}, say=lambda line: None) == {}
    assert {(tmp_path / name / "train").read_text().strip() for name in "ab"} == {"0", "1"}


# A test run that was started in the background ignores SIGINT, and so would its children.
SWEEP = """
import signal, sys; from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from dqo.sweep.schedule import Job, Stage, run_jobs
folder = Path(sys.argv[1])
code = f"cd {folder}; echo begun >> begun; until test -e go; do sleep 0.05; done; echo x >> train"
run_jobs([Job("one", folder, [Stage("train", ["sh", "-c", code], folder / "log", (folder / "train").exists)])])
"""


def until(happened, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def begun(tmp_path):
    """A scheduler in a process of its own, in the middle of the only stage of its only job."""
    folder = tmp_path / "one"
    process = subprocess.Popen([sys.executable, "-c", SWEEP, str(folder)], stdout=subprocess.DEVNULL)
    until(lambda: (folder / "begun").exists() and (folder / ".lock").read_text())
    yield process, folder
    (folder / "go").touch()
    process.kill()
    process.wait()


def test_after_a_kill_the_next_sweep_waits_for_what_the_first_had_started(begun):
    process, folder = begun
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    said = []

    def say(line):
        said.append(line)
        (folder / "go").touch()  # the orphan may go on once the second sweep has met it

    assert run_jobs([job(folder.parent, "one", train="echo second >> begun; touch train")], say=say) == {}
    assert "of another sweep works on it; waiting for it" in said[0]
    assert said[0].split()[2].isdecimal(), "the process to look for is named"
    assert (folder / "begun").read_text() == "begun\n", "the stage must not be started twice"
    assert (folder / "train").read_text() == "x\n"


def test_an_interrupted_sweep_takes_its_processes_with_it(begun):
    process, folder = begun
    pid = int((folder / ".lock").read_text())
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)

    def gone():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    until(gone)
    assert not (folder / "train").exists()
