"""The key of an endpoint is sent to the endpoint and to nobody else: it is in no file and no line of output."""

from pathlib import Path

import pytest
from local_server import LocalServer, chat

from dqo.cli.main import main

KEY = "sk-fake-0123456789abcdef"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = LocalServer(lambda path, body: server.answer, {"data": [{"id": "m", "object": "model"}]})
    server.answer = chat("Score: 7")
    yield server
    server.close()


def holders(folder: Path) -> list[str]:
    """Files below a folder that hold the key in their name or content."""
    return [str(path) for path in folder.rglob("*")
            if KEY in path.name or (path.is_file() and KEY.encode() in path.read_bytes())]  # fmt: skip


def test_sampling_judging_and_reporting_leave_no_trace_of_the_key(server, prompt_file, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("DQO_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "eval"
    flags = ["--endpoint", server.url, "--data", str(prompt_file), "--n", "2", "--encoder", "hashed", "--out", str(out)]
    judge = ["--judge", "m", "--judge-endpoint", server.url, "--equivalence", "embedding", "--max-new-tokens", "4"]
    assert main(["eval", "--model", "m", *flags, *judge]) == 0
    assert main(["report", str(out), "-o", str(tmp_path / "r.html")]) == 0
    server.answer = {"error": KEY}
    assert main(["sample", "--model", "m", *flags[:4], "--out", str(tmp_path / "second")]) == 2
    told = capfd.readouterr()
    assert "metrics.json" in told.out
    assert KEY not in told.out + told.err
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert {"sampling.json", "metrics.json", "groups.jsonl"} <= {path.name for path in out.iterdir()}
    assert holders(tmp_path) == []
    (tmp_path / "spill").write_text(KEY)
    assert holders(tmp_path) == [str(tmp_path / "spill")]


@pytest.mark.slow
def test_training_with_a_judge_leaves_no_trace_of_the_key(server, own_recipe, tmp_path, capfd):
    rewards = [{"reward": "judge", "base_url": server.url, "model": "m", "cache": str(tmp_path / "judged.jsonl")}]
    assert main(["train", str(own_recipe(rewards=rewards))]) == 0
    told = capfd.readouterr()
    assert KEY not in told.out + told.err
    assert set(server.keys) == {f"Bearer {KEY}"}
    run = {path.name for path in (tmp_path / "run").rglob("*")}
    assert {"config.yaml", "metrics.jsonl", "trainer_state.json", "training_args.bin", "model.safetensors"} <= run
    assert server.url in (tmp_path / "run" / "config.yaml").read_text()
    assert (tmp_path / "judged.jsonl").exists()
    assert holders(tmp_path) == []
