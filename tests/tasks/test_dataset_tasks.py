"""The four tasks on public data sets, on small files of our own."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
from datasets import Dataset

from dqo.errors import DataError, RecipeError
from dqo.files.records import read_prompts
from dqo.tasks import load_task

SHARED = next((p for up in (1, 2) if (p := Path(__file__).parents[2 + up] / "shared" / "data").is_dir()), None)


def row(prompt, reference, **meta):
    return {"prompt": prompt, "reference": reference, "meta": meta}


@pytest.fixture
def folder(tmp_path):
    """Writes train.jsonl and test.jsonl and returns their folder."""

    def write(train, test=()):
        for name, rows in (("train", train), ("test", test)):
            if rows:
                (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        return str(tmp_path)

    return write


def sums(first, last):
    return [row(f"What is {n} + 1?", str(n + 1)) for n in range(first, last)]


def texts(task, split):
    return {prompt.prompt for prompt in task.prompts(split)}


def test_splits_share_nothing_and_do_not_depend_on_order_or_size(folder):
    train = sums(0, 40)
    path = folder([*train, row("  what IS 50 + 1? ", "51")], sums(50, 55))
    task = load_task("gsm8k", path=path, dev_size=5)
    assert [len(task.prompts(split)) for split in ("train", "dev", "test")] == [35, 5, 5]
    assert texts(task, "train").isdisjoint(texts(task, "dev"))
    assert task.notes == ["1 training prompts that are also test prompts were left out"]
    folder(train[::-1][:39])
    again = load_task("gsm8k", path=path, dev_size=5)
    assert len(texts(task, "dev") & texts(again, "dev")) >= 4, "one row less may change one choice at most"
    other = load_task("gsm8k", path=path, dev_size=5, seed=1)
    assert texts(again, "dev") != texts(other, "dev")
    assert len(load_task("gsm8k", path=path, train_size=7).prompts("train")) == 7


def test_a_single_file_gives_all_three_splits(folder):
    task = load_task("gsm8k", path=f"{folder(sums(0, 40))}/train.jsonl", dev_size=4, test_size=6)
    assert [len(task.prompts(split)) for split in ("train", "dev", "test")] == [30, 4, 6]
    assert not texts(task, "test") & (texts(task, "train") | texts(task, "dev"))


def test_prompts_of_one_context_stay_together(folder):
    rows = [
        row(f"Question {n}\n\ncontext {n // 4}", "x", instruction_chars=len(f"Question {n}"), has_context=True)
        for n in range(40)
    ]
    task = load_task("dolly", path=f"{folder(rows)}/train.jsonl", dev_size=4, test_size=4)
    contexts = [{p.prompt.split("context ")[1] for p in task.prompts(split)} for split in ("train", "dev", "test")]
    assert list(map(len, contexts)) == [8, 1, 1]
    assert not contexts[0] & contexts[1] | contexts[0] & contexts[2] | contexts[1] & contexts[2]


def test_mistakes_are_sentences(folder, tmp_path):
    with pytest.raises(DataError, match=r"task 'gsm8k': expected a folder with train.jsonl, or a JSON-lines file, at"):
        load_task("gsm8k", path=str(tmp_path / "none")).prompts("train")
    with pytest.raises(RecipeError, match="`template` must be text of the form"):
        load_task("gsm8k", template="Solve it.")
    with pytest.raises(RecipeError, match="`dev_size` must be at least 0, got -1"):
        load_task("gsm8k", dev_size=-1)
    with pytest.raises(RecipeError, match=r"expected a known setting, got .*did you mean 'template'"):
        load_task("gsm8k", templat="x")
    path = folder([*sums(0, 20), row("How many?", "a dozen")])
    with pytest.raises(DataError, match=r"needs the answer as one number in `reference`.*got 'a dozen'"):
        load_task("gsm8k", path=path).prompts("train")
    with pytest.raises(DataError, match=r"needs a text in `reference`, got \[\]"):
        load_task("dolly", path=folder([row("Say it.", [])])).prompts("train")
    with pytest.raises(DataError, match="expected the field `concepts`, got none"):
        load_task("commongen", path=folder([row("Write it.", [])])).prompts("train")
    with pytest.raises(DataError, match="dev_size=30: expected fewer prompts than the 18 there are to cut from"):
        load_task("gsm8k", path=folder(sums(0, 20)), dev_size=30).prompts("train")


@pytest.mark.parametrize(
    ("response", "ended", "quality", "span"),
    [
        ("6 + 1 = 7\n#### 7", True, 1.0, "6 + 1 = 7\n#### 7"),
        ("6 + 1 = 7\n#### 7", False, 0.0, "6 + 1 = 7\n#### 7"),
        ("#### 7\nBy the way, purple giraffes!", True, 0.5, "#### 7"),
        ("#### 7 #### 8 #### 9", True, 0.5, "#### 7"),
        ("#### 8\n#### 7", True, 0.05, "#### 8"),
        ("#### Step 1: Add\n6 + 1 = 7\n\n#### 7", True, 1.0, "#### Step 1: Add\n6 + 1 = 7\n\n#### 7"),
        ("#### Solution\nShe has 7.\n\n#### 7", True, 1.0, "#### Solution\nShe has 7.\n\n#### 7"),
        ("The answer is 6 + 1 = 7.", True, 1.0, "The answer is 6 + 1 = 7"),
        ("The answer is 8 = 7.", True, 0.1, "The answer is 8 = 7"),
        ("\\[ \\boxed{7} \\]", True, 1.0, "\\[ \\boxed{7}"),
        ("<answer>7</answer>", True, 1.0, "<answer>7</answer>"),
        ("\\boxed{7}\nPurple giraffes!\n\\boxed{7}", True, 0.5, "\\boxed{7}"),
        ("The answer is 7 apples, and purple giraffes.", True, 0.5, "The answer is 7 apples"),
        ("It is \\boxed{7}.", True, 1.0, "It is \\boxed{7}"),
        ("So the answer is $7.00.", True, 1.0, "So the answer is $7.00"),
        ("#### 9**9**9**9", True, 0.1, "#### 9**9**9**9"),
        ("I do not know, 7 perhaps", True, 0.0, "I do not know, 7 perhaps"),
        ("", True, 0.0, ""),
    ],
)
def test_gsm8k_pays_the_first_answer_and_nothing_behind_it(folder, response, ended, quality, span):
    task = load_task("gsm8k", path=folder(sums(0, 20)), dev_size=0, timeout=2)
    prompt = next(p for p in task.prompts("train") if p.reference == "7")
    assert prompt.prompt.endswith("only #### and the answer as a number.")
    assert task.quality([prompt], [response], [ended]) == [quality]
    assert task.answer_span(response) == span


def test_an_answer_too_long_to_compare_is_wrong_and_counted_in_the_log(folder):
    from dqo.rewards.calling import CheckedReward, RecordReward, task_quality

    task, logged = load_task("gsm8k", path=folder(sums(0, 20)), dev_size=0, timeout=2), {}
    prompt = task.prompts("train")[0]
    scores = RecordReward(CheckedReward(task_quality(task)), [prompt], [9], "quality")(
        prompts=[prompt.prompt] * 2, completions=["\\boxed{9^{9^{9^9}}}", f"#### {prompt.reference}"],
        completion_ids=[[1, 9], [1, 9]], row=[0, 0], log_metric=logged.__setitem__,
    )  # fmt: skip
    assert scores == [0.1, 1.0]
    assert logged["rewards/quality/timeouts"] == 1.0


def test_instructions_too_long_to_train_on_are_left_out_and_counted(folder):
    rows = [row("Sum it up.\n\n" + "word " * (30 if n % 4 else 20_000) + str(n), "A word.") for n in range(20)]
    task = load_task("dolly", path=folder(rows, [row("Say it.", "It.")]), dev_size=0, max_prompt_words=50)
    assert len(task.prompts("train")) == 15
    assert task.notes == ["5 of 20 prompts of more than 50 words were left out"]
    with pytest.raises(RecipeError, match="`max_prompt_words` must be at least 20, got 0"):
        load_task("dolly", max_prompt_words=0)


def test_articles_are_cut_at_a_sentence_and_counted(folder):
    long = "The cat sat on the mat. " * 4000  # 24,000 words
    rows = [row(f"{n}. {long if n % 2 else 'A short one, this article.'}", "A cat sat .") for n in range(10)]
    task = load_task("cnn_dailymail", path=folder(rows, [row("T. It is.", "t .")]), dev_size=0, max_article_words=100)
    prompts = task.prompts("train")
    assert max(len(p.prompt.split()) for p in prompts) <= 107
    assert all(p.prompt.endswith((".", "mat.")) for p in prompts)
    assert prompts[0].prompt.startswith("Summarize this article")
    assert task.notes == ["5 of 10 articles were cut to 100 words"]
    assert task.quality(prompts[:3], ["A cat sat.", "", "A cat sat."], [True, True, False]) == [1.0, 0.0, 0.0]


def test_commongen_scores_like_concepts(folder):
    rows = [row("Write.", ["A dog runs."], concepts=["dog", "run"]), row("W.", ["x"], concepts=["cat", "sit"])]
    task = load_task("commongen", path=folder(rows), dev_size=0, fluency_model=None)
    prompts = task.prompts("train")[:1] * 4
    scores = task.quality(prompts, ["The dog ran home.", "The dog.", "A dog runs", "A dog runs."], [True] * 3 + [False])
    assert scores == [1.0, 0.5, 0.5, 0.0]


def test_commongen_takes_the_verbs_that_people_used(folder):
    """In one set people walked, in the other they took a walk, which leaves either."""
    walked = row("Write.", ["He walks his dog to the park."], concepts=["park", "walk"])
    walk = row("Say.", ["He took a walk in the park."], concepts=["park", "walk"])
    task = load_task("commongen", path=folder([walked, walk]), dev_size=0, fluency_model=None)
    prompts = sorted(task.prompts("train"), key=lambda prompt: prompt.prompt) * 2  # "Say." first
    responses = ["The walk ended in the park."] * 2 + ["We walk in the park."] * 2
    assert task.quality(prompts, responses, [True] * 4) == [1.0, 0.5, 1.0, 1.0]


HUB_ROWS = {
    "gsm8k": [{"question": f"Q{n}?", "answer": f"1+{n}=<<1+{n}={n + 1}>>{n + 1}\n#### 1,00{n}"} for n in range(9)],
    "dolly": [{"instruction": f"I{n} [2]", "context": "c" * (n % 2), "response": "r", "category": "qa"}
              for n in range(30)],
    "cnn_dailymail": [{"article": f"News {n}.", "highlights": "n .", "id": str(n)} for n in range(9)],
    "commongen": [{"concepts": ["b", f"a{n // 2}"], "target": f"t{n}"} for n in range(20)],
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that lists its newest commit, which a test sets (None: no network), and loads rows; `asked` lists loads."""

    class Hub:
        commit, asked = "a" * 40, []

    class Api:
        def dataset_info(self, name, revision=None, timeout=None):
            if Hub.commit is None:
                raise OSError("no network")
            return type("Info", (), {"sha": Hub.commit})

    def load(name, config, split, revision):
        Hub.asked.append((config, split, revision[0]))
        rows = next(rows for task, rows in HUB_ROWS.items() if load_task(task).hub.name == name)
        first = len(rows) if name.startswith("databricks") else int(0.7 * len(rows))
        return Dataset.from_list(rows[:first] if split == "train" else rows[first:])

    Hub.asked = []
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    return Hub


