"""`dqo sample` and `dqo eval` from the flags: temperatures, baselines, protocols, endpoints."""

import json

import local_server
import pytest

from dqo.cli.evaluate import _protocol
from dqo.cli.main import build_parser, main
from dqo.files.records import read_groups


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("the cat", "a big dog")))
    return path


def run(*args):
    return main([str(arg) for arg in args])


def test_several_temperatures_get_folders_of_their_own(tiny_policy_folder, prompts, tmp_path, capsys):
    flags = ["--model", tiny_policy_folder, "--data", prompts, "--n", 3, "--max-new-tokens", 6]
    assert run("sample", *flags, "--temperature", "0.5,1", "--out", tmp_path / "sweep") == 0
    assert run("sample", *flags, "--temperature", "0.5", "--out", tmp_path / "one") == 0
    cold = read_groups(tmp_path / "sweep" / "temperature-0.5" / "groups.jsonl")
    assert cold == read_groups(tmp_path / "one" / "groups.jsonl")
    assert cold != read_groups(tmp_path / "sweep" / "temperature-1" / "groups.jsonl")
    settings = json.loads((tmp_path / "sweep" / "temperature-1" / "sampling.json").read_text())
    assert (settings["temperature"], settings["n"], settings["form"]) == (1.0, 3, "plain")
    assert "Sampled 3 responses to each of 2 prompts" in capsys.readouterr().out


def test_the_evaluation_records_how_its_responses_were_sampled(tiny_policy_folder, prompts, tmp_path):
    flags = ["--encoder", "hashed", "--n", 2, "--max-new-tokens", 4]
    out = tmp_path / "out"
    sampled = ["--model", tiny_policy_folder, "--data", prompts, "--temperature", "0.5,2"]
    assert run("eval", *sampled, *flags, "--out", out) == 0
    hot = json.loads((out / "temperature-2" / "metrics.json").read_text())
    assert hot["sampling"]["temperature"] == 2.0
    again = ["--responses", out / "temperature-2" / "groups.jsonl", "--encoder", "hashed"]
    assert run("eval", *again, "--out", tmp_path / "again") == 0
    document = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert document["sampling"] == hot["sampling"]
    assert document["metrics"] == hot["metrics"]
    assert run("compare", out / "temperature-0.5", out / "temperature-2", "--out", tmp_path / "compare") == 0


def test_a_model_that_cannot_verbalize_gives_empty_responses(tiny_policy_folder, prompts, tmp_path):
    flags = ["--model", tiny_policy_folder, "--data", prompts, "--n", 3, "--max-new-tokens", 2, "--verbalized", 2]
    assert run("sample", *flags, "--out", tmp_path / "out") == 0
    groups = read_groups(tmp_path / "out" / "groups.jsonl")
    assert [group.responses for group in groups] == [["", "", ""]] * 2
    assert groups[0].meta["sampling"] == {"form": "verbalized:2", "calls": 6, "responses": 0}
    assert json.loads((tmp_path / "out" / "sampling.json").read_text())["max_new_tokens"] == 2 * (2 + 32)


def test_a_protocol_sets_what_was_not_given(tiny_policy_folder, prompts, tmp_path, capsys):
    flags = ["--model", tiny_policy_folder, "--data", prompts, "--encoder", "hashed", "--max-new-tokens", 4]
    assert run("eval", *flags, "--protocol", "paper", "--out", tmp_path / "out") == 0
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (document["protocol"], document["n_samples"]) == ("paper", 10)
    lines = capsys.readouterr().out.splitlines()
    assert lines.index("") == 8, "the seven headline metrics come first"
    assert any(line.startswith("  self_rouge") for line in lines[:8])


