import json
from pathlib import Path

import pytest

from dqo.errors import DataError, RecipeError, RewardError
from dqo.files.records import Group, read_groups, write_groups
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
    assert not task.cuts_span


def test_ids_that_two_splits_share_are_told_apart(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder, text in (("a", "one"), ("b", "two")):
        rows = [{"prompt": f"{text} {n}", "meta": {"id": str(n)}} for n in range(2)]
        (tmp_path / folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = task_of(train=str(tmp_path / "a" / "rows.jsonl"), test=str(tmp_path / "b" / "rows.jsonl"))
    assert [(p.id, p.meta["id"]) for p in task.prompts("train")] == [("train-0", "train-0"), ("train-1", "train-1")]
    assert [p.id for p in task.prompts("test")] == ["test-0", "test-1"]


def test_unscorable_and_length(write):
    task = task_of(train=write("train.jsonl", "a"), max_completion_length=7)
    assert task.max_completion_length == 7
    assert task.quality(task.prompts("train") * 2, ["12345", "x"], [True, False]) == [0.5, None]


def test_overlap_and_missing_splits(write):
    task = task_of(train=write("train.jsonl", "a", "b"), dev=write("dev.jsonl", "c", "b"))
    with pytest.raises(
        DataError,
        match=r"splits 'train' and 'dev': expected no common prompt, but 1 of 'dev' .* such as 'dev-2'",
    ):
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


def test_the_answer_span_is_a_function_of_the_user(write, tmp_path):
    (tmp_path / "spans.py").write_text(
        "def behind(text):\n    return text.split('####')[1] if '####' in text else None\n"
    )
    task = task_of(train=write("train.jsonl", "a"), answer_span=f"{tmp_path}/spans.py:behind")
    assert task.cuts_span
    assert task.answer_span("because #### 72 ") == "72"
    with pytest.raises(RewardError, match="answer span to return text, got None for the response 'no idea'"):
        task.answer_span("no idea")


def test_bad_rewards(write):
    train = write("train.jsonl", "a")
    with pytest.raises(RecipeError, match="expected a plain function, got an asynchronous one"):
        task_of("later", train=train)
    with pytest.raises(RecipeError, match="expected a function of that module, got 'absent'"):
        task_of("absent", train=train)
    with pytest.raises(RecipeError, match="`max_completion_length` must be at least 1, got 0"):
        task_of(train=train, max_completion_length=0)
    task = task_of("nan", train=train)
    with pytest.raises(RewardError, match="reward function 'nan': expected a finite number for row 1, got nan"):
        task.quality(task.prompts("train") * 2, ["x", "y"], [True, True])


@pytest.fixture
def hub_folder(monkeypatch, tmp_path):
    """`load_dataset` also reads folders; a working directory with owner/name in it stands in for the hub."""
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.mark.parametrize(
    ("column", "reference"),
    [("42", "42"), ("0", "0"), ("1.5", "1.5"), ("[1, 2]", ["1", "2"]), ('["a", "b"]', ["a", "b"]), ('"a"', "a"),
     ("null", []), ('""', [])],
)  # fmt: skip
def test_references_of_the_hub_can_be_written_and_read_again(hub_folder, tmp_path, column, reference):
    (hub_folder / "train.jsonl").write_text(f'{{"prompt": "What is 6*7?", "reference": {column}, "level": 3}}\n')
    (prompt,) = task_of(train="owner/name").prompts("train")
    assert (prompt.reference, prompt.meta) == (reference, {"level": 3, "id": "owner/name-train-0"})
    group = Group(prompt.id, prompt.prompt, prompt.reference, ["42"], ["eos"], None, prompt.meta)
    write_groups(tmp_path / "groups.jsonl", [group])
    assert read_groups(tmp_path / "groups.jsonl") == [group]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ('{"prompt": "a", "reference": true}', r"row 0: `reference` must be text or a list, got True"),
        ('{"prompt": "a", "reference": {"x": 1}}', r"row 0: `reference` must be text or a list, got {'x': 1}"),
        ('{"prompt": "a", "when": null}\n{"prompt": "b", "when": "2023-04-01 10:00:00"}',
         r"row 1: `meta.when` must be a value that JSON has, got datetime"),
        ('{"prompt": "a"}\n{"prompt": " "}', r"row 1: `prompt` must be text that is not blank, or .*, got ' '"),
    ],
)  # fmt: skip
def test_a_row_of_the_hub_that_could_not_be_written_or_read_is_refused_when_it_is_loaded(hub_folder, rows, said):
    (hub_folder / "train.jsonl").write_text(rows + "\n")
    with pytest.raises(DataError, match=rf"data set 'owner/name' \(split 'train'\), {said}"):
        task_of(train="owner/name").prompts("train")


def test_data_sets_of_the_hub(hub_folder):
    folder = hub_folder
    (folder / "train.jsonl").write_text('{"prompt": "a", "gold": 3}\n{"prompt": "b", "gold": 4}\n')
    (folder / "validation.jsonl").write_text('{"prompt": "c", "gold": 5}\n')
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
