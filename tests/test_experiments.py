"""The scripts of experiments/."""

import importlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dqo.diversity.settings import DiversitySpec
from dqo.embedders import HashedEmbedder
from dqo.files.records import Group, write_groups
from dqo.models.policy import load_policy
from dqo.sweep.plan import Run
from dqo.tasks import load_task

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(monkeypatch):
    """Imports a script as a run of it would; scripts of one folder find each other there."""

    def load(name):
        monkeypatch.syspath_prepend(next((ROOT / "experiments").rglob(f"{name}.py")).parent)
        return importlib.import_module(name)

    return load


@pytest.fixture
def tables(study, monkeypatch):
    """The tables of one seed, six continents, by an encoder that needs no file."""
    policy = study("table_policy")
    monkeypatch.setattr(policy, "load_embedder", lambda name: HashedEmbedder())
    return policy.make_tables().of_seed(3)


def test_teaching_countdown_learns_the_solutions(study, tiny_policy, tiny_tokenizer, tmp_path, monkeypatch, capsys):
    script = study("teach_countdown")
    rows, trained = [], script.SFTTrainer.__init__

    def watched(self, *args, train_dataset, **kwargs):
        rows.extend(train_dataset)
        trained(self, *args, train_dataset=train_dataset, **kwargs)

    monkeypatch.setattr(script.SFTTrainer, "__init__", watched)
    before = tiny_policy.lm_head.weight.detach().clone()
    monkeypatch.setattr(script, "load_policy", lambda name: (tiny_policy, tiny_tokenizer))
    for name, value in {"PUZZLES": 4, "SOLUTIONS": 2, "BATCH": 4, "EVERY": 1, "ENOUGH": 1.1}.items():
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr("sys.argv", ["teach_countdown.py", str(tmp_path / "taught")])
    script.main()
    assert capsys.readouterr().out.count("0.00 of the answers to dev prompts are right") == 2, "two steps of four rows"
    task = load_task("countdown", train_size=4)
    asked = {prompt.prompt: task.right_answers(prompt) for prompt in task.prompts("train")}
    assert len(rows) == 8
    assert len({row["prompt"][0]["content"] for row in rows}) == 4
    assert all(row["completion"][0]["content"] in asked[row["prompt"][0]["content"]] for row in rows)
    model, tokenizer = load_policy(str(tmp_path / "taught"))
    assert tokenizer.chat_template == tiny_tokenizer.chat_template
    assert not model.lm_head.weight.equal(before), "two steps must have moved the weights"
    monkeypatch.setattr(script, "ENOUGH", 0.0)
    script.main()
    assert capsys.readouterr().out.count("of the answers to dev prompts are right") == 1, "the first look is enough"


def test_the_share_of_right_answers_by_hand(study, tiny_policy, tiny_tokenizer, monkeypatch):
    """Of four dev prompts, one is answered rightly, one in words, one with a number too many and one is cut off."""
    script, task = study("teach_countdown"), load_task("countdown", dev_size=4)
    solved = [next(iter(task.right_answers(prompt))) for prompt in task.prompts("dev")]
    texts = [solved[0], "I cannot", f"{solved[2]} + 1", solved[3]]
    ended = torch.tensor([[5, 1], [5, 1], [5, 1], [5, 5]])  # (N, T); 1 is the end

    def generate(input_ids, **options):
        assert (options["do_sample"], options["temperature"]) == (True, 1.0)
        return torch.cat([input_ids, ended], dim=1)

    monkeypatch.setattr(tiny_policy, "generate", generate)
    monkeypatch.setattr(type(tiny_tokenizer), "batch_decode", lambda self, ids, **_: texts[: len(ids)])
    look = script.StopWhereEnoughIsRight(task, tiny_tokenizer)
    assert look.share_right(tiny_policy) == 1 / 4


