"""An evaluation from groups to its folder, by a task, a reward or without quality; protocols."""

import json
import shutil
from dataclasses import replace

import pytest

from dqo.cli.evaluate import summary
from dqo.cli.main import build_parser
from dqo.errors import RecipeError, RewardError
from dqo.evaluation.compare import compare
from dqo.evaluation.run import PROTOCOLS, evaluate
from dqo.files.records import Group, read_groups

GROUPS = [
    Group("a", "colours?", "red", ["say: red", "say: green", "say: red"], ["eos", "eos", "length"], None, {"k": 1}),
    Group("b", "more?", "blue", ["say: blue", "say: pink", "say: cyan"], ["eos", "eos", "eos"], None, {}),
]


class ColourTask:
    """Right where the span is the reference and the response ended by itself."""

    name = "colours"
    max_completion_length = 8

    def prompts(self, split):
        return []

    def answer_span(self, response):
        return response.removeprefix("say: ")

    def quality(self, prompts, responses, ended):
        rows = zip(prompts, responses, ended, strict=True)
        return [float(self.answer_span(text) == prompt.reference and end) for prompt, text, end in rows]


def has_red(prompts, completions, reference, meta, **columns):
    assert prompts[0] == "colours?"
    assert reference[-1] == "blue"
    assert meta[0] == {"k": 1}
    return ["red" in text for text in completions]


async def late(completions, **columns):
    return [1.0 for _ in completions]


