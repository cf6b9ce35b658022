"""What the generated tasks have in common: disjoint splits, the same in every process, options checked."""

import hashlib
import os
import subprocess
import sys

import pytest

from dqo.errors import DataError, RecipeError
from dqo.files.records import Prompt
from dqo.tasks import load_task

OPTIONS = {"concepts": {"fluency_model": None}, "cities": {}, "countdown": {}}
SIZES = {"train_size": 40, "dev_size": 8, "test_size": 9}
_DIGEST = """
import hashlib, sys
from dqo.tasks import load_task
task = load_task(sys.argv[1], train_size=40, dev_size=8, test_size=9)
print(hashlib.sha256(repr([task.prompts(s) for s in ("train", "dev", "test")]).encode()).hexdigest())
"""


@pytest.mark.parametrize("name", OPTIONS)
def test_splits_have_their_sizes_and_no_common_prompt(name):
    task = load_task(name, **OPTIONS[name])
    texts = {split: [p.prompt for p in task.prompts(split)] for split in ("train", "dev", "test")}
    assert {split: len(rows) for split, rows in texts.items()} == {"train": 400, "dev": 60, "test": 60}
    assert len({text for rows in texts.values() for text in rows}) == 520
    ids = [p.id for split in texts for p in task.prompts(split)]
    assert len(set(ids)) == 520
    assert all(p.id == p.meta["id"] for p in task.prompts("test"))


def test_no_concept_set_of_a_split_lies_inside_one_of_another():
    task = load_task("concepts", **OPTIONS["concepts"])
    sets = {split: [set(p.meta["concepts"]) for p in task.prompts(split)] for split in ("train", "dev", "test")}
    assert {len(s) for s in sets["train"]} == {3, 4}, "one size only would make containment impossible"
    for one, other in (("train", "test"), ("train", "dev"), ("dev", "test")):
        assert not [(a, b) for a in sets[one] for b in sets[other] if a <= b or b <= a]


def test_no_countdown_numbers_are_shared_between_splits():
    task = load_task("countdown")
    numbers = {split: {tuple(p.meta["numbers"]) for p in task.prompts(split)} for split in ("train", "dev", "test")}
    assert not numbers["train"] & numbers["test"]
    assert not numbers["train"] & numbers["dev"]
    assert not numbers["dev"] & numbers["test"]


@pytest.mark.parametrize("name", OPTIONS)
def test_every_process_draws_the_same_prompts(name):
    def digest(hash_seed):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", _DIGEST, name]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    task = load_task(name, **SIZES)
    ours = hashlib.sha256(repr([task.prompts(s) for s in ("train", "dev", "test")]).encode()).hexdigest()
    assert digest("1") == digest("2") == ours


@pytest.mark.parametrize("name", OPTIONS)
def test_seed_changes_the_prompts_and_train_size_leaves_the_test_split(name):
    test = load_task(name, **SIZES).prompts("test")
    assert load_task(name, **SIZES, seed=1).prompts("test") != test
    assert load_task(name, **{**SIZES, "train_size": 3}).prompts("test") == test


@pytest.mark.parametrize("name", OPTIONS)
def test_quality_asks_for_the_meta_it_needs(name):
    task = load_task(name, **OPTIONS[name], **SIZES)
    foreign = Prompt("p7", "What is 2 + 2?", "4", {})
    with pytest.raises(DataError, match=rf"prompt 'p7', meta of the task '{name}': expected the field .* got none"):
        task.quality([foreign], ["4"], [True])


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(RecipeError, match=r"one of concepts, .* \(did you mean 'countdown'\?\), got 'countdwn'"):
        load_task("countdwn")
    with pytest.raises(
        RecipeError, match="task 'cities': expected a known setting, got 'tests_size'; did you mean 'test_size'"
    ):
        load_task("cities", tests_size=3)
    with pytest.raises(RecipeError, match="task 'jsonl': expected the setting `reward`, got none"):
        load_task("jsonl", train="x.jsonl")
    with pytest.raises(RecipeError, match="split: expected one of train, dev, test, got 'validation'"):
        load_task("cities", **SIZES).prompts("validation")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cities", {"train_size": 1000}, "train_size=1000: expected no more .* by `task_options: {train_size: ...}`"),
        ("cities", {"dev_size": -1}, "`dev_size` must be at least 0, got -1"),
        ("cities", {"min_population": 10}, "`min_population` must be at least 15000"),
        ("concepts", {"seed": "a"}, "seed` must be a whole number, got 'a'"),
        ("concepts", {"words": 1}, "`words` must be one of 2, 3, 4, 5"),
        ("countdown", {"numbers": 3}, "`numbers` must be at least 4"),
        ("countdown", {"max_number": 5, "numbers": 4, "test_size": 90}, "test_size=90: expected no more"),
        ("countdown", {"max_number": 200}, "`max_number` must be at most 99"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(RecipeError, match=message):
        load_task(name, **options).prompts("train")
