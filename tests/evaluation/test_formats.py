"""Responses of other tools: read from each format, they give the figures of the same responses in ours."""

import json
from pathlib import Path

import pytest

from dqo.cli.main import main
from dqo.embedders import load_embedder
from dqo.errors import DataError, RecipeError
from dqo.evaluation import read_responses
from dqo.evaluation.answers import Answers
from dqo.evaluation.formats import FORMATS
from dqo.evaluation.run import evaluate
from dqo.files.records import Conversation, Group, read_groups, write_groups

FOREIGN = Path(__file__).parent / "foreign"  # written by the tools themselves, see make.py there
SAID = json.loads((FOREIGN / "said.json").read_text())
GROUPS = [Group(**group, meta={}) for group in SAID]
PAIRS = [(group, i) for group in SAID for i in range(4)]  # every response with the prompt it answers
RULE = r"#### (\S+)"


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(path, rows):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def ours(tmp_path):
    write_groups(tmp_path / "groups.jsonl", GROUPS)
    return tmp_path / "groups.jsonl"


def noveltybench(tmp_path):
    """As its inference.py writes it."""
    return lines(
        tmp_path / "generations.jsonl",
        [{"id": g["id"], "prompt": g["prompt"], "model": "m", "generations": g["responses"]} for g in SAID],
    )


def verl(tmp_path):
    """As `_write_generations` of verl 0.9.1 writes it."""
    return lines(
        tmp_path / "7.jsonl",
        [
            {"input": g["prompt"], "output": g["responses"][i], "gts": g["reference"], "score": g["rewards"][i],
             "step": 7}
            for g, i in PAIRS
        ],
    )  # fmt: skip


def completion(texts, finish):
    """A chat completion as the API returns it."""
    ends = {"eos": "stop", "length": "length"}
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text, "refusal": None}, "finish_reason": ends[end]}
        for i, (text, end) in enumerate(zip(texts, finish, strict=True))
    ]
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-2024-08-06", "choices": choices}


def answered(custom_id, body):
    response = {"status_code": 200, "request_id": "req_1", "body": body}
    return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": response, "error": None}


def requests(tmp_path, prompts):
    """The file that is uploaded for a batch: custom_id -> messages."""
    body = {"model": "gpt-4o", "temperature": 1.0, "max_tokens": 64, "n": 4}
    rows = [
        {"custom_id": own, "method": "POST", "url": "/v1/chat/completions", "body": body | {"messages": messages}}
        for own, messages in prompts.items()
    ]
    return lines(tmp_path / "requests.jsonl", rows)


def asked(group):
    return [{"role": "user", "content": group["prompt"]}]


def batch(tmp_path):
    requests(tmp_path, {group["id"]: asked(group) for group in SAID})
    rows = [answered(group["id"], completion(group["responses"], group["finish"])) for group in SAID]
    return lines(tmp_path / "batch_output.jsonl", rows[::-1])  # in any order


def rows_in_jsonl(tmp_path):
    return lines(
        tmp_path / "rows.jsonl",
        [
            {"id": n, "question": g["prompt"], "completion": g["responses"][i], "score": g["rewards"][i],
             "target": g["reference"], "finish_reason": "stop" if g["finish"][i] == "eos" else "length"}
            for n, (g, i) in enumerate(PAIRS)
        ],
    )  # fmt: skip


def rows_in_parquet(tmp_path):
    return table(
        tmp_path / "rows.parquet",
        [
            {"messages": asked(g), "response": g["responses"][i], "reward": g["rewards"][i], "finish": g["finish"][i]}
            for g, i in PAIRS
        ],
    )


def dataset_folder(tmp_path):
    from datasets import Dataset

    rows = [{"prompt": g["prompt"], "responses": g["responses"], "finish": g["finish"]} for g in SAID]
    Dataset.from_list(rows).save_to_disk(tmp_path / "set")
    return tmp_path / "set"


# Format -> what makes its file, and whether it tells how responses ended.
FILES = {
    "groups": (ours, True),
    "lm-eval": (lambda _: FOREIGN / "lm-eval.jsonl", False),
    "inspect .eval": (lambda _: FOREIGN / "inspect.eval", True),
    "inspect .json": (lambda _: FOREIGN / "inspect.json", True),
    "openai-batch": (batch, True),
    "noveltybench": (noveltybench, False),
    "verl": (verl, False),
    "trl": (lambda _: FOREIGN / "trl.parquet", False),
    "rows in JSON lines": (rows_in_jsonl, True),
    "rows in parquet": (rows_in_parquet, True),
    "rows of a data set": (dataset_folder, True),
}


