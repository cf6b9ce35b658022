"""`dqo train` on two processes, by DDP and by FSDP 2, logs and trains what one process does on the same completions; a
resumed run of two goes on as if it had not stopped.

Ragged completions, groups that straddle the processes, a data set that leaves an incomplete batch over, two updates a
generation, gradient accumulation, a reference model. Between processes the layouts of the shared prefix differ too.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import forking
import pytest
import yaml
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("replayed_train.py")
FSDP = Path(__file__).parents[3] / "recipes" / "accelerate" / "fsdp.yaml"
ROWS, GROUP, STEPS = 12, 4, 4
REWARD = "def words(prompts, completions, **columns):\n    return [len(text.split()) / 5 for text in completions]\n"
# The host averages these over micro-batches, of which two processes have more and smaller ones.
HOST_AVERAGES = ("kl", "entropy", "clip_ratio/")
CLOCKS = ("time/", "step_time", "epoch")
WAYS = {
    "DDP": (["--num_machines", "1", "--multi_gpu"], []),
    "FSDP 2": (["--config_file", str(FSDP)], ["--fsdp-on-cpu"]),
}


@pytest.fixture
def recipe(tmp_path, tiny_policy_folder):
    """Five prompts, three groups a generation: two prompts of every epoch are left over."""
    prompts = ("the dog", "a cat", "red house", "old tree", "big river")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    (tmp_path / "reward.py").write_text(REWARD)
    settings = {
        "model": str(tiny_policy_folder),
        "task": "jsonl",
        "task_options": {
            "reward": f"{tmp_path / 'reward.py'}:words", "train": str(tmp_path / "train.jsonl"),
            "max_completion_length": 6,
        },
        "output_dir": "set by each run",
        "encoder": "hashed",
        "trainer": {
            "bf16": False, "max_steps": STEPS, "num_generations": GROUP, "num_iterations": 2, "beta": 0.1,
            "learning_rate": 1e-2, "gradient_accumulation_steps": 2, "gradient_checkpointing": False,
            "save_strategy": "no",
        },
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def train(recipe, out, *launch, rows, flags=(), settings=()):
    """`accelerate launch LAUNCH dqo train`, with `rows` rows a process in a pass; returns log lines and weights."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch, "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--main_process_port", "0", str(SCRIPT), *flags, str(recipe)]
    command += [f"output_dir={out}", f"trainer.per_device_train_batch_size={rows}", *settings]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    done = forking.run(command, capture_output=True, text=True, env=env, timeout=1200, cwd=recipe.parent)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return lines, load_file(out / "checkpoints" / "final" / "model.safetensors")


def compare(one, two, left_out=(*HOST_AVERAGES, *CLOCKS)):
    """Largest differences of what is logged and of the weights; names that begin with `left_out` are not looked at."""
    (lines, weights), (other_lines, other_weights) = one, two
    assert [row["step"] for row in lines] == [row["step"] for row in other_lines] == list(range(1, STEPS + 1))
    logged = 0.0
    for row, other in zip(lines, other_lines, strict=True):
        assert row.keys() == other.keys()
        for name in (name for name in row if not name.startswith(left_out)):
            assert (row[name] is None) == (other[name] is None), name
            if row[name] is not None:
                difference = abs(row[name] - other[name]) / max(1.0, abs(row[name]))
                assert difference < 2e-5, (row["step"], name, row[name], other[name])
                logged = max(logged, difference)
    assert other_weights.keys() - weights.keys() <= {"lm_head.weight"}, "FSDP writes tied weights out twice"
    return logged, max((weights[name] - other_weights[name]).abs().max().item() for name in weights)


def test_ddp_and_fsdp_train_what_one_process_trains(recipe, tmp_path, tiny_policy):
    one = train(recipe, tmp_path / "one", "--num_machines", "1", "--num_processes", "1", rows=ROWS // 2)
    start, end = tiny_policy.state_dict(), one[1]
    assert max((start[name] - end[name]).abs().max().item() for name in end) > 0.02, "the policy must have moved"
    assert one[0][0]["diversity/credit_std"] > 0.02, "equal credits would make the comparison vacuous"
    for name, (launch, flags) in WAYS.items():
        two = train(recipe, tmp_path / name, *launch, "--num_processes", "2", rows=ROWS // 4, flags=flags)
        logged, weights = compare(one, two)
        print(f"{name}: log {logged:.1e}, weights {weights:.1e}")
        assert weights < 2e-5, name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("updates", "at"), [(1, 2), (2, 3)], ids=["between rollouts", "between updates of one"])
def test_a_resumed_run_of_two_processes_is_the_unbroken_one(recipe, tmp_path, way, updates, at):
    launch, flags = WAYS[way]
    settings = ["trainer.save_strategy=steps", f"trainer.save_steps={at}", f"trainer.num_iterations={updates}"]
    go = [recipe, tmp_path / "run", *launch, "--num_processes", "2"]
    how = {"rows": ROWS // 4, "flags": [*flags, "--sampled"]}
    unbroken = train(*go, **how, settings=settings)
    sampled = {row["diversity/vendi"] for row in unbroken[0]} - {None}  # None where a rollout is used again
    assert len(sampled) == STEPS // updates, "every rollout samples anew"
    checkpoints = tmp_path / "run" / "checkpoints"
    state = checkpoints / f"checkpoint-{at}" / "trainer_state.json"
    written = state.stat().st_mtime_ns
    for later in ("final", f"checkpoint-{STEPS}"):
        shutil.rmtree(checkpoints / later)
    resumed = train(*go, **how, settings=[*settings, "--resume"])
    assert state.stat().st_mtime_ns == written, "a run from the start would have written the checkpoint again"
    logged, weights = compare(unbroken, resumed, left_out=CLOCKS)
    print(f"{way}, resumed at step {at}: log {logged:.1e}, weights {weights:.1e}")
    assert weights == logged == 0.0
