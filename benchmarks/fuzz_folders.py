"""Doors that read whole folders, of evaluations, runs and models, and the answers of servers."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from dqo.errors import DQOError
from dqo.files.records import Group, read_groups, read_prompts
from fuzz import Door
from fuzz_inputs import anything, json_lines, nearly, text, yaml_text
from fuzz_server import fuzz_server

GROUPS = [
    {"id": "q1", "prompt": "Say.", "reference": [], "responses": ["a b", ""], "finish": ["eos", "length"],
     "rewards": [1, 0.5], "meta": {}},
    {"id": "q2", "prompt": "Tell.", "reference": "c", "responses": ["c", "d"], "finish": ["eos", "eos"],
     "rewards": None, "meta": {"id": "q2"}},
]  # fmt: skip
STEP = {"step": 1, "loss": 0.1, "quality": 0.5, "diversity/vendi": 2.0, "kl": 0.0}


def folder_doors() -> list[Door]:
    """Every door of this file, cheap ones first."""
    return [
        Door("sampling folder", st.tuples(json_lines(GROUPS), nearly({"n": 2, "seed": 0})), _sampling, cost=2),
        Door("texts, evaluated", _texts(), _evaluated, cost=20),
        Door("evaluation, compared", _folders(), _compared, cost=20),
        Door("evaluation, reported", _folders(), _reported, cost=20),
        Door("training log, reported", st.tuples(json_lines([STEP, STEP | {"step": 2}]), yaml_text), _logged, cost=20),
        Door("model folder", _model_files(), _model, cost=40),
        Door("server's answers", _answers(), _server, cost=40),
    ]


def _texts() -> st.SearchStrategy:
    rows = st.lists(st.tuples(text, st.sampled_from(["eos", "length"])), min_size=1, max_size=4)
    return st.lists(st.tuples(text, rows, st.booleans()), min_size=1, max_size=3)


def _evaluated(rows: list, folder: Path) -> None:
    from dqo.embedders import load_embedder
    from dqo.evaluation.run import evaluate

    groups = []
    for place, (prompt, answers, scored) in enumerate(rows):
        responses, finish = (list(column) for column in zip(*answers, strict=True))
        groups.append(Group(str(place), prompt, [], responses, finish, [0.5] * len(answers) if scored else None, {}))
    evaluate(groups, encoder=load_embedder("hashed"), out=folder)


def _sampling(value: tuple[bytes, Any], folder: Path) -> None:
    from dqo.files.evaluation import SamplingFolder

    content, settings = value
    (folder / "groups.jsonl").write_bytes(content)
    (folder / "sampling.json").write_text(json.dumps(settings))
    (folder / "p.jsonl").write_text(
        "".join(json.dumps({"prompt": g["prompt"], "meta": {"id": g["id"]}}) + "\n" for g in GROUPS)
    )
    SamplingFolder(folder, {"n": 2, "seed": 0}, read_prompts(folder / "p.jsonl"))


@cache
def _evaluation() -> dict[str, Any]:
    """What `dqo eval` writes, by file name: an object, or a list of objects for JSON lines."""
    folder = Path(tempfile.mkdtemp())
    try:
        rows = [("Say.", [("a b c", "eos"), ("", "length")], True), ("Tell.", [("d", "eos"), ("e f", "eos")], True)]
        _evaluated(rows, folder)
        files = {path.name: path.read_text() for path in folder.iterdir()}
    finally:
        shutil.rmtree(folder)
    return {name: [json.loads(line) for line in content.splitlines()] if name.endswith("l") else json.loads(content)
            for name, content in files.items()}  # fmt: skip


def _lines(files: dict[str, Any]) -> dict[str, bytes]:
    return {
        name: "\n".join(map(json.dumps, rows if isinstance(rows, list) else [rows])).encode()
        for name, rows in files.items()
    }


@st.composite
def _folders(draw: st.DrawFn) -> dict[str, bytes]:
    files = _evaluation()
    spoiled = draw(st.sampled_from(sorted(files)))
    written = _lines(files)
    if spoiled.endswith("l"):
        written[spoiled] = draw(json_lines(files[spoiled]))
    else:
        written[spoiled] = draw(
            st.one_of(nearly(files[spoiled]).map(lambda d: json.dumps(d).encode()), st.binary(max_size=9))
        )
    return written


def _written(files: dict[str, bytes], folder: Path) -> list[Path]:
    whole = _lines(_evaluation())
    for name, content in (("whole", whole), ("spoiled", files)):
        (folder / name).mkdir()
        for file, data in content.items():
            (folder / name / file).write_bytes(data)
    return [folder / "whole", folder / "spoiled"]


def _compared(files: dict[str, bytes], folder: Path) -> None:
    from io import StringIO

    from rich.console import Console

    from dqo.evaluation.compare import compare, comparison_table, difference_table

    comparison = compare(_written(files, folder), folder / "out")
    for table in (comparison_table(comparison), difference_table(comparison)):
        Console(file=StringIO()).print(table)


def _reported(files: dict[str, bytes], folder: Path) -> None:
    from dqo.report.page import write_report

    write_report(_written(files, folder), folder / "r.html", maps=0)


def _logged(value: tuple[bytes, str], folder: Path) -> None:
    from dqo.report.page import write_report

    (folder / "metrics.jsonl").write_bytes(value[0])
    (folder / "config.yaml").write_bytes(value[1].encode("utf-8", "surrogatepass"))
    write_report([folder], folder / "r.html", maps=0)


@cache
def _policy_files() -> dict[str, bytes]:
    """A random policy of two layers, as `save_pretrained` writes it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", "a", "b"])}, "<unk>")
    )
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    config = LlamaConfig(vocab_size=5, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                         max_position_embeddings=32)  # fmt: skip
    folder = Path(tempfile.mkdtemp())
    try:
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}
    finally:
        shutil.rmtree(folder)


