"""runs/rescore.py: kept responses measured again, as they were asked to be measured."""

import json
import subprocess
import sys
from pathlib import Path

from dqo.embedders import load_embedder
from dqo.evaluation.run import evaluate
from dqo.files.records import Group
from dqo.tasks import load_task

SCRIPT = Path(__file__).parents[2] / "runs/rescore.py"


def test_old_figures_are_replaced_by_those_of_today_and_lost_responses_are_named(tmp_path):
    task = load_task("countdown", numbers=4)
    prompts = task.prompts("train")[:2]
    groups = [Group(p.id, p.prompt, p.reference, [p.reference[0], "1+1"], ["eos"] * 2, None, p.meta) for p in prompts]
    for name in ("kept", "lost"):
        evaluate(
            groups, encoder=load_embedder("hashed"), heldout_encoder=load_embedder("hashed:64"), task=task, seed=5,
            scoring={"task_options": {"numbers": 4}}, out=tmp_path / "sweep" / name / "eval",
        )  # fmt: skip
    path = tmp_path / "sweep/kept/eval/metrics.json"
    right = json.loads(path.read_text())
    wrong = right | {
        "metrics": right["metrics"] | {"quality": dict.fromkeys(("mean", "low", "high"), 0.9), "ead": None}
    }
    path.write_text(json.dumps(wrong))
    (tmp_path / "sweep/lost/eval/groups.jsonl").unlink()
    command = [sys.executable, SCRIPT, tmp_path / "sweep", "-o", tmp_path / "new"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 1
    assert "rescored: 1 of 2 evaluations" in done.stdout
    assert f"not rescored: {tmp_path / 'sweep/lost/eval'}" in done.stdout
    assert json.loads((tmp_path / "new/sweep/kept/eval/metrics.json").read_text()) == right
    assert json.loads(path.read_text()) == wrong, "the old figures stay where they are"


def test_folders_of_one_name_are_kept_apart(tmp_path):
    for name, responses in (("a", ["x y", "x y"]), ("b", ["x y", "z w"])):
        groups = [Group("1", "p", [], responses, ["eos"] * 2, None, {})]
        evaluate(groups, encoder=load_embedder("hashed"), out=tmp_path / name / "eval")
    command = [sys.executable, SCRIPT, tmp_path / "a/eval", tmp_path / "b/eval", "-o", tmp_path / "new"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert "rescored: 2 of 2 evaluations" in done.stdout
    for name in ("a", "b"):
        before, after = (json.loads((tmp_path / at / name / "eval/metrics.json").read_text()) for at in ("", "new"))
        assert after["metrics"] == before["metrics"]
