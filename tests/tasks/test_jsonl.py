import json
from pathlib import Path

import pytest

from dqo.errors import DataError, RecipeError, RewardError
from dqo.tasks import load_task

REWARDS = Path(__file__).parents[1] / "rewards" / "score_functions.py"


@pytest.fixture
def write(tmp_path):
    def write_file(name, *prompts):
        lines = [json.dumps({"prompt": text, "reference": text.upper(), "meta": {"level": 2}}) for text in prompts]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return str(tmp_path / name)

    return write_file


def task_of(reward="by_length", **options):
    return load_task("jsonl", reward=f"{REWARDS}:{reward}", **options)


def test_splits_and_scores(write):
    task = task_of("by_reference", train=write("train.jsonl", "a", "b"), test=write("test.jsonl", "c"))
    train = task.prompts("train")
    assert [(p.id, p.prompt, p.reference) for p in train] == [("train-1", "a", "A"), ("train-2", "b", "B")]
    assert [p.prompt for p in task.prompts("test")] == ["c"]
    assert task.quality(train, ["A", "A"], [True, True]) == [1.0, 0.0]
    assert task.answer_span(" A \n") == "A"


def test_unscorable_and_length(write):
    task = task_of(train=write("train.jsonl", "a"), max_completion_length=7)
    assert task.max_completion_length == 7
    assert task.quality(task.prompts("train") * 2, ["12345", "x"], [True, False]) == [0.5, None]


def test_overlap_and_missing_splits(write):
    task = task_of(train=write("train.jsonl", "a", "b"), dev=write("dev.jsonl", "c", "b"))
    with pytest.raises(DataError, match=r"splits 'train' and 'dev': expected no common prompt, but prompt 'dev-2' of"):
        task.prompts("train")
    with pytest.raises(DataError, match=r"expected a file for the split 'test', got none; set the option `test`"):
        task.prompts("test")
    with pytest.raises(RecipeError, match="split: expected one of train, dev, test, got 'valid'"):
        task.prompts("valid")


@pytest.mark.parametrize("source", ["no/such.jsonl", "missing.jsonl", "a/b/c", "plain"])
def test_a_path_that_is_not_there(source):
    with pytest.raises(
        DataError, match=f"train: expected an existing JSON-lines file or the hub name .* got '{source}'"
    ):
        task_of(train=source).prompts("train")


def test_bad_rewards(write):
    train = write("train.jsonl", "a")
    with pytest.raises(RecipeError, match="expected a plain function, got an asynchronous one"):
        task_of("later", train=train)
    with pytest.raises(RecipeError, match="got nothing of that name"):
        task_of("absent", train=train)
    with pytest.raises(RecipeError, match="max_completion_length: expected a positive number of tokens, got 0"):
        task_of(train=train, max_completion_length=0)
    task = task_of("nan", train=train)
    with pytest.raises(RewardError, match="reward function 'nan': expected a finite number for row 1, got nan"):
        task.quality(task.prompts("train") * 2, ["x", "y"], [True, True])


def test_data_sets_of_the_hub(monkeypatch, tmp_path):
    """`load_dataset` also reads folders; a working directory with owner/name in it stands in for the hub."""
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"prompt": "a", "gold": 3}\n{"prompt": "b", "gold": 4}\n')
    (folder / "validation.jsonl").write_text('{"prompt": "c", "gold": 5}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    task = task_of(train="owner/name", dev="owner/name", test="owner/name:test")
    with pytest.raises(DataError, match=r"test: expected the file or data set 'owner/name' \(split 'test'\)"):
        task.prompts("train")
    task = task_of(train="owner/name", dev="owner/name")
    assert [(p.prompt, p.reference, p.meta["gold"]) for p in task.prompts("train")] == [("a", [], 3), ("b", [], 4)]
    assert [p.prompt for p in task.prompts("dev")] == ["c"]
    (folder / "train.jsonl").write_text('{"question": "a"}\n')
    (folder / "validation.jsonl").unlink()
    with pytest.raises(DataError, match=r"expected a column 'prompt' in the data set 'owner/name', got question"):
        task_of(train="owner/name").prompts("train")
