"""A short storm: Ctrl-C and kill -9 at random points of commands that are started twice lose and change nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "helpers" / "storm.py"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "kinds"), [("INT", "train,eval,sweep"), ("KILL", "train,eval")])
def test_nothing_finished_is_lost(number, kinds, tiny_policy_folder):
    command = [
        sys.executable,
        str(SCRIPT),
        str(tiny_policy_folder),
        "--times",
        "3",
        "--kinds",
        kinds,
        "--seed",
        "1",
        "--signal",
        number,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    for kind, line in zip(kinds.split(","), done.stdout.splitlines(), strict=True):
        counts = json.loads(line)
        assert counts["kind"] == kind
        assert counts["interruptions"] == 3, "a storm without an interruption would show nothing"
        assert counts["lost"] == []
        assert counts["different endings"] == 0


def test_the_storm_sees_what_is_lost():
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
