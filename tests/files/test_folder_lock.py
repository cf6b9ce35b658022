"""A folder has one owner: others are refused by name, a dead owner's lock is free, threads and locks do not mix."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from dqo.errors import DataError, FolderBusyError
from dqo.evaluation.compare import compare
from dqo.evaluation.engines import Asked, LocalModel
from dqo.evaluation.run import evaluate
from dqo.evaluation.sampling import sample_from
from dqo.files.records import Group, Prompt, append_jsonl
from dqo.files.run import LOCK, owning

HOLD = """
import os, sys, time
from dqo.files.run import owning
with owning(sys.argv[1]):
    if len(sys.argv) > 2:
        runs, begun = os.pipe()
        if os.fork() == 0:
            os.write(begun, b"x")
            time.sleep(600)  # a helper that outlives its parent
        os.read(runs, 1)  # a helper that has not run yet would still hold the lock
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold(tmp_path):
    """Starts a process that holds `tmp_path / "run"`."""
    started = []

    def start(*more):
        command = [sys.executable, "-c", HOLD, str(tmp_path / "run"), *more]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, number):
    def no_flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_flock)
    told = pytest.raises(DataError, match=r"run: writing failed \(.*\); its file system gives no locks \(flock\)")
    with told, owning(tmp_path / "run"):
        pass
    with pytest.raises(DataError, match="gives no locks"):
        append_jsonl(tmp_path / "log.jsonl", {"a": 1})


def test_the_second_is_refused_by_the_name_of_the_first(hold, tmp_path):
    process = hold()
    with pytest.raises(FolderBusyError) as refusal, owning(tmp_path / "run"):
        pass
    said = str(refusal.value)
    assert said.startswith(f"{tmp_path / 'run'}: expected a folder that no other process writes to, but process ")
    assert f"process {process.pid} (`python" in said
    assert f"since {time.strftime('%Y-%m-%d')}" in said
    assert said.endswith("wait for it, stop it, or choose another folder.")
    assert f"process {process.pid} " in (tmp_path / "run" / LOCK).read_text(), "trying takes nothing away"
    assert refusal.value.status == 75


@pytest.mark.parametrize("more", [(), ("fork",)], ids=["alone", "with a forked helper that lives on"])
def test_the_lock_of_a_dead_owner_is_free_at_once(hold, tmp_path, more):
    process = hold(*more)
    process.kill()
    process.wait()
    assert (tmp_path / "run" / LOCK).exists(), "the file stays, the lock does not"
    with owning(tmp_path / "run", grace=0):
        assert f"process {os.getpid()} " in (tmp_path / "run" / LOCK).read_text()


def test_the_thread_that_holds_a_folder_may_take_it_again_and_another_thread_may_not(tmp_path):
    found = []

    def other():
        try:
            with owning(tmp_path, grace=0):
                found.append("free")
        except FolderBusyError:
            found.append("busy")

    def ask():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return found[-1]

    with owning(tmp_path):
        with owning(tmp_path):
            assert ask() == "busy"
        assert ask() == "busy", "the inner one gives nothing back"
    assert ask() == "free"
    with pytest.raises(KeyError), owning(tmp_path):
        raise KeyError
    assert ask() == "free", "an error gives it back"


def test_a_lock_file_without_a_signature_still_locks(tmp_path, hold):
    hold()
    (tmp_path / "run" / LOCK).write_text("")
    with pytest.raises(FolderBusyError, match="but another process does"), owning(tmp_path / "run", grace=0):
        pass


def test_what_writes_evaluations_is_refused_in_python_too(hold, tmp_path, tiny_policy, tiny_tokenizer):
    hold()
    out = tmp_path / "run"
    groups = [Group("a", "the dog", [], ["x", "y"], ["eos", "eos"], None, {})]

    class Encoder:
        name = "two"

        def __call__(self, texts):
            import torch

            return torch.eye(len(texts), 2)

    encoder = Encoder()
    for folder in ("one", "two"):
        evaluate(groups, encoder=encoder, out=tmp_path / folder)
    before = sorted(path.name for path in out.iterdir())
    source = LocalModel(tiny_policy, tiny_tokenizer, Asked(seed=0, max_new_tokens=2, temperature=1.0))
    for write in (
        lambda: evaluate(groups, encoder=encoder, out=out),
        lambda: compare([tmp_path / "one", tmp_path / "two"], out),
        lambda: sample_from(source, [Prompt("a", "the dog", [], {})], 2, out=out),
    ):
        with pytest.raises(FolderBusyError, match="no other process writes to"):
            write()
    assert sorted(path.name for path in out.iterdir()) == before


def test_many_threads_never_hold_a_folder_together_and_leave_no_file(tmp_path):
    """The file of a lock is removed by who held it, under the hands of those who wait."""
    inside, most, times = [], [0], []

    def work():
        for _ in range(20):
            with owning(tmp_path, grace=60):
                inside.append(1)
                most[0] = max(most[0], len(inside))
                inside.pop()
                times.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len(times) == 120
    assert list(tmp_path.iterdir()) == []
