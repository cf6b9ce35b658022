"""Jobs in real processes: in order, side by side, a crash alone, a kill survived, two schedulers sharing the work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dqo.sweep.schedule import Job, Stage, failure, run_jobs


def stage(folder, name, code):
    """A stage that runs shell code in its folder and is done when the file of its name is there."""
    return Stage(name, ["sh", "-c", f"cd {folder} && {code}"], folder / f"{name}.log", (folder / name).exists, folder)


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
    errors = run_jobs(jobs, [{}, {}], said.append)
    assert set(errors) == {"refused", "killed", "crashed", "idle"}
    assert errors["refused"].startswith("train: alpha must be >= 0, got -1. (log: ")
    assert "ended by SIGKILL, perhaps for want of memory" in errors["killed"]
    assert "status 1: KeyError: 3" in errors["crashed"]
    assert "status 0: without a word" in errors["idle"], "a stage that made nothing is not done"
    assert not (tmp_path / "crashed" / "eval").exists()
    assert (tmp_path / "fine" / "train").exists()
    assert any(line.startswith("refused: FAILED: train: alpha") for line in said)


def test_an_earlier_attempt_s_error_is_not_told_again():
    assert failure("", 1) == "status 1: without a word"
    assert failure("a\rb\rlast words\r", 3) == "status 3: last words"


def test_slots_run_side_by_side_with_their_own_environment(tmp_path):
    """Each waits for the other's file: one at a time they would wait for ever."""
    wait = "touch here; i=0; until test -e ../{}/here; do sleep 0.05; i=$((i+1)); test $i -lt 200 || exit 1; done; "
    jobs = [job(tmp_path, name, train=wait.format(other) + "echo $SLOT > train") for name, other in ("ab", "ba")]
    assert run_jobs(jobs, [{"SLOT": "0"}, {"SLOT": "1"}], lambda line: None) == {}
    assert {(tmp_path / name / "train").read_text().strip() for name in "ab"} == {"0", "1"}


# What a sweep sees of a training: it holds its folder, and takes its time to save when it is asked to stop.
STAGE = """
import os, signal, sys, time; from pathlib import Path
from dqo.files.run import owning
os.chdir(sys.argv[1])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
signal.signal(signal.SIGINT, lambda *_: os._exit(9))  # what the terminal would do to it
with owning("."):
    with open("begun", "a") as file:
        print(os.getpid(), file=file, flush=True)
    while not Path("go").exists() and not asked:
        time.sleep(0.02)
    time.sleep(float(os.environ.get("STEP", "0")))
    Path("checkpoint" if asked else "train").write_text("x")
"""
# A test run that was started in the background ignores SIGINT, and so would its children.
SWEEP = """
import signal, sys; from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from dqo.sweep.schedule import Job, Stage, run_jobs
folder, code = Path(sys.argv[1]), sys.argv[2]
run_jobs([Job("one", folder, [Stage("train", [sys.executable, "-c", code, str(folder)], folder / "log",
                                    (folder / "train").exists, folder)])])
"""


def until(happened, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(process):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def begin(tmp_path):
    """Starts a scheduler in a process group of its own; returns it in the middle of the only stage of its only job."""
    folder, started = tmp_path / "one", []

    def start(step=0.0):
        process = subprocess.Popen(
            [sys.executable, "-c", SWEEP, str(folder), STAGE], stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, env=os.environ | {"STEP": str(step)}, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # ignored where the suite is under nohup
        )  # fmt: skip
        started.append(process)
        until(lambda: (folder / "begun").exists() and (folder / "begun").read_text().endswith("\n"))
        return process, folder, int((folder / "begun").read_text())

    yield start
    (folder / "go").touch()
    for process in started:
        process.kill()
        process.communicate()


def test_after_a_kill_the_next_sweep_waits_for_what_the_first_had_started(begin):
    process, folder, worker = begin()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    said = []

    def say(line):
        said.append(line)
        (folder / "go").touch()  # the orphan may go on once the second sweep has met it

    assert run_jobs([job(folder.parent, "one", train="echo second >> begun; touch train")], say=say) == {}
    assert said[0].startswith(
        f"one: waiting: {folder}: expected a folder that no other process writes to, but process "
    )
    assert f"process {worker} (`" in said[0]
    assert (folder / "begun").read_text() == f"{worker}\n", "the stage must not be started twice"
    assert (folder / "train").read_text() == "x"


def test_two_sweeps_share_the_work_and_neither_takes_the_lock_of_its_own_process(begin):
    process, folder, worker = begin()
    assert f"process {worker} " in (folder / ".lock").read_text(), "the stage holds the folder"
    assert f"process {process.pid} " in (folder / ".sweep.lock").read_text(), "the sweep holds another lock"
    said = []

    def say(line):
        said.append(line)
        (folder / "go").touch()

    assert run_jobs([job(folder.parent, "one", train="exit 1")], say=say) == {}
    assert f"process {process.pid} " in said[0]
    assert process.wait(timeout=60) == 0


def test_a_stage_that_is_refused_because_its_folder_is_taken_is_tried_again(tmp_path):
    """Whoever starts a training by hand between the sweep's look and its process is waited for, and is no failure."""
    code = "test -e came && touch train && exit; touch came; exit 75"
    assert run_jobs([job(tmp_path, "one", train=code)], say=lambda line: None) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_sweep_lets_its_training_save_however_long_its_step_takes(begin, number):
    """Ctrl-C, and the end of a terminal, reach every process of the sweep's group: the training must be in another."""
    process, folder, worker = begin(step=2.0)
    assert os.getpgid(worker) != process.pid
    os.killpg(process.pid, number)
    assert process.wait(timeout=60) != 0
    assert not alive(worker)
    assert (folder / "checkpoint").exists()
    assert not (folder / "train").exists()


def test_a_second_ctrl_c_ends_all_at_once(begin):
    process, folder, worker = begin(step=600.0)
    os.killpg(process.pid, signal.SIGINT)
    until(lambda: "Ctrl-C again ends all at once" in process.stderr.readline())
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) != 0
    assert time.monotonic() - begun < 10
    assert not alive(worker)
    assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGTERM)])
def test_signals_that_nobody_types_may_come_twice(begin, numbers):
    """A shell passes SIGHUP on that the terminal has sent already; schedulers repeat themselves."""
    process, folder, _worker = begin(step=2.0)
    for number in numbers:
        os.killpg(process.pid, number)
        time.sleep(0.3)
    assert process.wait(timeout=60) != 0
    assert (folder / "checkpoint").exists()


def test_a_sweep_that_ignores_ctrl_c_goes_on(tmp_path):
    """`nohup` and a job in the background ignore signals, and what they start must not listen to them again."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = f"kill -INT {os.getpid()}; touch train"
        assert run_jobs([job(tmp_path, "one", train=code)], say=lambda line: None) == {}
    finally:
        signal.signal(signal.SIGINT, before)