def figures(groups, out):
    """Mean of every metric, of the same rewards: those of `said.json`."""
    rewards = {group.prompt: group.rewards for group in GROUPS}
    rated = [Group(g.id, g.prompt, g.reference, g.responses, g.finish, rewards[g.prompt], g.meta) for g in groups]
    document = evaluate(rated, encoder=load_embedder("hashed"), answer=Answers(RULE), out=out)
    return {name: value and value["mean"] for name, value in document["metrics"].items()}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_figures_of_the_same_responses_in_ours(tmp_path, name):
    make, tells_ends = FILES[name]
    path = make(tmp_path)
    read = read_responses(path, data=tmp_path / "requests.jsonl" if name == "openai-batch" else None)
    assert read.format == name.split()[0]
    assert {group.prompt: group.responses for group in read.groups} == {g.prompt: g.responses for g in GROUPS}
    assert all(
        group.rewards in (None, g["rewards"]) for group in read.groups for g in SAID if g["prompt"] == group.prompt
    )
    found, expected = figures(read.groups, tmp_path / "out"), figures(GROUPS, tmp_path / "ours")
    assert found["truncated"] == (0.125 if tells_ends else None)
    assert found | {"truncated": 0} == pytest.approx(expected | {"truncated": 0})
    # Hand-worked: three of four are right for both prompts; right answers are {5} and {2, 7}, all answers {5, 6} and
    # {2, 7, 9}.
    assert (found["pass@1"], found["distinct_right@4"], found["classes"]) == (0.75, 1.5, 2.5)


def test_the_files_are_one_of_each_format():
    assert {name.split()[0] for name in FILES} == {"groups", *FORMATS}


@pytest.mark.parametrize("name", ["lm-eval", "inspect .eval", "verl", "openai-batch"])
def test_the_command_names_format_and_sampling_and_scores_by_the_answer(tmp_path, capsys, name):
    path = FILES[name][0](tmp_path)
    more = ["--data", str(tmp_path / "requests.jsonl")] if name == "openai-batch" else []
    out = tmp_path / "out"
    command = ["eval", "--responses", str(path), "--answer", RULE, "--encoder", "hashed", "--out", str(out), *more]
    assert main(command) == 0
    said = capsys.readouterr().out
    known = "sampling unknown" if name == "verl" else "temperature 1, at most 64 tokens"
    assert f"2 prompts, 4 responses each, {known}; mean [95 % interval]:" in said
    assert f"note: {path} was read as {name.split()[0]}, " in said
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["answer"] == metrics["equivalence"] == f"answer {RULE}"
    assert metrics["metrics"]["classes"]["mean"] == 2.5
    # A batch holds neither rewards nor references.
    assert (metrics["metrics"]["pass@1"] or {}).get("mean") == (None if name == "openai-batch" else 0.75)
    again = tmp_path / "again"
    assert main(["eval", "--responses", str(out), "--encoder", "hashed", "--out", str(again)]) == 0
    assert json.loads((again / "metrics.json").read_text())["sampling"] == metrics["sampling"], "it is kept"


