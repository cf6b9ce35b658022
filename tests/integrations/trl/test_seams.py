"""One class of seams over TRL: each of its methods is overridden once, and the optional parts are optional."""

import ast
import inspect
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import dqo
from dqo import DQOPPOTrainer, DQORLOOTrainer, DQOTrainer

PACKAGE = Path(dqo.__file__).parent
ROOM = PACKAGE / "integrations" / "trl"
OPTIONAL = ("fast", "rivals")
TRAIN = """
import sys
from datasets import Dataset
from dqo import DQOConfig, DQOTrainer

def short(completions, **columns):
    return [sum(len(word) <= 3 for word in text.split()) / 6 for text in completions]

trainer = DQOTrainer(
    sys.argv[1], short,
    DQOConfig(
        sys.argv[2], num_generations=4, per_device_train_batch_size=8, max_completion_length=6, max_steps=1,
        use_cpu=True, bf16=False, encoder="hashed", report_to=[], save_strategy="no", disable_tqdm=True,
    ),
    Dataset.from_dict({"prompt": ["the dog", "a cat"]}),
)
trainer.train()
print("trained", trainer.state.log_history[0]["diversity/vendi"] > 1, trainer.shares_prefix)
"""


@pytest.mark.parametrize("trainer", [DQOTrainer, DQORLOOTrainer, DQOPPOTrainer])
def test_every_method_of_trl_is_overridden_once(trainer):
    ours = [base for base in trainer.__mro__ if base.__module__.startswith("dqo.")]
    trls = next(base for base in trainer.__mro__ if base.__module__.startswith("trl."))
    overridden = Counter(
        name for base in ours for name, value in vars(base).items() if inspect.isfunction(value) and hasattr(trls, name)
    )
    assert overridden["_calculate_rewards"] == overridden["__init__"] == 1, (
        "the seams are looked for in the wrong place"
    )
    assert [name for name, times in overridden.items() if times > 1] == []
    assert len(overridden) >= 15


def test_the_trainer_imports_no_optional_part():
    for file in ("trainer.py", "step.py", "config.py", "ppo.py", "resume.py", "log.py", "faults.py", "__init__.py"):
        for node in ast.walk(ast.parse((ROOM / file).read_text())):
            names = [alias.name for alias in getattr(node, "names", ())] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert not any(part in name.split(".") for name in names for part in OPTIONAL), (file, names)


def test_it_trains_without_the_optional_parts(tiny_policy_folder, tmp_path):
    copy = shutil.copytree(PACKAGE, tmp_path / "src" / "dqo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(copy / "integrations" / "trl" / "fast")
    (copy / "integrations" / "trl" / "rivals.py").unlink()
    (tmp_path / "train.py").write_text(TRAIN)
    env = {**os.environ, "PYTHONPATH": str(copy.parent), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "train.py", str(tiny_policy_folder), "out"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "trained True False"
    assert "computed with its own prompt, because dqo.integrations.trl.fast is missing" in done.stderr
