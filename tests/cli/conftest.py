"""A task of the user's own, small enough to train on in a second, and the command line in a fresh process."""

import json
import subprocess
import sys

import pytest
import yaml

REWARD = """
import os
import time
from pathlib import Path

CALLS = Path(__file__).with_name("calls")


def words(prompts, completions, **columns):
    return [min(1.0, len(text.split()) / 8) for text in completions]


def killed_at_the_fourth_call(prompts, completions, **columns):
    calls = int(CALLS.read_text()) if CALLS.exists() else 0
    CALLS.write_text(str(calls + 1))
    if calls == 3:
        os.kill(os.getpid(), 9)
    return words(prompts, completions)


def terminated_at_the_second_call(prompts, completions, **columns):
    calls = int(CALLS.read_text()) if CALLS.exists() else 0
    CALLS.write_text(str(calls + 1))
    if calls == 1:
        os.kill(os.getpid(), 15)
    return words(prompts, completions)


def slowly(prompts, completions, **columns):
    time.sleep(0.3)
    return words(prompts, completions)


def raises_at_the_third_call(prompts, completions, **columns):
    calls = int(CALLS.read_text()) if CALLS.exists() else 0
    CALLS.write_text(str(calls + 1))
    if calls == 2:
        raise KeyError(completions[0])
    return words(prompts, completions)
"""


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("the dog", "a cat", "red house", "old tree")))
    return path


@pytest.fixture
def own_recipe(tmp_path, tiny_policy_folder, prompt_file):
    """Writes a recipe that trains the tiny policy for three steps; top-level settings by keyword, returns its path."""

    def write(trainer=None, reward="words", **changes):
        (tmp_path / "reward.py").write_text(REWARD)
        recipe = {
            "model": str(tiny_policy_folder),
            "task": "jsonl",
            "task_options": {
                "reward": f"{tmp_path / 'reward.py'}:{reward}", "train": str(prompt_file), "max_completion_length": 6
            },
            "output_dir": str(tmp_path / "run"),
            "encoder": "hashed",
            "trainer": {
                "use_cpu": True, "max_steps": 3, "num_generations": 4, "save_steps": 2, "learning_rate": 1e-2,
                "per_device_train_batch_size": 8, "gradient_checkpointing": False, **(trainer or {}),
            },
        } | changes  # fmt: skip
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write


@pytest.fixture
def dqo_process():
    """`python -m dqo ARGS` in a process of its own."""

    def start(*args):
        return subprocess.run([sys.executable, "-m", "dqo", *map(str, args)], capture_output=True, text=True)

    return start