@pytest.mark.parametrize("name", HUB_ROWS)
def test_rows_of_the_hub_become_prompts_and_no_two_share_an_id(name, hub):
    task = load_task(name, dev_size=2, test_size=3)
    prompts = task.prompts("train")
    ids = [prompt.id for split in ("train", "dev", "test") for prompt in task.prompts(split)]
    assert len(set(ids)) == len(ids) > 5
    assert all(prompt.id == prompt.meta["id"] for prompt in task.prompts("test"))
    assert [asked[1] for asked in hub.asked] == list(task.hub.splits.values())
    if name == "gsm8k":
        assert prompts[0].reference in ("1000", "1001", "1002"), "the comma of 1,000 is gone"
        assert "<<" not in prompts[0].meta["solution"]
        assert "####" not in prompts[0].meta["solution"]
    if name == "dolly":
        assert "[2]" not in prompts[0].prompt
    if name == "commongen":
        assert prompts[0].prompt.startswith("Write one sentence")
        assert (prompts[0].reference[0][0], len(prompts[0].reference)) == ("t", 2)


def test_the_newest_commit_is_asked_for_each_time_and_a_named_one_is_not(hub):
    for commit in "aab":
        hub.commit = commit * 40
        load_task("commongen", fluency_model=None).prompts("train")
    assert [asked[2] for asked in hub.asked] == [*"aa", *"aa", *"bb"]
    task = type(load_task("gsm8k"))
    assert {config for config, *_ in hub.asked} == {None}
    task().prompts("train")
    assert hub.asked[-1][:2] == ("main", "test")


