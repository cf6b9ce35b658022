"""`encoder: task`: a task's own features where an encoder is, in training, in the reward function and in `dqo eval`."""

import json
import math
import shlex

import pytest
import torch

from dqo.cli.main import main
from dqo.embedders import load_embedder
from dqo.errors import EncoderError, RecipeError
from dqo.rewards import DiversityReward
from dqo.tasks import load_encoder, load_task
from dqo.tasks.jsonl import JsonlTask


def test_the_name_stands_for_the_features_and_other_names_for_encoders():
    countdown = load_task("countdown")
    own = load_encoder("task", countdown, device="cpu", batch_size=2)
    assert own.name == "task"
    assert torch.equal(own(["3 + 4"]), countdown.features(["3 + 4"]))
    assert load_encoder("hashed:64", countdown).name == load_encoder("hashed:64", None).name == "hashed:64"


def test_without_features_or_without_a_task_it_is_refused(own_recipe, capsys):
    with pytest.raises(RecipeError, match=r"encoder 'task': expected a task with features .* got 'cities'; choose"):
        load_encoder("task", load_task("cities"))
    with pytest.raises(RecipeError, match=r"encoder 'task': expected a task with features .* got no task; choose"):
        load_encoder("task", None)
    with pytest.raises(EncoderError, match=r"encoder 'task' stands for .* or pass `task.features` in Python"):
        load_embedder("task")
    recipe = str(own_recipe(encoder="task"))
    for flags in ([], ["--dry-run"]):
        assert main(["train", recipe, *flags]) != 0
        said = capsys.readouterr()
        assert "encoder 'task': expected a task with features of its own, such as countdown, got 'jsonl'" in (
            said.err + said.out
        )


def test_the_reward_function_pays_a_new_first_step_more_than_another_spelling():
    task = load_task("countdown")
    reward = DiversityReward(num_generations=3, encoder=task.features, text=task.answer_span)
    credits = reward(["p"] * 3, ["8 * (5 - 2)", "(5-2)*8 = 24", "3 * 8"])
    # Two alike, and a third whose cosine with them is that of the operators alone: of -, * and * it is √½, a third.
    between = float(task.features(["8 * (5 - 2)"]) @ task.features(["3 * 8"]).T)
    assert between == pytest.approx(math.sqrt(0.5) / 3, abs=0.05)
    twin = math.log((3 * 2 - 2 * between**2) / (4 - between**2))
    new = math.log((3 * 2 - 2 * between**2) / 3)
    assert credits == pytest.approx([twin, twin, new], abs=1e-5)
    assert new > twin


@pytest.mark.slow
def test_a_run_is_trained_and_evaluated_by_the_features(own_recipe, tmp_path, monkeypatch, capsys):
    seen = []

    def one_direction(task, responses):
        seen.extend(responses)
        return torch.ones(len(responses), 3)  # (N, 3)

    monkeypatch.setattr(JsonlTask, "features", one_direction, raising=False)
    recipe = str(own_recipe(encoder="task", heldout_encoder="hashed"))
    assert main(["train", recipe, "--dry-run"]) == 0
    assert "task: 3 wide" in capsys.readouterr().out
    assert main(["train", recipe]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["diversity/vendi"] for row in rows] == pytest.approx([1.0] * 3), "all responses look alike"
    assert len(seen) > 24, "a word and three steps of eight responses"
    command = shlex.split(capsys.readouterr().out.split("next:")[1])
    assert command[command.index("--encoder") + 1] == "task"
    assert main([*command[1:], "--n", "4"]) == 0
    document = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert (document["encoder"], document["heldout_encoder"]) == ("task", "hashed:256")
    assert document["metrics"]["vendi_1"]["mean"] == pytest.approx(1.0)
    assert document["metrics"]["heldout/vendi_1"]["mean"] > 1.0