@pytest.mark.parametrize(
    ("name", "length", "equivalence"),
    [
        ("paper", None, "embedding"),
        ("noveltybench-1.0", 512, "noveltybench-1.0"),
        ("noveltybench-1.1", 512, "judge"),
    ],
)
def test_a_protocol_without_a_length_leaves_that_to_the_task(name, length, equivalence):
    args = build_parser().parse_args(["eval", "--model", "m", "--out", "o", "--protocol", name])
    assert _protocol(args, None).name == name
    assert (args.n, args.max_new_tokens, args.equivalence) == (10, length, equivalence)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--protocol", "paper", "--n", "8"], "protocol 'paper' sets --n to 10, got 8; leave --n out"),
        (
            ["--protocol", "paper", "--temperature", "0.7"],
            "sets --temperature to 1.0, got [0.7]; leave --temperature out",
        ),
        (["--reward", "chrf"], "reward 'chrf': expected at least one text in `reference` of row 0, got none"),
        (
            ["--task", "concepts"],
            "prompt 'prompts-1', meta of the task 'concepts': expected the field `concepts`, got none",
        ),
        (
            ["--task", "cities", "--encoder", "task"],
            "encoder 'task': expected a task with features of its own, such as",
        ),
        (["--reward", "ended", "--encoder", "task"], "such as countdown, got no task; choose another encoder"),
        (["--judge", "m"], "--judge needs --judge-endpoint, got none"),
        (["--judge-repeats", "3"], "--judge-repeats needs --judge, got none"),
        (["--equivalence", "judge"], "--equivalence judge needs --judge and --judge-endpoint, got none"),
        (["--equivalence", "magic"], "equivalence: expected embedding, judge, judge:<file>, noveltybench-1.0"),
        (["--endpoint", "127.0.0.1:9"], "expected a URL such as http://localhost:8000/v1"),
    ],
)
def test_flags_that_cannot_be_run_are_one_sentence(prompts, tmp_path, capsys, args, message):
    flags = ["--model", "tiny/tiny", "--data", prompts, "--encoder", "hashed", "--out", tmp_path / "out", *args]
    assert run("eval", *flags) == 2
    assert message in capsys.readouterr().err


def test_a_protocol_looks_at_how_responses_were_sampled(tmp_path, capsys):
    row = {"id": "a", "prompt": "p", "responses": ["the cat", "dogs"] * 5, "finish": ["eos"] * 10}
    (tmp_path / "groups.jsonl").write_text(json.dumps(row) + "\n")
    flags = ["--responses", tmp_path / "groups.jsonl", "--encoder", "hashed", "--protocol", "paper"]
    assert run("eval", *flags, "--out", tmp_path / "out") == 0
    assert "note: protocol 'paper' demands temperature = 1.0, and nothing says" in capsys.readouterr().out
    (tmp_path / "sampling.json").write_text(json.dumps({"temperature": 0.5, "max_new_tokens": 8}))
    assert run("eval", *flags, "--out", tmp_path / "refused") == 2
    assert "expected responses sampled with temperature = 1.0, got 0.5; sample them anew" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()
    (tmp_path / "sampling.json").write_text(json.dumps({"temperature": 1.0, "max_new_tokens": 8}))
    assert run("eval", *flags, "--out", tmp_path / "out") == 0
    assert "demands" not in capsys.readouterr().out


