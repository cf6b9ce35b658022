"""Folders of evaluations, runs and models, and answers of servers, are read, or refused in one sentence."""

import json
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fuzzing import GROUPS, anything, fuzz, json_lines, nearly, text, yaml_text
from hypothesis import strategies as st
from local_server import LocalServer, chat, embeddings

from dqo.files.records import Group, Prompt, read_groups, read_prompts

STEP = {"step": 1, "loss": 0.1, "quality": 0.5, "diversity/vendi": 2.0, "kl": 0.0}
ROWS = [("Say.", [("a b c", "eos"), ("", "length")], True), ("Tell.", [("d", "eos"), ("e f", "eos")], True)]


@fuzz(st.tuples(json_lines(GROUPS), nearly({"n": 2, "seed": 0})), cost=2)
def test_a_sampling_that_is_continued(value, folder):
    from dqo.files.evaluation import SamplingFolder

    (folder / "groups.jsonl").write_bytes(value[0])
    (folder / "sampling.json").write_text(json.dumps(value[1]))
    prompts = [{"prompt": group["prompt"], "meta": {"id": group["id"]}} for group in GROUPS]
    (folder / "p.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    SamplingFolder(folder, {"n": 2, "seed": 0}, read_prompts(folder / "p.jsonl"))


def evaluated(rows, folder):
    from dqo.embedders import load_embedder
    from dqo.evaluation.run import evaluate

    groups = []
    for place, (prompt, answers, scored) in enumerate(rows):
        responses, finish = (list(column) for column in zip(*answers, strict=True))
        groups.append(Group(str(place), prompt, [], responses, finish, [0.5] * len(answers) if scored else None, {}))
    evaluate(groups, encoder=load_embedder("hashed"), out=folder)


answers = st.lists(st.tuples(text, st.sampled_from(["eos", "length"])), min_size=1, max_size=4)


@fuzz(st.lists(st.tuples(text, answers, st.booleans()), min_size=1, max_size=3), cost=20)
def test_responses_that_are_evaluated(rows, folder):
    evaluated(rows, folder)


@cache
def an_evaluation():
    """What an evaluation writes: file -> content."""
    with TemporaryDirectory() as folder:
        evaluated(ROWS, Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@st.composite
def spoiled_evaluation(draw):
    """An evaluation of which one file is spoiled."""
    files = an_evaluation()
    name = draw(st.sampled_from(sorted(files)))
    if name.endswith(".jsonl"):
        spoiled = draw(json_lines([json.loads(line) for line in files[name].splitlines()]))
    else:
        documents = nearly(json.loads(files[name])).map(lambda document: json.dumps(document).encode())
        spoiled = draw(st.one_of(documents, st.binary(max_size=9)))
    return files | {name: spoiled}


def written(spoiled, folder):
    """Folders of a whole evaluation and of a spoiled one."""
    for name, files in (("whole", an_evaluation()), ("spoiled", spoiled)):
        write(files, folder / name)
    return [folder / "whole", folder / "spoiled"]


def write(files, folder):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@fuzz(spoiled_evaluation(), cost=20)
def test_evaluations_that_are_compared(spoiled, folder):
    from rich.console import Console

    from dqo.evaluation.compare import compare, comparison_table, difference_table

    comparison = compare(written(spoiled, folder), folder / "out")
    for table in (comparison_table(comparison), difference_table(comparison)):
        Console(file=StringIO()).print(table)


@fuzz(spoiled_evaluation(), cost=20)
def test_evaluations_that_are_reported(spoiled, folder):
    from dqo.report.page import write_report

    write_report(written(spoiled, folder), folder / "r.html", maps=0)


@fuzz(st.tuples(json_lines([STEP, STEP | {"step": 2}]), yaml_text), cost=20)
def test_a_training_that_is_reported(value, folder):
    from dqo.report.page import write_report

    (folder / "metrics.jsonl").write_bytes(value[0])
    (folder / "config.yaml").write_bytes(value[1].encode("utf-8", "surrogatepass"))
    write_report([folder], folder / "r.html", maps=0)


@cache
def policy_files():
    """A random policy of two layers, as `save_pretrained` writes it: file -> content."""
    from tiny import save_tiny_policy

    with TemporaryDirectory() as folder:
        save_tiny_policy(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@st.composite
def spoiled_policy(draw):
    files = dict(policy_files())
    name = draw(st.sampled_from(sorted(files)))
    kind = draw(st.sampled_from(["data", "data", "missing", "cut", "bytes"]))
    if kind == "missing":
        del files[name]
    elif kind == "data" and name.endswith(".json"):
        files[name] = json.dumps(draw(nearly(json.loads(files[name])))).encode()
    elif kind == "bytes":
        files[name] = draw(st.binary(max_size=40))
    else:
        files[name] = files[name][: draw(st.integers(0, len(files[name])))]
    return files


@fuzz(spoiled_policy(), cost=40)
def test_policies(files, folder):
    from dqo.evaluation.engines import Asked, LocalModel
    from dqo.evaluation.sampling import sample_from
    from dqo.models.policy import load_policy

    write(files, folder)
    model, tokenizer = load_policy(str(folder))
    asked = Asked(seed=0, max_new_tokens=2, temperature=1.0)
    sample_from(LocalModel(model, tokenizer, asked), [Prompt("p", "a b", [], {})], 2)


@pytest.fixture(scope="module")
def server():
    """Answers every request with what it was last given."""
    running = LocalServer(lambda path, body: running.answer, {"data": [{"id": "m", "object": "model"}]})
    yield running
    running.close()


documents = st.one_of(
    nearly(chat("Score: 3")), nearly(chat('{"groups": [[1, 2]]}')), nearly(embeddings([[0.5, 1.0]])), anything
)


@pytest.mark.parametrize("use", ["sampled", "judged alike", "judged", "rewarded", "embedded"])
def test_answers_of_a_server(use, server, tmp_path_factory):
    """As a sampled response that is written and read again, as classes, a rating and an embedding."""
    from dqo.embedders.served import ServedEmbedder
    from dqo.evaluation.engines import Asked, ServedModel
    from dqo.evaluation.sampling import sample_from
    from dqo.rewards.judge import JudgeReward

    options = {"retries": 0, "timeout": 10.0}

    def sampled(folder):
        model = ServedModel("m", server.url, Asked(seed=0, max_new_tokens=3, temperature=1.0), **options)
        try:
            sample_from(model, [Prompt("p", "Say.", [], {})], 2, out=folder)
        finally:
            if (folder / "groups.jsonl").exists():
                read_groups(folder / "groups.jsonl")

    uses = {
        "sampled": sampled,
        "judged alike": lambda _: JudgeReward(server.url, "m", "partition", **options).partition(["p"], [["a", "b"]]),
        "judged": lambda _: JudgeReward(server.url, "m", **options).quality(["p"], ["a"]),
        "rewarded": lambda _: JudgeReward(server.url, "m", **options)(prompts=["p"], completions=["a"]),
        "embedded": lambda _: ServedEmbedder(server.url, "m", **options)(["a", "b"]),
    }

    @fuzz(st.one_of(documents.map(lambda document: json.dumps(document).encode()), st.binary(max_size=40)), cost=40)
    def answer(body, folder):
        server.answer = body
        uses[use](folder)

    answer(tmp_path_factory=tmp_path_factory)
