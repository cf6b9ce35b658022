"""`dqo train` under faults: damaged checkpoints, a failing disk, no memory, signals, and a launcher that is gone."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forking
import pytest
import torch

from dqo.cli.main import main
from dqo.files.run import newest_whole
from dqo.integrations.trl import trainer as trainer_module

pytestmark = pytest.mark.slow


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("checkpoint-*"))


def test_damaged_checkpoints_are_named_and_the_one_before_is_used(own_recipe, tmp_path, capsys):
    recipe = own_recipe(trainer={"max_steps": 4, "save_steps": 1})
    assert main(["train", str(recipe)]) == 0
    run = tmp_path / "run"
    weights = (run / "checkpoints" / "final" / "model.safetensors").read_bytes()
    shutil.rmtree(run / "checkpoints" / "final")
    optimizer = run / "checkpoints" / "checkpoint-4" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-100])
    damaged = run / "checkpoints" / "checkpoint-3" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    damaged_size = damaged.stat().st_size + 1
    capsys.readouterr()
    assert main(["train", str(recipe), "--resume"]) == 0
    said = capsys.readouterr().err
    size = optimizer.stat().st_size
    assert f"checkpoint-4 is skipped: optimizer.pt has {size - 100} of {size} bytes" in said
    assert f"checkpoint-3 is skipped: model.safetensors has {damaged_size - 1} of {damaged_size} bytes" in said
    assert "continuing from" in said
    assert "checkpoint-2\n" in said
    assert steps(run) == [1, 2, 3, 4]
    assert (run / "checkpoints" / "final" / "model.safetensors").read_bytes() == weights, "the end is the same"

    for checkpoint in (run / "checkpoints").glob("checkpoint-*"):
        (checkpoint / "scheduler.pt").unlink()
    assert main(["train", str(recipe), "--resume"]) == 2, "from scratch would write over the run"
    assert (
        "expected a whole checkpoint to continue from, but the run has finished or lost them" in capsys.readouterr().err
    )
    assert steps(run) == [1, 2, 3, 4]


def test_half_of_a_checkpoint_that_was_making_room_displaces_no_whole_one(own_recipe, tmp_path, capsys):
    recipe = own_recipe(trainer={"max_steps": 3, "save_steps": 1, "save_total_limit": 2})
    assert main(["train", str(recipe)]) == 0
    checkpoints = tmp_path / "run" / "checkpoints"
    assert names(tmp_path / "run") == ["checkpoint-2", "checkpoint-3"]
    shutil.rmtree(checkpoints / "final")
    (checkpoints / "checkpoint-1").mkdir()  # changed last, and not written to its end
    later = time.time() + 10
    os.utime(checkpoints / "checkpoint-1", (later, later))
    assert main(["train", str(recipe), "--resume", "trainer.max_steps=4"]) == 0
    assert names(tmp_path / "run") == ["checkpoint-3", "checkpoint-4"]


@pytest.mark.parametrize(
    ("failure", "words", "remedy"),
    [
        (errno.ENOSPC, "No space left on device", "free space"),
        (errno.EROFS, "Read-only file system", "make the place writable, or choose another"),
    ],
)
def test_disk_that_fails_in_the_second_checkpoint_loses_nothing(
    own_recipe, tmp_path, capsys, monkeypatch, failure, words, remedy
):
    recipe = own_recipe(trainer={"max_steps": 3, "save_steps": 1})
    save = torch.save

    def fails_once(document, file, *args, **kwargs):
        if "checkpoint-2" in str(file):
            Path(file).write_bytes(b"half")
            raise OSError(failure, words, str(file))
        return save(document, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", fails_once)
    assert main(["train", str(recipe)]) == 2
    run = tmp_path / "run"
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"dqo: error: {run / 'checkpoints'}: writing failed ({words}); {remedy}")
    assert line.endswith(", then add --resume.")
    assert names(run) == ["checkpoint-1", "checkpoint-2"]
    monkeypatch.setattr(torch, "save", save)
    assert main(["train", str(recipe), "--resume"]) == 0
    said = capsys.readouterr().err
    assert "checkpoint-2 is skipped: trainer_state.json is missing, so it was not written to its end" in said
    assert steps(run) == [1, 2, 3]


def test_reward_that_raises_leaves_its_batch_in_the_run_folder(own_recipe, tmp_path, capsys):
    recipe = own_recipe(reward="raises_at_the_third_call")
    assert main(["train", str(recipe)]) == 2
    run, line = tmp_path / "run", capsys.readouterr().err.splitlines()[-1]
    file = run / "failed_reward-step3-process0.jsonl"
    assert line.endswith(f"or return None for what it cannot score; what it was called with is in {file}.")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 8
    assert {"row", "prompts", "completions", "reference", "meta", "ended"} == set(rows[0])
    assert main(["train", str(recipe), "--resume"]) == 0, "the file is in nobody's way"
    assert steps(run) == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0"), "Tried to allocate 2.50 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3221225472"), "3221225472"),
        (MemoryError(), "(MemoryError)"),
    ],
)  # fmt: skip
def test_out_of_memory_is_told_with_the_arithmetic(own_recipe, capsys, monkeypatch, error, asked):
    def fails(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(trainer_module.DQOTrainer, "training_step", fails)
    assert main(["train", str(own_recipe({"bf16": False}))]) == 2, "bf16, where the processor has it, halves some"
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("dqo: error: step 1: out of memory")
    assert asked in line
    for part in ("weights", "gradients", "Adam's moments", "activations", "logits", "keys and values"):
        assert f"{part} " in line
    assert "set trainer.gradient_checkpointing=true" in line


def test_other_runtime_errors_stay_what_they_are(own_recipe, monkeypatch):
    def fails(self, *args, **kwargs):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(trainer_module.DQOTrainer, "training_step", fails)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        main(["train", str(own_recipe())])


LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "dqo",
]  # fmt: skip


def alive(process):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(met, seconds=240):
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("victim", "number"),
    [("launcher", signal.SIGTERM), ("rank", signal.SIGTERM), ("launcher", signal.SIGKILL), ("rank", signal.SIGKILL),
     ("launcher's group", signal.SIGINT)],
)  # fmt: skip
def test_two_processes_leave_no_orphan_and_a_checkpoint(own_recipe, tmp_path, victim, number):
    changes = {"max_steps": 10_000, "save_steps": 2, "save_total_limit": 2, "per_device_train_batch_size": 4}
    recipe, run = own_recipe(reward="slowly", trainer=changes), tmp_path / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log = (tmp_path / "log").open("w")
    launcher = forking.Popen(
        [*LAUNCH, "train", str(recipe)], env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
    )
    ranks = []
    try:
        until(lambda: ((run / "metrics.jsonl").exists() and len(steps(run)) >= 3) or launcher.poll() is not None)
        assert launcher.poll() is None, (tmp_path / "log").read_text()[-3000:]
        ranks = [int(p) for p in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]
        assert len(ranks) == 2
        last = steps(run)[-1]
        if victim == "launcher's group":  # what the terminal does at Ctrl-C
            os.killpg(launcher.pid, number)
        else:
            os.kill(launcher.pid if victim == "launcher" else ranks[1], number)
        assert launcher.wait(timeout=240) != 0
        until(lambda: not any(map(alive, ranks)))
    finally:
        for process in [launcher.pid, *filter(alive, ranks)]:
            if alive(process):
                os.kill(process, signal.SIGKILL)
        launcher.wait()
    newest = newest_whole(run / "checkpoints").newest
    said = (tmp_path / "log").read_text()
    if victim == "rank" and number == signal.SIGKILL:  # no rank can save what another one takes part in
        assert int(newest.name[11:]) >= last // 2 * 2
    else:
        reason = "the launcher is gone" if number == signal.SIGKILL else number.name
        assert f"dqo: {reason}: step {newest.name[11:]} is saved; the same command with --resume goes on" in said
        assert int(newest.name[11:]) >= last
    assert {path.name for path in newest.glob("rng_state_*")} == {"rng_state_0.pth", "rng_state_1.pth"}


@pytest.fixture
def begun(own_recipe, tmp_path):
    """A training in a process group of its own, some steps done, that would go on for ever; and its run folder."""
    recipe, run = own_recipe(reward="slowly", trainer={"max_steps": 10_000, "save_strategy": "no"}), tmp_path / "run"
    command = [sys.executable, "-m", "dqo", "train", str(recipe)]
    training = forking.Popen(
        command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        until(lambda: ((run / "metrics.jsonl").exists() and len(steps(run)) >= 2) or training.poll() is not None)
        assert training.poll() is None, training.stderr.read()
        yield training, recipe, run
    finally:
        training.kill()
        training.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_save_the_step(begun, number):
    training, _recipe, run = begun
    os.killpg(training.pid, number)
    _, said = training.communicate(timeout=120)
    assert training.returncode == 128 + number
    newest = newest_whole(run / "checkpoints").newest
    assert newest is not None, "no step of this run saves by itself"
    assert int(newest.name[11:]) == steps(run)[-1]
    assert f"dqo: {number.name}: step {newest.name[11:]} is saved; the same command with --resume goes on" in said


def test_a_second_ctrl_c_ends_the_run_at_once(begun):
    training, _recipe, _run = begun
    os.killpg(training.pid, signal.SIGINT)
    until(lambda: "Ctrl-C again ends the run at once" in training.stderr.readline())
    os.killpg(training.pid, signal.SIGINT)
    assert training.wait(timeout=60) in (130, -signal.SIGINT)


def test_a_second_start_is_refused_and_the_first_goes_on(begun, capsys):
    training, recipe, run = begun
    (run / "mine").write_text("")
    for flags in ([], ["--resume"]):
        assert main(["train", str(recipe), *flags]) == 75
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"dqo: error: {run}: expected a folder that no other process writes to, but process ")
        assert f"process {training.pid} (`" in line
        assert "train" in line
    seen = len(steps(run))
    until(lambda: len(steps(run)) > seen)
    assert steps(run) == list(range(1, len(steps(run)) + 1))
    training.kill()
    training.wait()
    changes = [f"trainer.max_steps={steps(run)[-1]}", "trainer.logging_steps=1"]
    assert main(["train", str(recipe), "--resume", *changes]) == 0, "a dead owner's folder is free at once"