def test_rewards_that_come_with_responses_keep_their_origin(tmp_path, capsys):
    row = {"id": "a", "prompt": "p", "reference": "the cat sat on", "responses": ["the cat", "dogs"],
           "finish": ["eos", "eos"]}  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "groups.jsonl").write_text(json.dumps(row) + "\n")

    def evaluated(source, out, *flags):
        given = ["--responses", tmp_path / source / "groups.jsonl", "--encoder", "hashed", "--out", tmp_path / out]
        assert run("eval", *given, *flags) == 0
        return json.loads((tmp_path / out / "metrics.json").read_text())

    assert evaluated("mine", "rouge", "--reward", "rouge")["scoring"] == {"reward": "rouge"}
    path = tmp_path / "rouge" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pass_threshold": 0.9}))
    again = evaluated("rouge", "again")
    assert (again["scoring"], again["pass_threshold"]) == ({"reward": "rouge"}, 0.9)
    assert (again["metrics"]["quality"]["mean"], again["metrics"]["pass@1"]["mean"]) == (pytest.approx(1 / 3), 0.0)
    assert evaluated("again", "third")["scoring"] == {"reward": "rouge"}
    assert evaluated("rouge", "chrf", "--reward", "chrf")["scoring"] == {"reward": "chrf"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task": "echo", "scoring": {"task_options": {"x": 1}}}))
    of_a_task = evaluated("rouge", "task")
    assert (of_a_task["task"], of_a_task["scoring"]) == (None, {"task": "echo", "task_options": {"x": 1}})
    path.unlink()
    assert evaluated("rouge", "unknown")["scoring"] == {"rewards": "carried, origin unknown"}
    assert evaluated("mine", "nothing")["scoring"] is None
    assert run("compare", tmp_path / "again", tmp_path / "unknown", "--out", tmp_path / "compare") == 2
    assert "Runs must agree on scoring to be compared" in capsys.readouterr().err
    evaluated("rouge", "unknown-too")
    assert run("compare", tmp_path / "unknown", tmp_path / "unknown-too", "--out", tmp_path / "compare") == 0
    told = capsys.readouterr().out
    assert "note: The rewards of unknown, unknown-too came with the responses" in told
    assert "note: 1 shared prompt; below 20 the intervals are too narrow" in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((text, f"invalid temperatures value: {text!r}") for text in ("warm", "1,", "")),
        *(
            (text, f"expected a number above 0, or different ones with commas, got {text!r}")
            for text in ("1,1", "0", "nan", "inf")
        ),
    ],
)
def test_bad_temperatures_are_refused(prompts, tmp_path, capsys, text, message):
    with pytest.raises(SystemExit):
        run("sample", "--model", "m", "--data", prompts, "--out", tmp_path, "--temperature", text)
    assert message in capsys.readouterr().err


def test_responses_are_judged_by_a_reward_of_a_recipe(tmp_path, capsys):
    path = tmp_path / "groups.jsonl"
    rows = [{"id": "a", "prompt": "p", "reference": "the cat sat on", "responses": ["the cat", "dogs"],
             "finish": ["eos", "eos"]}]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--responses", path, "--encoder", "hashed", "--out", tmp_path / "out"]
    assert run("eval", *flags, "--reward", "rouge") == 0
    assert [group.rewards for group in read_groups(tmp_path / "out" / "groups.jsonl")] == [pytest.approx([2 / 3, 0])]
    assert run("eval", *flags, "--reward", "{reward: rouge, measure: rouge1}") == 0
    for reward, said in (
        ("judge", "reward 'judge': expected the setting"),
        ("rogue", "did you mean 'rouge'?"),
        ("{reward: rouge, measure: rouge9}", "`measure` must be one of rouge1"),
        ("{reward: rouge, weight: 2}", "expected one reward without weight"),
    ):
        assert run("eval", *flags, "--reward", reward) == 2
        assert said in capsys.readouterr().err


def test_a_run_is_asked_and_read_as_in_its_training(tiny_policy_folder, prompts, tmp_path, capsys):
    """Chat template variables and trace markers come from the run, unless flags give others."""
    final = tmp_path / "run" / "checkpoints" / "final"
    final.parent.mkdir(parents=True)
    tiny_policy_folder.rename(final)
    (tmp_path / "run" / "config.yaml").write_text(
        "task: cities\ntrace_markers: red...blue\ntrainer: {chat_template_kwargs: {thinks: true}}\n"
    )
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if thinks %}red{% endif %}"
    (final / "chat_template.jinja").write_text(template)
    flags = ["--model", tmp_path / "run", "--data", prompts, "--n", 2, "--max-new-tokens", 4]
    assert run("sample", *flags, "--out", tmp_path / "as-trained") == 0
    settings = json.loads((tmp_path / "as-trained" / "sampling.json").read_text())
    assert settings["chat_template_kwargs"] == {"thinks": True}
    assert settings["trace_markers"] == "red...blue"
    assert settings["prompt_opens_trace"] is True
    assert run("sample", *flags, "--chat-template-kwargs", "{thinks: false}", "--out", tmp_path / "other") == 0
    assert json.loads((tmp_path / "other" / "sampling.json").read_text())["prompt_opens_trace"] is False
    groups = tmp_path / "as-trained" / "groups.jsonl"
    lines = [json.loads(line) for line in groups.read_text().splitlines()]
    for line in lines:
        line["responses"] = ["old blue tree", "big small"]
    groups.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("eval", "--responses", groups, "--encoder", "hashed", "--out", tmp_path / "eval") == 0
    document = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert document["trace_markers"] == "red...blue"
    assert document["metrics"]["words"]["mean"] == document["metrics"]["empty"]["mean"] == 0.5
    assert "100.0% of 4 responses have a reasoning trace" in capsys.readouterr().out
    for wrong in (["--chat-template-kwargs", "thinks"], ["--trace-markers", "red"]):
        assert run("sample", *flags, *wrong, "--out", tmp_path / "wrong") == 2


