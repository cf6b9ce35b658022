"""The demo's script: it asks trained models as its recipes train them, and refuses a task it has no questions for."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from dqo.cli.recipe import load_recipe

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "runs" / "demo.sh"
ASKED = dict(re.findall(r"^  (\w+)\) asked=\((.*)\) ;;$", SCRIPT.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("task", ["cities", "concepts"])
def test_a_model_is_asked_as_its_recipe_trains_it(task):
    recipe = load_recipe(ROOT / "recipes" / f"{task}.yaml")
    options = "".join(f" --task-option {name}={value}" for name, value in recipe.task_options.items())
    assert ASKED[task] == f"--task {task}{options} --max-new-tokens {recipe.config.max_completion_length}"


def test_an_unknown_task_ends_at_once_with_the_choice():
    done = subprocess.run(
        ["bash", str(SCRIPT)], env={**os.environ, "TASK": "poems"}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("demo: TASK must be cities or concepts, got poems; ")
    assert done.stdout == ""
