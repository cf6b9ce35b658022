"""Every recipe that is shipped loads, states true defaults, and explains each of its lines."""

import ast
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from dqo.files.records import read_prompts
from dqo.rewards.loading import load_reward
from dqo.settings.yaml import parse_yaml
from dqo.sweep.plan import read_sweep
from dqo.tasks import datasets as hub_data
from dqo.tasks import load_task
from dqo.train.recipe import CONFIGS, LoraSettings, Recipe, load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
NAMES = sorted((ROOT / "recipes" / "names").glob("*.yaml"))
PAPER = sorted((ROOT / "recipes" / "paper").glob("*.yaml"))
ACCELERATE = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
SWEEPS = sorted(
    path
    for folder in ("runs", "experiments")
    for path in (ROOT / folder).rglob("*_[sf]*.yaml")
    if path.stem.endswith(("_sweep", "_finals"))
)
FROM_THE_HUB = {"gsm8k", "dolly", "cnn_dailymail", "commongen"}  # test_dry_run.py looks at these
STATED = re.compile(r"^\s*(\w+):.*# .*\(default: ([^)]*)\)$")


def test_there_is_a_recipe_for_every_task():
    from dqo.tasks import TASKS

    assert {path.stem for path in RECIPES} >= set(TASKS)


def test_the_paper_s_tasks_have_a_recipe_at_real_scale():
    assert {path.stem for path in PAPER} == FROM_THE_HUB


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_run_of_a_shipped_sweep_is_a_valid_recipe(path, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)  # its paths are relative to the project
    if path.stem.startswith("commongen"):
        monkeypatch.setattr(hub_data, "_read_hub", _rows_of_commongen)
    sweep, prompts = read_sweep(path)
    assert len({run.name for run in sweep.runs}) == len(sweep.runs) > 5
    assert len(prompts) >= 30, "fewer tell little"


def _rows_of_commongen(data, split, task):
    """What the hub would send: it cannot be reached from a test."""
    assert task == "commongen"
    return iter([{"concepts": [f"{split}{n}", "run"], "target": "It runs."} for n in range(800)])


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_takes_its_configs(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert (config.num_processes, config.mixed_precision) == (8, "bf16")
    assert str(path.relative_to(ROOT)) in path.read_text(), "the command in its head names the file"


@pytest.mark.parametrize(
    "path", [p for p in [*RECIPES, *NAMES] if p.stem not in FROM_THE_HUB], ids=lambda path: path.stem
)
def test_recipe_loads_and_its_task_has_prompts_for_a_step(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(path)
    config = recipe.config
    task = load_task(recipe.task, **recipe.task_options)
    prompts, unseen = task.prompts("train"), task.prompts("test")
    assert len(prompts) >= config.generation_batch_size // config.num_generations
    assert {prompt.prompt for prompt in prompts}.isdisjoint(prompt.prompt for prompt in unseen)


@pytest.mark.parametrize("path", [*RECIPES, *NAMES, *PAPER], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_line_is_explained_and_every_stated_default_is_the_code_s(path):
    recipe = load_recipe(path)
    defaults = {spec.name: spec.default for spec in fields(Recipe) if spec.default is not MISSING}
    defaults |= {spec.name: spec.default for spec in fields(CONFIGS[recipe.algorithm]) if spec.name != "seed"}
    stated = 0
    for line in filter(str.strip, path.read_text().splitlines()):
        assert "#" in line, f"{line!r} has no comment"
        if match := STATED.match(line):
            stated += 1
            assert parse_yaml(match[2], path.name) == defaults[match[1]], line
    assert stated >= 5


def test_the_judge_of_the_example_can_be_made(tmp_path):
    (recipe,) = map(load_recipe, NAMES)
    quality, judge = recipe.entries
    assert (quality.reward, load_reward(judge, tmp_path).__name__) == ("quality", "judge_ranking")


def test_example_reward_pays_names_only():
    source = (ROOT / "recipes" / "names" / "reward.py").read_text()
    assert ast.get_docstring(ast.parse(source))
    scope = {}
    exec(compile(source, "reward.py", "exec"), scope)
    texts = ["The Rising Crust", "A very long description of a bakery", "Crust", "Two\nlines", ""]
    assert scope["short_name"]([""] * 5, texts, ended=[True, True, False, True, True]) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert len(read_prompts(ROOT / "recipes" / "names" / "train.jsonl")) == 12


@pytest.mark.parametrize("page", ["trl.md", "from_verl.md"])
def test_the_settings_a_how_to_names_are_settings_of_a_recipe(page):
    known = {spec.name for kind in (Recipe, *CONFIGS.values()) for spec in fields(kind)} | {*LoraSettings.model_fields}
    known |= {
        "trainer",
        "reward",
        "field",
        "path",
        "weight",
        "grpo",
        "rloo",
        "ppo",
        "dapo",
        "group",
        "none",
        "gate",
        "jsonl",
        "all",
    }
    rows = re.findall(r"^\| (`.*) \| (.*`.*) \|$", (ROOT / "docs" / "guides" / page).read_text(), flags=re.M)
    assert len(rows) >= 6
    for _, ours in rows:
        settings = re.findall(r"(?<![.\w])([a-z]\w*)(?=:)|`([a-z]\w+)`", " ".join(re.findall(r"`[^`]*`", ours)))
        for name in filter(None, (a or b for a, b in settings)):
            assert name in known, f"{page}: {name!r} in {ours!r}"