def test_a_task_gives_quality_and_span(words, first_letters, same_words, tmp_path):
    document = evaluate(
        GROUPS, encoder=words, heldout_encoder=first_letters, task=ColourTask(), equivalence=same_words, seed=1,
        out=tmp_path,
    )  # fmt: skip
    assert [group.rewards for group in read_groups(tmp_path / "groups.jsonl")] == [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert document["metrics"]["quality"]["mean"] == pytest.approx(1 / 3)
    assert document["metrics"]["words"]["mean"] == 2.0, "whole responses, with `say:`"
    assert document["corpus"]["distinct_1"] == 5 / 6, "spans: red green red blue pink cyan"
    assert (document["task"], document["encoder"], document["heldout_encoder"]) == ("colours", "words", "coarse")
    assert document["pass_threshold"] == 0.5
    told = [note.split(" ")[0].strip(",") for note in document["notes"]]
    assert told == ["distinct_2", "heldout/cosine_distance", "encoder_disagreement", "attractors"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == document
    rows = [json.loads(line) for line in (tmp_path / "prompt_metrics.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a", "b"]
    assert rows[1]["vendi_1"] == pytest.approx(3.0)
    assert sum(row["vendi_1"] for row in rows) / 2 == pytest.approx(document["metrics"]["vendi_1"]["mean"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["groups.jsonl", "metrics.json", "prompt_metrics.jsonl"]


class KeyedTask(ColourTask):
    """Paid for every colour but pink, which names no answer; dark red is red, to the metric alone."""

    def answer_key(self, prompt, response):
        assert prompt.prompt in ("colours?", "more?")
        return None if "pink" in response else self.answer_span(response).removeprefix("dark ")

    def quality(self, prompts, responses, ended):
        return [float(end) for end in ended]


def test_distinct_right_answers_are_the_tasks_word(words, tmp_path):
    groups = [replace(GROUPS[0], responses=["say: red", "say: dark red", "say: blue"]), GROUPS[1]]
    metrics = evaluate(groups, encoder=words, task=KeyedTask(), out=tmp_path / "eval")["metrics"]
    rows = [json.loads(line) for line in (tmp_path / "eval/prompt_metrics.jsonl").read_text().splitlines()]
    # Of a, two right ones are both red and blue is cut off; of b, blue and cyan are right.
    assert [row["distinct_right@1"] for row in rows] == pytest.approx([2 / 3, 2 / 3])
    assert [row["distinct_right@2"] for row in rows] == pytest.approx([1, 2 * 2 / 3])
    assert [row["distinct_right@3"] for row in rows] == [row["distinct_right@k"] for row in rows] == [1.0, 2.0]
    assert metrics["distinct_right@k"] == {"mean": 1.5, "low": 1.0, "high": 2.0}
    compare([tmp_path / "eval", shutil.copytree(tmp_path / "eval", tmp_path / "other")], tmp_path / "compared")
    shared = json.loads((tmp_path / "compared/comparison.json").read_text())["differences"]["other"]
    assert shared["distinct_right@2"]["mean"] == 0.0


def test_distinct_right_at_k_keeps_to_ten_draws(words, tmp_path):
    twelve = Group("a", "colours?", "red", ["red"] * 11 + ["blue"], ["eos"] * 12, None, {})
    metrics = evaluate([twelve], encoder=words, task=KeyedTask(), out=tmp_path)["metrics"]
    assert metrics["distinct_right@k"] == metrics["distinct_right@10"]
    assert metrics["distinct_right@k"]["mean"] == pytest.approx(1 + 10 / 12)
    assert metrics["distinct_right@12"]["mean"] == 2.0
    assert "distinct_right@k" in summary({"n_prompts": 1, "n_samples": 12, "metrics": metrics})


def test_without_the_tasks_word_distinct_right_answers_are_absent(words, tmp_path):
    for how in ({"task": ColourTask()}, {"reward": has_red}, {}):
        metrics = evaluate(GROUPS, encoder=words, out=tmp_path, **how)["metrics"]
        assert not any(name.startswith("distinct_right") for name in metrics)


def test_the_same_call_writes_the_same_bytes(words, tmp_path):
    for name in ("one", "two"):
        evaluate(GROUPS, encoder=words, task=ColourTask(), seed=1, out=tmp_path / name)
    for file in ("groups.jsonl", "metrics.json", "prompt_metrics.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_reward_function_is_called_as_trl_does(words, tmp_path):
    document = evaluate(GROUPS, encoder=words, reward=has_red, out=tmp_path)
    assert [group.rewards for group in read_groups(tmp_path / "groups.jsonl")] == [[1.0, 0.0, 1.0], [0.0] * 3]
    assert document["metrics"]["words"]["mean"] == 2.0, "whole responses"


def test_an_asynchronous_reward_is_awaited(words, tmp_path):
    assert evaluate(GROUPS, encoder=words, reward=late, out=tmp_path)["metrics"]["quality"]["mean"] == 1.0


def test_rewards_in_the_file_are_used_when_nothing_else_scores(words, tmp_path):
    evaluate(GROUPS, encoder=words, reward=has_red, out=tmp_path / "scored")
    again = evaluate(read_groups(tmp_path / "scored" / "groups.jsonl"), encoder=words, out=tmp_path / "again")
    assert again["metrics"]["quality"]["mean"] == pytest.approx(1 / 3)
    assert again["scoring"] == {"rewards": "carried, origin unknown"}
    assert evaluate(GROUPS, encoder=words, out=tmp_path / "none")["scoring"] is None, "no rewards, no origin"


def test_an_encoder_without_a_measured_threshold_gives_no_classes_and_says_so(words, same_words, tmp_path):
    document = evaluate(GROUPS, encoder=words, reward=has_red, out=tmp_path)
    assert document["equivalence"] is None
    assert all(document["metrics"][name] is None for name in ("classes", "semantic_entropy", "utility_k"))
    assert document["notes"][-1].startswith(
        "classes, semantic_entropy, utility_k, good/classes are null: no threshold of equal meaning is measured for "
        "encoder 'words'; name what decides it"
    )
    given = evaluate(GROUPS, encoder=words, reward=has_red, equivalence=same_words, out=tmp_path)
    assert given["metrics"]["classes"]["mean"] == 2.5
    assert not any("threshold" in note for note in given["notes"])


def test_without_quality_it_is_null_and_said_so(words, same_words, tmp_path):
    document = evaluate(GROUPS, encoder=words, equivalence=same_words, out=tmp_path)
    nulls = {name for name, value in document["metrics"].items() if value is None} - {"distinct_3", "distinct_4"}
    nulls.remove("attractors")
    assert {"quality", "max@k", "pass@k", "pass@1", "pass@3"} <= nulls
    assert all(name in ("quality", "utility_k") or "@" in name or name.startswith("good/") for name in nulls)
    assert document["notes"] == [
        "quality, max@k, pass@k and what needs them are null: no task or reward was given.",
        "distinct_3, distinct_4, corpus/distinct_3, corpus/distinct_4 are null: no response has n words, or white "
        "space does not separate the words of some response.",
        "attractors is null: there are fewer than three prompts, or white space does not separate the words of some "
        "response.",
    ]
    assert [group.rewards for group in read_groups(tmp_path / "groups.jsonl")] == [None, None]


def test_a_prompt_with_an_unscorable_response_is_left_out_and_counted(words, tmp_path):
    def picky(completions, **columns):
        return [None if "pink" in text else 1.0 for text in completions]

    document = evaluate(GROUPS, encoder=words, reward=picky, out=tmp_path)
    assert document["n_scored"] == 1
    assert document["notes"][0].startswith("quality, max@k, pass@k and what needs them leave out 1 of 2 prompts")
    nothing = evaluate(GROUPS, encoder=words, reward=lambda completions, **_: [None] * len(completions), out=tmp_path)
    assert nothing["notes"][0] == "quality, max@k, pass@k and what needs them are null: no response could be scored."


def test_groups_of_different_sizes_are_said(words, tmp_path):
    groups = [Group(name, name, [], ["red"] * n, ["eos"] * n, None, {}) for name, n in (("a", 3), ("b", 1))]
    notes = evaluate(groups, encoder=words, out=tmp_path)["notes"]
    assert notes[0].startswith("prompts have 1 to 3 responses: pass@k and max@k go up to 1")


def test_a_failing_reward_leaves_no_files(words, tmp_path):
    for wrong in (lambda completions, **_: [1.0], lambda **_: 1 / 0, lambda completions, **_: ["x"] * 6):
        with pytest.raises(RewardError, match=r"reward function '<lambda>'"):
            evaluate(GROUPS, encoder=words, reward=wrong, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("same", [True, False])
def test_an_evaluation_that_is_cut_short_leaves_no_files_of_two(words, first_letters, tmp_path, monkeypatch, same):
    evaluate(GROUPS, encoder=words, out=tmp_path)
    before = (tmp_path / "metrics.json").read_bytes()

    def interrupted(path, value):
        raise KeyboardInterrupt

    monkeypatch.setattr("dqo.evaluation.run.write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(GROUPS, encoder=words if same else first_letters, out=tmp_path)
    if same:
        assert (tmp_path / "metrics.json").read_bytes() == before, "what is finished is not lost"
    else:
        assert not (tmp_path / "metrics.json").exists(), "it would stand for groups and values of the other one"


def group(n, rewards=None):
    return Group("g", "?", [], ["red", "green"] * (n // 2), ["eos"] * n, rewards, {})


def test_the_paper_adds_self_rouge_and_is_named(words, tmp_path):
    document = evaluate([group(10)], encoder=words, out=tmp_path, protocol=PROTOCOLS["paper"])
    assert document["protocol"] == "paper"
    assert document["metrics"]["self_rouge"]["mean"] == pytest.approx(20 / 45)  # equal pairs: 2 · C(5, 2)
    assert "self_rouge" not in evaluate([group(10)], encoder=words, out=tmp_path)["metrics"]


def test_headlines_are_metrics(words, tmp_path):
    for name, protocol in PROTOCOLS.items():
        groups = [group(10, [1.0] * 10)]
        metrics = evaluate(groups, encoder=words, out=tmp_path / name, protocol=protocol)["metrics"]
        assert {*protocol.headline} <= {*metrics}, name


@pytest.mark.parametrize(
    ("name", "groups", "message"),
    [
        ("paper", [group(8)], r"protocol 'paper': expected responses sampled with n = 10, got 8; sample them anew"),
        ("noveltybench-1.0", [group(10), group(12)], r"expected responses sampled with n = 10, got 12"),
    ],
)
def test_groups_that_do_not_fit_are_refused(words, tmp_path, name, groups, message):
    with pytest.raises(RecipeError, match=message):
        evaluate(groups, encoder=words, out=tmp_path, protocol=PROTOCOLS[name])


def test_responses_drawn_in_another_way_are_refused_and_unknown_ways_are_noted(words, tmp_path):
    def notes(name, sampling):
        options = {"encoder": words, "protocol": PROTOCOLS[name], "sampling": sampling}
        notes = evaluate([group(10)], out=tmp_path, **options)["notes"]
        return [note for note in notes if note.startswith("protocol")]

    assert notes("paper", {"temperature": 1.0, "max_new_tokens": 7}) == []
    assert notes("noveltybench-1.0", {"temperature": 1, "max_new_tokens": 512, "form": "plain"}) == []
    assert notes("noveltybench-1.0", {"temperature": 1.0, "max_new_tokens": 3 * 544, "form": "verbalized:3"}) == []
    assert notes("noveltybench-1.0", None) == [
        "protocol 'noveltybench-1.0' demands temperature = 1.0, max_new_tokens = 512, and nothing says that the "
        "responses were drawn so."
    ]
    for name, sampling, message in (
        ("paper", {"temperature": 0.7}, "'paper': expected responses sampled with temperature = 1.0, got 0.7; sample"),
        ("noveltybench-1.0", {"temperature": 1.0, "max_new_tokens": 256}, "with max_new_tokens = 512, got 256"),
        ("noveltybench-1.0", {"max_new_tokens": 512, "form": "verbalized:3"}, "with max_new_tokens = 1632, got 512"),
    ):
        with pytest.raises(RecipeError, match=message):
            notes(name, sampling)


def test_the_command_line_knows_them_by_name():
    flags = ["eval", "--model", "m", "--out", "o", "--protocol"]
    assert [build_parser().parse_args([*flags, name]).protocol for name in PROTOCOLS] == list(PROTOCOLS)
    with pytest.raises(SystemExit):
        build_parser().parse_args([*flags, "papers"])