def test_tables_collapse_under_reward_alone_and_stay_different_under_dqo(study, tables):
    policy = study("table_policy")

    def end(alpha):
        return policy.train(tables, policy.Training(DiversitySpec(alpha=alpha), "group", group=8, steps=200))

    plain, diverse = end(0.0), end(0.3)
    assert plain.quality.mean() > 0.9, "a right city is worth at least .9"
    assert plain.vendi.mean() < 2
    assert diverse.vendi.mean() > 2 * plain.vendi.mean()
    assert (plain.vendi >= 1 - 1e-9).all()
    assert (diverse.vendi <= 10 + 1e-9).all()


def test_right_cities_differ_in_worth_and_nothing_else_is_worth_as_much(study, tables):
    right, other = tables.reward[:, :14], tables.reward[:, 14:]
    assert (right.amax(1) <= 1).all()
    assert (right.amin(1) >= 0.9).all()
    assert (right.amax(1) - right.amin(1) > 0.05).all(), "the taste must tell them apart"
    sentences = other[:, 6:]
    assert sentences.abs().max() == 0
    elsewhere = other[:, :6]
    assert ((elsewhere == 0.1) | (elsewhere >= 0.9)).all(), "0.1, or right by a city of the same name"
    assert (elsewhere == 0.1).double().mean() > 0.9


def test_a_seed_has_a_table_of_every_continent(study, tables):
    firsts = tables.trained[:, 0]  # (P, D)
    assert len(firsts.unique(dim=0)) == 6
    means = study("group_size_table").by_seed(torch.arange(60.0))
    assert means.tolist() == [25.0 + seed for seed in range(10)], "continent by continent, ten seeds each"


def test_a_controlled_table_is_asked_and_told_at_every_step(study, tables):
    policy, asked, told = study("table_policy"), [], []
    training = policy.Training(DiversitySpec(), "group", group=4, steps=3)

    def alpha(step):
        asked.append(step)
        return 4.0

    moved = policy.train(tables, training, alpha, observe=lambda *seen: told.append(seen))
    assert asked == [step for step, _, _ in told] == [0, 1, 2]
    assert all(0 <= quality <= 1 <= vendi + 1e-9 <= 4.001 for _, quality, vendi in told)
    still = policy.train(tables, training)
    assert not moved.quality.equal(still.quality), "alpha 4 must lead elsewhere than alpha 1"


def test_a_controller_ends_above_its_floor_with_more_than_reward_alone(study, tables, monkeypatch):
    script = study("auto_table")
    monkeypatch.setattr(script, "SEEDS", 1)
    one = type("One", (), {"of_seed": lambda self, seed: tables})()
    plain = script.train(tables, script.Training(DiversitySpec(alpha=0.0), "group", script.GROUP))
    floor = plain.quality.mean().item() - 0.05
    end, last = script.controlled(one, "add", "group", floor)
    assert end.quality.item() > floor - 0.01
    assert end.vendi.item() > 2 * plain.vendi.mean().item()
    assert 0.01 < last[0] < 10, "no bound is what holds it"


def test_the_others_credits_are_those_of_the_group_without_the_row(study):
    script, generator = study("baseline_table"), torch.Generator().manual_seed(0)
    E = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    E[1] = 0.0  # does not pass
    L = E @ E.T  # (G, G)
    credit, others = script.credits_and_others(L.unsqueeze(0))
    for i in range(4):
        rest = [j for j in range(4) if j != i]
        volume = torch.logdet(torch.eye(3) + L[rest][:, rest])
        assert credit[0, i] == pytest.approx((torch.logdet(torch.eye(4) + L) - volume).item())
        for j in rest:
            fewer = [k for k in rest if k != j]
            lost = volume - torch.logdet(torch.eye(2) + L[fewer][:, fewer])
            assert others[0, i, j] == pytest.approx(lost.item(), abs=1e-12)
        assert others[0, i, i] == 0


