"""A short storm: kill -9 at random points of training and evaluation loses nothing and changes no ending."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "storm.py"


@pytest.mark.slow
def test_nothing_finished_is_lost():
    command = [sys.executable, str(SCRIPT), "--kills", "3", "--kinds", "train,eval", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    for kind, line in zip(("train", "eval"), done.stdout.splitlines(), strict=True):
        counts = json.loads(line)
        assert counts["kind"] == kind
        assert counts["kills"] == 3, "a storm without a kill would show nothing"
        assert counts["lost"] == []
        assert counts["different endings"] == 0


def test_the_storm_sees_what_is_lost(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from storm import lost

    before = {"c/checkpoint-3": "whole", "groups.jsonl": {"a", "b"}, "runs/x/final": 5, "metrics.json": b"1"}
    assert lost(before, before) == []
    assert lost(before, {**before, "groups.jsonl": {"a"}, "metrics.json": b"2"} | {"runs/x/final": 6}) == [
        "runs/x/final", "metrics.json",
    ], "an evaluation that is there has taken the groups in"  # fmt: skip
    assert lost({"groups.jsonl": {"a", "b"}}, {"groups.jsonl": {"a"}}) == ["groups.jsonl"]
    newer = {"c/checkpoint-4": "whole", "c/checkpoint-5": "whole"}
    assert lost({"c/checkpoint-3": "whole"}, newer) == []
    assert lost({"c/checkpoint-3": "whole"}, {"c/checkpoint-4": "whole"}) == ["c/checkpoint-3"], "two are to be kept"
    assert lost({"c/checkpoint-3": "whole"}, {"d/checkpoint-4": "whole", "d/checkpoint-5": "whole"}) != []