@st.composite
def _model_files(draw: st.DrawFn) -> dict[str, bytes]:
    files = dict(_policy_files())
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


def _model(files: dict[str, bytes], folder: Path) -> None:
    from dqo.evaluation.engines import Asked, LocalModel
    from dqo.evaluation.sampling import sample_from
    from dqo.files.records import Prompt
    from dqo.models.policy import load_policy

    for name, content in files.items():
        (folder / name).write_bytes(content)
    model, tokenizer = load_policy(str(folder))
    prompt = Prompt("p", "a b", [], {})
    sample_from(LocalModel(model, tokenizer, Asked(seed=0, max_new_tokens=2, temperature=1.0)), [prompt], 2)


def _chat() -> dict[str, Any]:
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Score: 3"}}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [message]}


def _answers() -> st.SearchStrategy:
    vector = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}]}
    documents = st.one_of(nearly(_chat()), nearly(vector), anything)
    return st.one_of(documents.map(lambda document: json.dumps(document).encode()), st.binary(max_size=40))


def _server(body: bytes, folder: Path) -> None:
    """An answer as a sampled response that is written and read again, as a judgement, a rating and an embedding."""
    from dqo.embedders.served import ServedEmbedder
    from dqo.evaluation.engines import Asked, ServedModel
    from dqo.evaluation.sampling import sample_from
    from dqo.files.records import Prompt
    from dqo.rewards.judge import JudgeReward

    server = fuzz_server()
    server.body = body
    settings = {"retries": 0, "timeout": 10.0}
    for ask in (
        lambda: sample_from(ServedModel("m", server.url, Asked(seed=0, max_new_tokens=3, temperature=1.0), **settings),
                            [Prompt("p", "Say.", [], {})], 2, out=folder / "out"),
        lambda: JudgeReward(server.url, "m", **settings).same([("a", "b")]),
        lambda: JudgeReward(server.url, "m", **settings).quality(["p"], ["a"]),
        lambda: JudgeReward(server.url, "m", **settings)(prompts=["p"], completions=["a"]),
        lambda: ServedEmbedder(server.url, "m", **settings)(["a", "b"]),
    ):  # fmt: skip
        refused = None
        try:
            ask()
        except DQOError as error:
            refused = error
    read_groups(folder / "out" / "groups.jsonl") if (folder / "out" / "groups.jsonl").exists() else None
    if refused:
        raise refused
