"""docs/guides/adding.md, followed step by step: a task is a file, a row and a recipe, a signal a function and a row."""

import ast
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dqo.cli.main import main
from dqo.diversity import signals
from dqo.errors import RecipeError
from dqo.files.records import Prompt
from dqo.tasks import TASKS, load_task
from dqo.train.recipe import load_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "adding.md").read_text()
FILE, ROW, RECIPE, COMMANDS, FUNCTION, SIGNAL, LINE = re.findall(r"```\w*\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def task(monkeypatch):
    """The page's file, where its row says that it is, and the row."""
    ((name, place),) = ast.literal_eval(f"{{{ROW}}}").items()
    module = ModuleType(place.partition(":")[0])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(FILE, module.__name__, "exec"), module.__dict__)
    monkeypatch.setitem(TASKS, name, place)
    return name


@pytest.fixture
def signal(monkeypatch):
    """The page's function and row, in the words of the module they go into."""
    words = dict(vars(signals))
    exec(compile(FUNCTION, "signals", "exec"), words)
    ((name, row),) = eval(f"{{{SIGNAL}}}", words).items()
    monkeypatch.setitem(signals.SIGNALS, name, row)
    return name, row


def test_a_row_is_enough_for_a_task_to_be_listed_and_scored(task):
    assert f"`src/dqo/tasks/{task}.py`" in PAGE
    with pytest.raises(RecipeError, match=f"one of .*, {task} .*did you mean '{task}'"):
        load_task(task[:-1])
    made = load_task(task, train_size=3, test_size=2)
    assert [len(made.prompts(split)) for split in ("train", "dev", "test")] == [3, 60, 2]
    prompts = [Prompt("p", "?", [], {"divisor": 7})] * 5
    scores = made.quality(prompts, ["14", " 21.\n", "15", "a 14", "14"], [True] * 4 + [False])
    assert scores == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_the_signal_s_numbers_by_hand(signal):
    """Two alike, one at right angles to both, one empty."""
    name, row = signal
    L = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert row.function(signals.Evidence(kernel=L), None).tolist() == [0.0, 0.0, 1.0, 0.0]
    assert f"| `{name}` | {row.place} | embeddings | {row.usual_alpha:g} | {row.rewards} | yes | yes |\n" == LINE


@pytest.mark.slow
def test_a_recipe_trains_and_evaluates_both_without_another_edit(task, signal, tmp_path, tiny_policy_folder, capsys):
    recipe = tmp_path / f"{task}.yaml"
    recipe.write_text(RECIPE)
    assert all("#" in line for line in RECIPE.splitlines() if line.strip())
    assert load_recipe(recipe).task == task
    run = tmp_path / "run"
    ours = [
        f"model={tiny_policy_folder}", f"output_dir={run}", "encoder=hashed:64", f"diversity={signal[0]}",
        "combine=add", "trainer.max_steps=1", "trainer.gradient_accumulation_steps=1", "trainer.use_cpu=true",
        "trainer.bf16=false", "task_options={train_size: 4, dev_size: 0, test_size: 2}",
    ]  # fmt: skip
    dry, train, evaluate = (shlex.split(line.replace(f"recipes/{task}.yaml", str(recipe)))[1:]
                            for line in COMMANDS.strip().splitlines())  # fmt: skip
    assert main([*dry, *ours]) == 0
    assert f"{task}" in capsys.readouterr().out
    assert main([*train, *ours]) == 0
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
    here = [word.replace(f"runs/out/{task}", str(run)) for word in evaluate]
    assert main([*here, "--n", "2", "--encoder", "hashed", "--task-option", "test_size=2"]) == 0
    assert json.loads((run / "eval" / "metrics.json").read_text())["n_prompts"] == 2
