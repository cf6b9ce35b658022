"""The scripts of runs/study."""

import importlib.util
from pathlib import Path

from dqo.models import load_policy
from dqo.tasks import load_task

ROOT = Path(__file__).parents[1]


def test_teaching_countdown_learns_the_solutions(tiny_policy, tiny_tokenizer, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("teach_countdown", ROOT / "runs/study/teach_countdown.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows, trained = [], script.SFTTrainer.__init__

    def watched(self, *args, train_dataset, **kwargs):
        rows.extend(train_dataset)
        trained(self, *args, train_dataset=train_dataset, **kwargs)

    monkeypatch.setattr(script.SFTTrainer, "__init__", watched)
    before = tiny_policy.lm_head.weight.detach().clone()
    monkeypatch.setattr(script, "load_policy", lambda name: (tiny_policy, tiny_tokenizer))
    monkeypatch.setattr(script, "EXAMPLES", 8)
    monkeypatch.setattr(script, "BATCH", 4)
    monkeypatch.setattr("sys.argv", ["teach_countdown.py", str(tmp_path / "taught")])
    script.main()
    solved = {prompt.prompt: prompt.reference for prompt in load_task("countdown", numbers=3).prompts("train")}
    assert len(rows) == 8
    assert all(row["completion"][0]["content"] in solved[row["prompt"][0]["content"]] for row in rows)
    model, tokenizer = load_policy(str(tmp_path / "taught"))
    assert tokenizer.chat_template == tiny_tokenizer.chat_template
    assert not model.lm_head.weight.equal(before), "two steps must have moved the weights"