def test_the_others_baseline_ends_where_passing_is_worth_nothing(study):
    """Four copies earn log(5/4), and the others had log(4/3) without one; after many steps nothing is left."""
    baseline, L = study("baseline_table").OthersAtRatio(), torch.ones(1, 4, 4, dtype=torch.float64)
    passes = torch.ones(1, 4, dtype=torch.bool)
    first = baseline(L, passes)
    assert first[0].tolist() == pytest.approx([0.2231 - 0.2877] * 4, abs=1e-4)  # log(5/4) - log(4/3)
    for _ in range(200):
        last = baseline(L, passes)
    assert last.abs().max() < 1e-6
    two = passes & torch.tensor([True, True, False, False])
    assert baseline(L * two.unsqueeze(-1) * two.unsqueeze(-2), two).abs().max() == 0, "two that pass have no others"


def test_an_interval_is_students(study):
    assert study("group_size_table").with_interval(torch.tensor([1.0, 2.0, 3.0])) == "2.00 ± 2.48"  # 4.303 / sqrt(3)


@pytest.fixture
def falling(study):
    """Quality falls and the Vendi score of two seeds grows as alpha doubles."""
    script = study("group_size_table")
    rows = ((0.1, 0.98, 2.0), (0.2, 0.94, 4.0), (0.4, 0.80, 5.0))
    ends = {a: script.End(*torch.tensor([[q, q], [v, 2 * v], [v, v]])) for a, q, v in rows}
    return script, ends


def test_the_alpha_of_a_floor_lies_between_two_of_the_grid(falling):
    script, ends = falling
    assert script.crossing(ends, 0.96) == pytest.approx(0.1 * 2**0.5)
    assert script.crossing(ends, 0.94) == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"floor 0\.990 .* widen the grid"):
        script.crossing(ends, 0.99)


def test_what_an_alpha_would_give_lies_on_the_line_between_two(falling):
    script, ends = falling
    between = script.read_off(ends, 0.1 * 2**0.5)
    assert between.vendi.tolist() == pytest.approx([3.0, 6.0])
    assert between.quality.tolist() == pytest.approx([0.96, 0.96])
    assert script.read_off(ends, 0.4).vendi.tolist() == pytest.approx([5.0, 10.0])
    with pytest.raises(ValueError, match="widen the grid"):
        script.read_off(ends, 0.5)


def test_spread_and_aim_multiply_to_the_mean_cosine(study):
    script = study("spread_and_aim")
    group = Group("a", "?", ["the red dog", "a cat"], ["the red dog", "one red dog", "a fish"], ["eos"] * 3, None, {})
    encoder = HashedEmbedder()
    cosines = encoder(group.responses) @ encoder(group.reference).T  # (3, 2)
    mean, length, aim = script.three_numbers(group, encoder).tolist()
    assert mean == pytest.approx(cosines.mean().item(), abs=1e-6)
    assert mean == pytest.approx(length * aim * encoder(group.reference).mean(0).norm().item(), abs=1e-6)
    copies = replace(group, responses=["the red dog"] * 3)
    assert script.three_numbers(copies, encoder)[1] == pytest.approx(1)


def test_random_responses_are_shown_as_they_are(study, tmp_path):
    script = study("random_responses")
    groups = [
        Group(f"p{n}", "?", [], [f"*{n}*\n[x](y)", ""], ["eos"] * 2, [1.0, 0.0], {"concepts": ["red", "dog"]})
        for n in range(30)
    ]
    write_groups(tmp_path / "eval-test" / "groups.jsonl", groups)
    runs = [Run("dqo", 1.0, seed, folder, {}) for seed, folder in enumerate((tmp_path, tmp_path / "absent"))]
    shown = script.lines(runs, "eval-test")
    assert len(set(shown)) > 10
    assert len(shown) == script.SHOWN
    assert shown == script.lines(runs, "eval-test")
    said = re.compile(r"- \(red, dog\) (\\\*\d+\\\* \\\[x\\\]\(y\) \*1.00\*|\(nothing\) \*0.00\*)")
    assert all(said.fullmatch(line) for line in shown)