@pytest.mark.parametrize("old", [False, True])
def test_messages_of_a_chat_api_in_lm_eval_are_a_conversation(tmp_path, old):
    """It keeps them as JSON within a tuple; older versions keep the arguments as lists."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A bird?"}]
    settings = {"do_sample": False, "temperature": 1.0}
    call = [[json.dumps(messages)], settings]
    arguments = [call] if old else {"gen_args_0": {"arg_0": call[0], "arg_1": call[1]}}
    row = {"doc_id": 4, "doc": {}, "target": "owl", "arguments": arguments, "resps": [["owl", "owl"]], "filter": "none"}
    read = read_responses(lines(tmp_path / "samples.jsonl", [row]))
    assert read.groups[0].prompt.messages == messages
    assert (read.groups[0].reference, read.sampling) == ("owl", {"temperature": 0.0}), "greedy, whatever it says"
    assert "at temperature 0, so that they can hardly differ; set `repeats: 10`" in read.notes[-1]


def test_references_come_from_the_data_by_id(tmp_path):
    path = batch(tmp_path)
    data = lines(
        tmp_path / "prompts.jsonl",
        [{"prompt": g["prompt"], "reference": g["reference"], "meta": {"id": g["id"]}} for g in SAID],
    )
    read = read_responses(path, data=data)
    assert {group.id: group.reference for group in read.groups} == {g["id"]: g["reference"] for g in SAID}
    document = evaluate(read.groups, encoder=load_embedder("hashed"), answer=Answers(RULE), out=tmp_path / "out")
    assert document["metrics"]["pass@1"]["mean"] == 0.75


def test_requests_with_one_prompt_are_one_group_whatever_their_ids(tmp_path):
    data = requests(tmp_path, {f"{g['id']}-{i}": asked(g) for g, i in PAIRS})
    rows = [answered(f"{g['id']}-{i}", completion([g["responses"][i]], [g["finish"][i]])) for g, i in PAIRS]
    read = read_responses(lines(tmp_path / "output.jsonl", rows), data=data)
    assert [group.responses for group in read.groups] == [group.responses for group in GROUPS]
    assert read.sampling == {"model": "gpt-4o-2024-08-06", "temperature": 1.0, "max_new_tokens": 64} | {}


def test_what_failed_is_left_out_and_counted(tmp_path):
    data = requests(tmp_path, {group["id"]: asked(group) for group in SAID})
    body = completion(["one", "two"], ["eos", "eos"])
    body["choices"].append({"index": 2, "message": {"role": "assistant", "content": None}, "finish_reason": "stop"})
    failed = {"id": "b", "custom_id": "prime", "response": {"status_code": 500, "body": {}}, "error": {"code": "x"}}
    read = read_responses(lines(tmp_path / "output.jsonl", [answered("sum", body), failed]), data=data)
    assert [(group.id, group.responses) for group in read.groups] == [("sum", ["one", "two"])]
    assert read.notes[-1] == "2 of 4 requests have no response and are left out."


def test_other_endpoints_of_a_batch_are_read(tmp_path):
    def response(text, status, details=None):
        parts = [{"type": "output_text", "text": text, "annotations": []}]
        output = [{"type": "reasoning", "summary": []}, {"type": "message", "role": "assistant", "content": parts}]
        return {"object": "response", "status": status, "incomplete_details": details, "output": output, "model": "m"}

    rows = [
        answered("a", {"object": "text_completion", "choices": [{"text": "x", "finish_reason": "length"}] * 2}),
        answered("b", response("y", "completed")),
        answered("c", response("z", "incomplete", {"reason": "max_output_tokens"})),
    ]
    bodies = {
        "a": {"prompt": "P"},
        "b": {"input": "Q", "instructions": "Be."},
        "c": {"input": "Q", "instructions": "Be."},
    }
    data = lines(tmp_path / "in.jsonl", [{"custom_id": own, "body": body} for own, body in bodies.items()])
    first, second = read_responses(lines(tmp_path / "out.jsonl", rows), data=data).groups
    assert (first.prompt, first.responses, first.finish) == ("P", ["x", "x"], ["length", "length"])
    assert (second.responses, second.finish) == (["y", "z"], ["eos", "length"])
    assert second.prompt.messages == [{"role": "system", "content": "Be."}, {"role": "user", "content": "Q"}]


def test_our_own_lines_may_have_whole_numbers_as_ids_and_other_words_for_the_end(tmp_path):
    rows = [
        {
            "id": 7,
            "prompt": [{"role": "user", "content": "Say."}],
            "responses": ["a", "b"],
            "finish": ["stop", "length"],
        },
        {"id": 8, "prompt": "Say more.", "responses": ["c"]},
    ]
    first, second = read_responses(lines(tmp_path / "mine.jsonl", rows)).groups
    assert (first.id, first.prompt, first.finish) == ("7", "Say.", ["eos", "length"])
    assert second.finish == ["unknown"]
    notes = evaluate([second], encoder=load_embedder("hashed"), out=tmp_path / "out")["notes"]
    assert "Nothing says how 1 responses ended: they count as ended by themselves, not as truncated." in notes
    assert read_groups(tmp_path / "out/groups.jsonl")[0].finish == ["unknown"]


def test_conversations_keep_their_messages_and_completions_of_messages_become_text(tmp_path):
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A bird?"}]
    texts = ["Owl", "<think>hm</think>Wren"]
    rows = [
        {
            "step": 3,
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": text}],
            "r": 1.0,
            "advantage": float(i),
        }
        for i, text in enumerate(texts)
    ]
    [group] = read_responses(table(tmp_path / "completions_00003.parquet", rows)).groups
    assert isinstance(group.prompt, Conversation)
    assert group.prompt.messages == prompt
    assert (group.responses, group.rewards, group.meta) == (texts, [1.0, 1.0], {"step": 3})


def test_a_prompt_with_tools_is_kept_as_a_text():
    row = {"prompt": [{"role": "user", "content": "?"}, {"role": "tool", "content": "42"}], "response": ["a", "b"]}
    form = FORMATS["rows"]
    sample = form.read(row, "here", {"prompt": "prompt", "response": "response"})
    assert sample.prompt == "user: ?\n\ntool: 42"


def test_columns_and_format_can_be_named(tmp_path):
    rows = [
        {"q": "Say.", "said": text, "input": "x", "output": "y", "good": value}
        for text, value in zip("ab", [1, 0], strict=True)
    ]
    path = lines(tmp_path / "odd.jsonl", rows)
    columns = {"prompt": "q", "response": "said", "reward": "good"}
    [group] = read_responses(path, columns=columns).groups
    assert (group.prompt, group.responses, group.rewards) == ("Say.", ["a", "b"], [1.0, 0.0])
    with pytest.raises(DataError, match=r"column must be|`column` must be one of id, prompt, response"):
        read_responses(path, columns={"answer": "said"})
    with pytest.raises(DataError, match=r"odd\.jsonl: expected columns of the format lm-eval: none, got 'prompt'"):
        read_responses(path, format="lm-eval", columns={"prompt": "q"})
    with pytest.raises(DataError, match=r"`format` must be one of groups, lm-eval, .* \(did you mean 'inspect'\?\)"):
        read_responses(path, format="inspekt")
    with pytest.raises(DataError, match=r"odd\.jsonl, line 1: expected the fields? `doc_id`.* got none"):
        read_responses(path, format="lm-eval")


def inspect_log(scores):
    samples = [
        {"id": 1, "epoch": epoch, "input": "?", "target": "", "metadata": {}, "scores": scores,
         "output": {"choices": [{"message": {"role": "assistant", "content": parts}, "stop_reason": "stop"}]}}
        for epoch, parts in enumerate(["a", [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "b"}]])
    ]  # fmt: skip
    return {"eval": {"model": "m", "model_generate_config": {"temperature": 0}}, "samples": samples}


def test_a_scorer_of_inspect_can_be_named(tmp_path):
    path = tmp_path / "log.json"
    path.write_text(json.dumps(inspect_log({"one": {"value": "C"}, "two": {"value": 0.25}})))
    read = read_responses(path)
    assert (read.groups[0].responses, read.groups[0].rewards) == (["a", "b"], [1.0, 1.0])
    assert "at temperature 0, so that they can hardly differ; run `inspect eval` again with `--epochs" in read.notes[-1]
    assert read_responses(path, columns={"reward": "two"}).groups[0].rewards == [0.25, 0.25]
    with pytest.raises(DataError, match="expected the scorer to be one of one, two, got 'three'"):
        read_responses(path, columns={"reward": "three"})


def one_each(tmp_path, name):
    """A file with one response per prompt."""
    if name == "lm-eval":
        rows = [json.loads(line) for line in (FOREIGN / "lm-eval.jsonl").read_text().splitlines()]
        return lines(tmp_path / "x.jsonl", [row | {"resps": [row["resps"][0][:1]]} for row in rows])
    if name == "inspect":
        log = json.loads((FOREIGN / "inspect.json").read_text())
        log["samples"] = [sample for sample in log["samples"] if sample["epoch"] == 1]
        (tmp_path / "x.json").write_text(json.dumps(log, indent=2))
        return tmp_path / "x.json"
    rows = [{"prompt": group["prompt"], "generations": group["responses"][:1], "id": group["id"]} for group in SAID]
    return lines(tmp_path / "x.jsonl", rows)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("lm-eval", r"set `repeats: 10` and, under `generation_kwargs`, `do_sample: true`"),
        ("inspect", r"run `inspect eval` again with `--epochs 10 --temperature 1`"),
        ("noveltybench", r"run its inference again with `--num-generations 10`"),
    ],
)
def test_one_response_per_prompt_is_refused_with_the_remedy(tmp_path, name, remedy):
    with pytest.raises(
        DataError, match=rf"expected several responses per prompt, got .* with one for each of 2 .*{remedy}"
    ):
        read_responses(one_each(tmp_path, name))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"x\.jsonl: expected responses, got none; check the path"),
        ([{"a": 1, "b": 2}], r"x\.jsonl: expected responses in a known format, got rows of a, b; say which column "
         r"is the prompt with --column prompt=NAME"),
        ([{"custom_id": "a", "response": None, "error": None}],
         r"expected the prompts too, .* add --data REQUESTS\.jsonl"),
        ([{"prompt": " ", "response": "a"}], r"line 1: expected a prompt as text or chat messages, got ' '"),
        ([{"prompt": "p", "response": 3}], r"line 1: expected a response as text or chat messages, got 3"),
        ([{"prompt": "p", "response": "a"}, {"prompt": "p"}],
         r"line 2: expected the column 'response', got prompt; name"),
        ([{"prompt": "p", "response": []}], r"got rows of samples in which every request failed"),
        ([{"input": "p", "output": "a", "gts": "", "score": 0, "step": step} for step in (1, 2)],
         r"expected responses of one step of a training, got steps 1 and 2 for 'p'"),
        ([{"id": "a", "prompt": p, "generations": ["x"]} for p in "pq"],
         r"expected one prompt of id 'a', got 'p' and 'q'"),
        ([{"doc_id": 1, "arguments": {"gen_args_0": {"arg_0": "p", "arg_1": " yes"}}, "resps": [[["-1", "True"]]]}],
         r"line 1: expected text that a model generated, got log-likelihoods of given choices"),
        ([{"doc_id": 1, "arguments": {}, "resps": [["x"]]}], r"line 1: `arguments` must be"),
        ([{"doc_id": 1, "arguments": [[["no JSON"], {}]], "resps": [["x"]]}],
         r"line 1: expected a prompt as text or chat messages, got \['no JSON'\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_responses(lines(tmp_path / "x.jsonl", rows))


def test_broken_containers_are_refused_in_one_sentence(tmp_path, monkeypatch):
    for name, content, message in (
        ("a.eval", b"PK\x03\x04 cut", r"a\.eval: expected a whole log of Inspect, got .*; copy it again"),
        ("b.parquet", b"PAR1 cut", r"b\.parquet: expected a whole parquet file, got .*; copy it again"),
        ("c.json", b'{\n"a": 1\n}', r"c\.json: expected JSON lines or a log of Inspect, got one object"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_responses(tmp_path / name)
    for name in ("x.jsonl", "y.jsonl"):
        lines(tmp_path / name, [{"prompt": "p", "responses": ["a", "b"]}])
    (tmp_path / "b.parquet").unlink()
    with pytest.raises(
        DataError, match=r"expected a folder with one file of responses, got a\.eval, x\.jsonl, y\.jsonl;"
    ):
        read_responses(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    for path in (tmp_path / "none.jsonl", f"{tmp_path.name}/none", "none/none.eval"):
        with pytest.raises(DataError, match=r"none.*: expected a readable file of responses, got No such file"):
            read_responses(path)


def test_a_data_set_of_the_hub_is_read_by_its_name(monkeypatch):
    import datasets

    rows = [{"prompt": g["prompt"], "completion": g["responses"][i]} for g, i in PAIRS]
    both = datasets.DatasetDict({"a": datasets.Dataset.from_list(rows), "b": datasets.Dataset.from_list(rows)})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: both[split] if split else both)
    assert [group.responses for group in read_responses("me/mine:a").groups] == [g.responses for g in GROUPS]
    with pytest.raises(DataError, match=r"me/mine: expected one split, got a, b; name one, as me/mine:a"):
        read_responses("me/mine")


@pytest.mark.parametrize(
    ("rule", "text", "answer"),
    [
        ("boxed", r"so \boxed{1} or rather \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("boxed", "no box", ""),
        ("stated", "2 + 3\n#### 5", "5"),
        (r"(?i)answer: (\w+)", "Answer: no. ANSWER: yes.", "yes"),
        (r"\d+", "1, then 22", "22"),
        ("gsm8k", "Two.\n#### 2\nBye", "Two.\n#### 2"),
    ],
)
def test_an_answer_is_found_by_its_rule(rule, text, answer):
    assert Answers(rule)(text) == answer


def test_equal_answers_are_one_however_they_are_spelled():
    answers = Answers("boxed")
    assert answers.same([("1,000", "1000.0"), ("Paris", "paris "), ("0.5", r"\frac12"), ("x", "y")]) == [True] * 3 + [
        False
    ]
    scored = answers.equals_reference(
        [r"\boxed{72}", r"\boxed{73}", "72", r"\boxed{a}"], ["… #### 72", "72", ["72"], []]
    )
    assert scored == [0.0, 0.0, 0.0, None], "the rule finds no box in '… #### 72'"
    assert (
        Answers("stated").cut_references(Group("1", "p", "4 and 3.\n#### 72", ["x"], ["eos"], None, {})).reference
        == "72"
    )


def test_a_rule_that_is_no_pattern_is_refused(tmp_path, capsys):
    with pytest.raises(RecipeError, match=r"--answer '\(': expected boxed, stated, .* but it is none \(missing \)"):
        Answers("(")
    command = [
        "eval",
        "--responses",
        str(ours(tmp_path)),
        "--task",
        "gsm8k",
        "--answer",
        "boxed",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(command) == 2
    assert "--task and --answer contradict each other" in capsys.readouterr().err