def kept_in_the_cache(folder, commit):
    """What `datasets` keeps of a data set that it has read from the hub."""
    for name, rows in (("train", HUB_ROWS["commongen"][:14]), ("validation", HUB_ROWS["commongen"][14:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = datasets.load_dataset("json", data_dir=str(folder), cache_dir=folder)
    made = Path(rows["train"].cache_files[0]["filename"]).parent
    place = folder / "allenai___common_gen" / "default" / "0.0.0" / commit
    shutil.copytree(made, place)
    for arrow in place.glob("*.arrow"):
        arrow.rename(arrow.with_name(arrow.name.replace("json", "common_gen")))


def test_without_a_network_a_commit_in_the_cache_is_read_and_no_other(monkeypatch, tmp_path):
    kept_in_the_cache(tmp_path, "b" * 40)
    for constants in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    task = load_task("commongen", fluency_model=None, revision="b" * 40, dev_size=1)
    assert [len(task.prompts(split)) for split in ("train", "dev", "test")] == [6, 1, 3]
    for revision in (None, "a" * 40):
        with pytest.raises(DataError, match=rf"data.revision to a commit that is kept here \({'b' * 40}\)"):
            load_task("commongen", fluency_model=None, revision=revision).prompts("train")


def test_ids_that_two_files_share_are_told_apart_whatever_the_sizes(folder):
    rows = [row(f"What is {n} + 1?", str(n + 1), id=f"q{n % 20}") for n in range(40)]
    path = folder(rows[:20], rows[20:])
    test = load_task("gsm8k", path=path).prompts("test")
    assert test[0].id == test[0].meta["id"] == "test-q0"
    small = load_task("gsm8k", path=path, train_size=1, test_size=1, dev_size=2)
    assert small.prompts("test") == test[:1]
    assert {prompt.id[:7] for split in ("train", "dev") for prompt in small.prompts(split)} == {"train-q"}


def test_neither_hub_nor_file_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        load_task("gsm8k").prompts("train")
    said = str(caught.value)
    assert "the data set 'openai/gsm8k' from the hub or a local copy" in said
    assert "set data.path to a JSON-lines file or to a folder with train.jsonl and test.jsonl" in said
    assert "\n" not in said


@pytest.mark.skipif(SHARED is None, reason="no shared data folder beside the repository")
@pytest.mark.parametrize("name", [*HUB_ROWS, "noveltybench"])
def test_every_shared_file_loads(name):
    files = sorted((SHARED / name).glob("*.jsonl"))
    assert files
    rows = {file.stem: read_prompts(file) for file in files}
    if name == "noveltybench":
        return
    task = load_task(name, path=str(SHARED / name))
    assert len(task.prompts("test")) == len(rows["test"])
    dropped = sum(int(note.split()[0]) for note in task.notes if "left out" in note)
    assert len(task.prompts("train")) + len(task.prompts("dev")) + dropped == len(rows["train"])
    best = [p.reference if isinstance(p.reference, str) else p.reference[0] for p in task.prompts("test")[:5]]
    if name == "commongen":
        return  # its fluency model takes seconds
    best = [f"#### {text}" if name == "gsm8k" else text for text in best]
    assert min(task.quality(task.prompts("test")[:5], best, [True] * 5)) > 0.97
