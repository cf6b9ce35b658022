"""The demo's script: it asks trained models as its recipes train them, and refuses a task it has no questions for."""

import importlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from dqo.files.records import Group
from dqo.train.recipe import load_recipe

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "runs" / "demo.sh"
ASKED = dict(re.findall(r"^  (\w+)\) asked=\((.*)\) ;;$", SCRIPT.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("task", ["cities", "concepts"])
def test_a_model_is_asked_as_its_recipe_trains_it(task):
    recipe = load_recipe(ROOT / "recipes" / f"{task}.yaml")
    options = "".join(f" --task-option {name}={value}" for name, value in recipe.task_options.items())
    assert ASKED[task] == f"--task {task}{options} --max-new-tokens {recipe.config.max_completion_length}"


def recorded(tmp_path, **settings):
    """The calls of `dqo` that the script makes, on stand-ins that train nothing: its arguments, a line a call."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "dqo").write_text('#!/bin/sh\necho "$@" >> "$CALLS"\n')
    (tools / "python").write_text("#!/bin/sh\nexit 0\n")  # there is a GPU: one training after the other
    for tool in tools.iterdir():
        tool.chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "CALLS": str(tmp_path / "calls"), "OUT": str(tmp_path / "out")} | settings
    done = subprocess.run(["bash", str(SCRIPT)], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return (tmp_path / "calls").read_text().splitlines()


@pytest.mark.parametrize(("settings", "task"), [({}, "cities"), ({"TASK": "concepts", "SEED": "3"}, "concepts")])
def test_the_arms_differ_in_alpha_only_and_are_asked_alike(tmp_path, settings, task):
    calls = recorded(tmp_path, **settings)
    out, seed = tmp_path / "out", settings.get("SEED", "0")
    plain, dqo = (call for call in calls if call.startswith("train"))
    assert plain == dqo.replace(f"{out}/dqo", f"{out}/reward-only") + " alpha=0"
    assert dqo.startswith(f"train recipes/{task}.yaml --resume ")
    assert f"seed={seed} output_dir={out}/dqo" in dqo
    evaluations = [call for call in calls if call.startswith("eval")]
    assert len(evaluations) == 3
    for call in evaluations:
        assert f"{ASKED[task]} --split test --limit 30 --n 10 --seed {seed} " in call


def test_an_unknown_task_ends_at_once_with_the_choice():
    done = subprocess.run(
        ["bash", str(SCRIPT)], env={**os.environ, "TASK": "poems"}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("demo: TASK must be cities or concepts, got poems; ")
    assert done.stdout == ""


def folder_of(tmp_path, **settings):
    """The folder that a demo writes into where none is given."""
    [train] = [call for call in recorded(tmp_path, OUT="", **settings) if call.endswith("/dqo")]
    return train.rpartition("output_dir=")[2].removesuffix("/dqo")


def test_every_model_task_and_seed_has_a_folder_of_its_own(tmp_path):
    choices = [
        {}, {"SEED": "1"}, {"TASK": "concepts"}, {"MODEL": "Qwen/Qwen2.5-0.5B-Instruct"}, {"MODEL": "a/b"},
        {"MODEL": "a-b"}, {"MODEL": "c/b"}, {"MODEL": "/models/my model"}, {"MODEL": "a/b", "SEED": "1"},
    ]  # fmt: skip
    folders = []
    for place, settings in enumerate(choices):
        (here := tmp_path / str(place)).mkdir()
        folders.append(folder_of(here, **settings))
    assert len(set(folders)) == len(choices), folders
    assert folders[0] == "outputs/demo-cities-seed0", "the folder that the README names"
    assert all(re.fullmatch(r"outputs/demo-[\w.-]+", folder) for folder in folders), folders
    (again := tmp_path / "again").mkdir()
    assert folder_of(again, **choices[-1]) == folders[-1], "the same command goes on where it stopped"


def test_a_folder_that_holds_a_trained_model_is_not_taken_on_trust(tmp_path):
    """Whether it was trained with these settings is for `dqo train --resume` to say."""
    for arm in ("dqo", "reward-only"):
        (tmp_path / "out" / arm / "checkpoints" / "final").mkdir(parents=True)
    assert sum(call.startswith("train ") and "--resume" in call for call in recorded(tmp_path)) == 2


@pytest.fixture
def side_by_side(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "runs")
    return importlib.import_module("side_by_side")


def group(number, *rewards):
    texts = [f"city {reward}\x1b[31m" for reward in rewards]
    return Group(f"p{number}", f"Where {number}?", [], texts, ["eos"] * len(texts), list(rewards), {})


def test_three_prompts_are_drawn_and_one_of_them_failed(side_by_side):
    groups = [group(number, 1.0, 1.0) for number in range(9)] + [group(9, 1.0, 0.1)]
    for seed in range(5):
        chosen = side_by_side.choose(groups, seed)
        assert [one.id for one, how in chosen if "failed" in how] == ["p9"]
        assert len({one.id for one, _ in chosen}) == 3
    assert side_by_side.choose(groups, 1) == side_by_side.choose(groups, 1)
    assert [how for _, how in side_by_side.choose(groups[:9], 0)] == ["drawn"] * 3, "none failed"


def test_answers_are_counted_and_wrong_ones_marked(side_by_side):
    assert side_by_side.answers(group(0, 1.0, 0.1, 1.0), None) == r"city 1.0\x1b[31m × 2 · [city 0.1\x1b[31m]"
    same = side_by_side.answers(group(0, 0.9, 0.1, 1.0), lambda prompt, text: "one city")
    assert same == r"city 0.9\x1b[31m × 2 · [city 0.1\x1b[31m]", "in its first wording"
