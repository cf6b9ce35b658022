"""The scripts of runs/study."""

import importlib
from pathlib import Path

import pytest
import torch

from dqo.embedders import HashedEmbedder
from dqo.models import load_policy
from dqo.spec import DiversitySpec
from dqo.tasks import load_task

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(monkeypatch):
    """Imports a script of the folder as a run of it would; scripts find each other there."""
    monkeypatch.syspath_prepend(ROOT / "runs/study")
    return importlib.import_module


@pytest.fixture
def tables(study, monkeypatch):
    """The tables of one seed, six continents, by an encoder that needs no file."""
    policy = study("table_policy")
    monkeypatch.setattr(policy, "load_embedder", lambda name: HashedEmbedder())
    return policy.make_tables().of_seed(3)


def test_teaching_countdown_learns_the_solutions(study, tiny_policy, tiny_tokenizer, tmp_path, monkeypatch):
    script = study("teach_countdown")
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


def test_tables_collapse_under_reward_alone_and_stay_different_under_dqo(study, tables):
    policy = study("table_policy")

    def end(alpha):
        return policy.train(tables, policy.Training(DiversitySpec(alpha=alpha), "group", group=8, steps=200))

    plain, diverse = end(0.0), end(0.3)
    assert plain.quality.mean() > 0.9, "a right city is worth at least .9"
    assert plain.vendi.mean() < 2
    assert diverse.vendi.mean() > 2 * plain.vendi.mean()
    assert (plain.vendi >= 1).all()
    assert (diverse.vendi <= 10).all()


def test_tables_are_worth_what_the_task_says(tables):
    task = load_task("cities")
    prompt = next(p for p in task.prompts("train") if p.meta["continent"] == "Africa")
    responses = ["Lagos.", "Tokyo.", "Try the seafood."]
    right, elsewhere, none = task.quality([prompt] * 3, responses, [True] * 3)
    africa = tables.reward[0]  # (M,)
    assert len(africa) == 26
    assert africa[:14].max() <= right
    assert africa[:14].min() >= right - 0.1
    assert set(africa[14:20].tolist()) == {elsewhere}
    assert set(africa[20:].tolist()) == {none}


def test_a_controlled_table_is_asked_and_told_at_every_step(study, tables):
    policy, told = study("table_policy"), []
    training = policy.Training(DiversitySpec(), "group", group=4, steps=3)
    policy.train(tables, training, alpha=lambda step: float(step), observe=lambda *seen: told.append(seen))
    assert [step for step, _, _ in told] == [0, 1, 2]
    assert all(0 <= quality <= 1 <= vendi <= 4 for _, quality, vendi in told)


def test_the_best_alpha_keeps_the_floor(study):
    script = study("group_size_table")
    ends = {
        alpha: script.End(torch.tensor([quality]), torch.tensor([vendi]))
        for alpha, quality, vendi in ((0.1, 0.99, 2.0), (0.2, 0.97, 3.0), (0.4, 0.90, 5.0))
    }
    assert script.best(ends, 0.96) == 0.2
    assert script.best(ends, 0.5) == 0.4
    assert script.best(ends, 1.0) is None