@pytest.fixture
def sorting():
    """A judge with one list for each first letter, and a rating of 7."""

    def reply(path, body):
        asked = body["messages"][0]["content"]
        if '"responses"' not in asked:
            return local_server.chat("Score: 7")
        found = json.JSONDecoder().raw_decode(asked, asked.index("{\n"))[0]["responses"]
        if any(entry["text"] == "zebra" for entry in found):
            return local_server.chat("They differ.")
        letters = dict.fromkeys(entry["text"][0] for entry in found)
        lists = [[entry["number"] for entry in found if entry["text"][0] == letter] for letter in letters]
        return local_server.chat(json.dumps({"groups": lists}))

    server = local_server.LocalServer(reply, {"data": [{"id": "m"}]})
    yield server
    server.close()


def test_distinct_ideas_are_counted_by_one_call_of_a_judge_per_prompt(sorting, tmp_path, capsys):
    ideas = {"a": ["cat", "cow", "dog", "ant", "cat"] * 2, "b": ["cat"] * 10, "c": ["zebra", *["cat"] * 9]}
    rows = [{"id": name, "prompt": name, "responses": texts, "finish": ["eos"] * 10} for name, texts in ideas.items()]
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--responses", tmp_path / "groups.jsonl", "--encoder", "hashed", "--protocol", "noveltybench-1.1"]
    assert run("eval", *flags, "--out", tmp_path / "none") == 2
    said = capsys.readouterr().err
    assert "--protocol noveltybench-1.1 needs --judge and --judge-endpoint, got none; add them" in said
    judge = ["--judge", "m", "--judge-endpoint", sorting.url]
    assert run("eval", *flags, *judge, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert document["equivalence"] == "judge:m (partition)"
    rows = [json.loads(line) for line in (tmp_path / "out" / "prompt_metrics.jsonl").read_text().splitlines()]
    assert [row["classes"] for row in rows] == [3, 1, None]
    # of 0.8^i (1 - 0.8)/(1 - 0.8^10), i = 0, 2, 3, those that open a class, each worth (7 - 1)/9
    assert rows[0]["utility_k"] == pytest.approx(2 / 3 * (1 + 0.64 + 0.512) * 0.2 / (1 - 0.8**10))
    assert "note: judge:m (partition): 2 of 4 replies about a group could not be read" in said
    assert "agrees with itself on 100.0% of the pairs of responses (adjusted Rand index 1.00)" in said
    assert "note: judge:m (partition): 6 calls" in said, "twice of a; twice of c, each with a second try; none of b"
    assert "classes, utility_k, good/classes are over 2 of 3 prompts" in said
    first = [entry["text"] for entry in _quoted(sorting.requests)[0]]
    assert first == ["cat", "cow", "dog", "ant"], "as sampled, which is the order of NoveltyBench"
    (tmp_path / "words.txt").write_text("Sort by colour.")
    named = ["--equivalence", f"judge:{tmp_path / 'words.txt'}", "--judge-repeats", "1"]
    assert run("eval", *flags, *judge, *named, "--out", tmp_path / "own") == 0
    assert "Sort by colour.\n\n" in sorting.requests[-1]["messages"][0]["content"]
    document = json.loads((tmp_path / "own" / "metrics.json").read_text())
    assert document["equivalence"].startswith("judge:m (partition, rubric ")


def _quoted(requests):
    asked = [body["messages"][0]["content"] for body in requests]
    return [
        json.JSONDecoder().raw_decode(text, text.index("{\n"))[0]["responses"]
        for text in asked
        if '"responses"' in text
    ]
