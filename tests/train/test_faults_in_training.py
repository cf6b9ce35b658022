"""What goes wrong while or before a run trains: one sentence, and what the run had saved stays whole."""

import json

import local_server
import pytest
from transformers import AutoModelForCausalLM

from dqo.cli.main import main


@pytest.fixture
def judge():
    """A judge that answers until `down` says that it does not."""

    class Judge:
        def down(self):
            return False

    made = Judge()
    server = local_server.LocalServer(lambda path, body: 503 if made.down() else local_server.chat("Score: 4"))
    made.url = server.url
    yield made
    server.close()


def test_a_judge_that_dies_stops_the_run_and_leaves_its_checkpoint_to_go_on_from(own_recipe, judge, tmp_path, capsys):
    saved = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    rewards = [{"reward": "judge", "base_url": judge.url, "model": "m", "retries": 0, "timeout": 5}]
    command = ["train", str(own_recipe(rewards=rewards, trainer={"max_steps": 5}))]
    judge.down = saved.is_dir
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"dqo: error: endpoint {judge.url}: expected an answer, got ")
    assert "after 0 retries; start the server or check the URL, then continue the run with --resume" in said
    AutoModelForCausalLM.from_pretrained(saved)
    judge.down = lambda: False
    assert main([*command, "--resume"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    shown = [1 - row["responses/empty"] for row in rows]  # what holds no text is worth 0 and is not shown to the judge
    assert [row["rewards/judge/mean"] for row in rows] == pytest.approx([share / 3 for share in shown])


def test_a_reward_model_with_two_labels_is_refused_and_the_finished_run_stays(
    own_recipe, tiny_policy_folder, tmp_path, capsys
):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    LlamaForSequenceClassification(LlamaConfig.from_pretrained(tiny_policy_folder, num_labels=2)).save_pretrained(
        tmp_path / "two"
    )
    AutoTokenizer.from_pretrained(tiny_policy_folder).save_pretrained(tmp_path / "two")
    assert main(["train", str(own_recipe(trainer={"max_steps": 1}))]) == 0
    final = tmp_path / "run" / "checkpoints" / "final"
    before = {file: file.read_bytes() for file in final.iterdir()}
    capsys.readouterr()
    wrong = own_recipe(rewards=[{"reward": "reward_model", "model": str(tmp_path / "two")}])
    for extra in ([f"output_dir={tmp_path / 'other'}"], ["--resume", "trainer.max_steps=2"]):
        assert main(["train", str(wrong), *extra]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("dqo: error: ")
    assert "'rewards' was [] and is now" in said, "another reward is another run"
    assert {file: file.read_bytes() for file in final.iterdir()} == before


def test_a_bad_row_of_the_data_is_named_before_anything_is_loaded(own_recipe, prompt_file, tmp_path, capsys):
    prompt_file.write_text(prompt_file.read_text() + '{"prompt": 3}\n')
    assert main(["train", str(own_recipe())]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "train.jsonl" in said
    assert "line 5" in said
    assert not (tmp_path / "run" / "checkpoints").exists()
