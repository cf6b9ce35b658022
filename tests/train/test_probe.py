"""`dqo probe`: what it measures by hand, three planted faults in words, and that it leaves nothing behind."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dqo.cli.main import main
from dqo.diversity.credit import DiversitySpec, shape_reward
from dqo.files.records import Group
from dqo.models.chat import Response
from dqo.models.policy import load_policy
from dqo.rewards.calling import Tried
from dqo.train.prepare import Prepared
from dqo.train.probe import Probe, probe
from dqo.train.recipe import load_recipe

ROOT = Path(__file__).parents[2]
SOUND = Tried(noise=0.0, alike="", certain=True)
X, Y, Z = torch.eye(3, dtype=torch.float64)


def hand_made(rewards, rows, *, texts=None, finish=None, tried=SOUND, distinct=(3, 3), threshold=0.5, **settings):
    """What two groups of four show; `rows` are their embeddings."""
    spec = DiversitySpec(**settings)
    config = SimpleNamespace(
        diversity_spec=lambda: spec, temperature=1.0, max_completion_length=16, top_p=0.9, top_k=0, min_p=None,
        repetition_penalty=1.0,
    )  # fmt: skip
    prepared = SimpleNamespace(
        config=config,
        recipe=SimpleNamespace(model="m", task="t"),
        task=SimpleNamespace(answer_key=lambda p, text: text),
    )
    task, E = torch.tensor(rewards, dtype=torch.float64), torch.stack([torch.stack(row) for row in rows])
    per_unit = {"diversity": "none"} if spec.needs else settings | {"alpha": 1.0}
    combined, credit = shape_reward(task, E, DiversitySpec(**per_unit))
    texts = texts or [["a", "b", "c", "d"]] * len(rewards)
    finish = finish or [["eos"] * 4] * len(rewards)
    groups = [
        Group(f"p{i}", "Say.", [], [Response(text) for text in row], ends, None, {})
        for i, (row, ends) in enumerate(zip(texts, finish, strict=True))
    ]
    return Probe(prepared, groups, task, combined - task, credit.vendi, list(distinct), "text", threshold, tried)


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_what_two_groups_show_by_hand():
    # first group: three copies and one other, one of the copies right; second: two pairs, nothing right
    found = hand_made([[1, 0, 0, 0], [0, 0, 0, 0]], [[X, X, X, Y], [X, X, Y, Y]], alpha=0.5, distinct=(2, 2))
    assert found.ties == (1, 0, 1)
    assert found.chance.mean == 0.5
    # variance of 1, 0, 0, 0 is 1/4 and of zeros 0, three degrees of freedom each
    reward, credit = found.spreads
    assert reward == pytest.approx(math.sqrt(1 / 8))
    # at ridge 1 one of n copies is worth log((1 + n)/n): log 4/3 thrice and log 2; then log 3/2 four times
    apart = math.log(2) - math.log(4 / 3)
    assert credit == pytest.approx(math.sqrt(3 * apart**2 / 4 / 6))
    lines = dict(found.lines())
    assert lines["answers"].startswith("2.0 distinct among the 4 of a group (by text; 2 to 2), Vendi ")
    assert lines["ties"] == "rewards equal in 1 of 2 groups: 0 all right, 1 with nothing right"
    assert lines["right"] == "12% of the responses, by a reward from 0.5 on; 0.5 distinct right ones per group"
    assert lines["chance"].startswith("50% that a group holds a right one, 95 % interval ")
    assert lines["note"] == "sampled without top_p=0.9; a training samples with it, and sees less diversity"
    # an answer of its own earns log 2, one of three copies log 4/3: that much more buys the reward's spread at `low`
    low, high = sorted((reward / apart, reward / credit / 2))
    assert found.advised == pytest.approx((low, high))
    assert f"start from {low:.2g} to {high:.2g}" in lines["alpha"]


@pytest.mark.parametrize(("scale", "beside"), [("group", 1.0), ("batch", math.sqrt(7 / 6))])
def test_a_decoupled_credit_meets_the_reward_after_its_scaling(scale, beside):
    found = hand_made([[2, 2, 0, 0], [1, 1, 1, 1]], [[X, X, X, Y], [X, X, Y, Y]], alpha=0.5)
    found.prepared.config.decouple_credit, found.prepared.config.scale_rewards = True, scale
    # inside groups the variance is (4/3 + 0)/2 = 2/3, over all eight 4/7
    assert found.spreads[0] == pytest.approx(math.sqrt(2 / 3))
    assert found.beside == pytest.approx(beside)
    apart = math.log(2) - math.log(4 / 3)
    assert found.advised == pytest.approx(sorted((beside / apart, beside / found.spreads[1] / 2)))


def test_under_a_gate_the_credit_is_that_of_the_good_ones():
    settings = {"combine": "spread", "quality_threshold": 0.5, "alpha": 1.0}
    found = hand_made([[1, 1, 1, 0], [1, 0, 0, 0]], [[X, X, Y, Z], [X, Y, Z, Z]], **settings)
    # of the first group X, X and Y are good: log 3/2 twice and log 2; one good response alone is compared with none
    apart = math.log(2) - math.log(3 / 2)
    assert found.spreads[1] == pytest.approx(math.sqrt(2 * apart**2 / 3 / 2))
    assert "the good responses of a group" in dict(found.lines())["credit"]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ({"alpha": 40.0}, "Alpha 40 buys"),
        ({"alpha": 0.001}, "Alpha 0.001 buys next to nothing of the reward's spread. Raise it to"),
        ({"alpha": 0.0}, None),
        ({"diversity": "unlikeliness", "alpha": 0.25}, None),
        ({"combine": "gate", "quality_threshold": 2.0}, "Diversity pays nothing yet: no group holds different"),
        (
            {"finish": [["eos"] * 4, ["length"] * 2 + ["eos"] * 2]},
            "25% of the responses were cut off. Raise trainer.max",
        ),
        ({"texts": [["a", "b", "c", " "]] * 2}, "25% of the responses are empty."),
        ({"distinct": (1, 1)}, "The policy has one answer: 1.0 distinct per group"),
        ({"distinct": (0, 0)}, None),  # nothing was said: other lines tell that
        ({"threshold": 2.0}, "Only 0% of the groups hold a right answer."),
        ({"threshold": None, "rewards": [[0.1, 0.2, 0.3, 0], [0, 0.1, 0.3, 0]]}, "Only 0% of the groups hold"),
        ({"threshold": None, "rewards": [[0.1, 0.2, 0.3, 0], [0, 0.1, 0.3, 0.4]]}, None),
        ({"tried": Tried(0.0, "an empty response", False)}, "or show it an answer that you know is right"),
        ({"tried": Tried(0.5, "", True)}, "The reward is noise: it differs by 0.5 between two calls"),
        ({"tried": Tried(0.1, "", True)}, None),
        (
            {"rewards": [[1, 0, math.nan, 0], [0, 1, 0.5, 0]]},
            "could not score 12% of the responses (None); they are left",
        ),
    ],
)
def test_advice_goes_by_what_was_seen(case, told):
    found = hand_made(
        **{"rewards": [[1, 0, 0.5, 0], [0, 1, 0.5, 0]], "rows": [[X, X, Y, Z], [Z, X, Y, Y]], "alpha": 0.4} | case
    )
    advice = list(found.advice())
    assert (told is None) == (not advice), advice
    assert told is None or any(told in sentence for sentence in advice), advice


def test_a_signal_that_reads_more_than_embeddings_has_no_credit_here():
    found = hand_made([[1, 0, 0, 0]] * 2, [[X, X, Y, Z]] * 2, diversity="unlikeliness", alpha=0.25)
    lines = dict(found.lines())
    assert lines["credit"] == "diversity='unlikeliness' adds nothing to the reward that embeddings alone decide"
    assert "alpha" not in lines
    assert "  1.00 +0.00   1 × a\n" in next(found.to_read())


def test_credit_for_the_poorer_half_is_told_under_the_plain_rule_alone():
    rewards, rows = [[1, 1, 1, 0], [1, 1, 0.9, 0]], [[X, X, X, Y], [X, X, X, Z]]
    [sentence] = hand_made(rewards, rows, alpha=0.7).advice()
    assert "goes to the poorer half of a group. Set combine to spread" in sentence
    assert list(hand_made(rewards, rows, alpha=0.7, combine="quality_weighted").advice()) == []


@pytest.mark.parametrize(
    ("rewards", "settings", "why"),
    [
        ([[0, 0, 0, 0]] * 2, {}, "nothing is right in 2 of them. Use a stronger policy"),
        ([[1, 1, 1, 1]] * 2, {}, "all is right in 2 of them. Use harder prompts, or leave them to alpha"),
        ([[1, 1, 1, 1]] * 2, {"alpha": 0.0}, "all is right in 2 of them. Use harder prompts."),
    ],
)
def test_tied_groups_are_explained(rewards, settings, why):
    [sentence] = hand_made(rewards, [[X, X, Y, Z]] * 2, **settings).advice()
    assert sentence.startswith("The rewards of 2 of 2 groups tie and teach nothing: ")
    assert why in sentence


def test_a_response_cannot_drive_the_terminal():
    texts = [["a\x1b[2Jb\n--- p9", "c", "c", "d" * 500], ["a", "b", "c", "d"]]
    first, _ = hand_made([[1, 0, 0, 0], [0, 0, 0, 1]], [[X, X, X, Y], [X, Y, Z, Z]], texts=texts).to_read()
    assert "\x1b" not in first
    assert "  1.00 -0.10   1 × a\\x1b[2Jb --- p9\n" in first
    assert first.index("  0.00 -0.10   2 × c\n") < first.index("  1.00 -0.10   1 × a"), "the most frequent first"
    assert first.endswith("d" * 98 + " …")


# Three planted faults, through the command.


def write_reward(folder, body):
    (folder / "planted.py").write_text(
        f"import random\n\nDICE = random.Random(0)\n\ndef planted(prompts, completions, **columns):\n    {body}\n"
    )
    return f"task_options.reward={folder / 'planted.py'}:planted"


def test_all_rewards_tied(own_recipe, tmp_path, capsys):
    lines = [{"prompt": p, "reference": "the end"} for p in ("the dog", "a cat", "red house", "old tree")]
    (tmp_path / "known.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    reward = write_reward(tmp_path, "return [float(text == 'the end') for text in completions]")
    recipe = own_recipe()
    before = sorted(tmp_path.rglob("*"))
    assert main(["probe", str(recipe), f"task_options.train={tmp_path / 'known.jsonl'}", reward]) == 0
    text = said(capsys)
    assert "rewards equal in 4 of 4 groups: 0 all right, 4 with nothing right" in text
    assert "The rewards of 4 of 4 groups tie and teach nothing: nothing is right in 4 of them." in text
    assert "ignores the response" not in text
    assert "0% that a group holds a right one, 95 % interval 0% to 49%" in text
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before


def test_a_base_with_one_answer(own_recipe, tiny_policy_folder, tmp_path, capsys):
    model, tokenizer = load_policy(str(tiny_policy_folder))
    with torch.no_grad():
        model.model.norm.weight *= 1000  # all logits: the likeliest token is drawn for sure
    model.save_pretrained(tmp_path / "sure")
    tokenizer.save_pretrained(tmp_path / "sure")
    assert main(["probe", str(own_recipe()), f"model={tmp_path / 'sure'}"]) == 0
    text = said(capsys)
    assert "1.0 distinct among the 4 of a group (by text; 1 to 1), Vendi 1.0" in text
    assert (
        "The policy has one answer: 1.0 distinct per group, and nothing to compare. Raise trainer.temperature" in text
    )
    assert "groups tie and teach nothing: the answers of a group are alike." in text


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "return [len(prompt) / 20 for prompt in prompts]",
            "The reward ignores the response: it gave the responses to",
        ),
        ("return [0.5 for _ in prompts]", "or show it an answer that you know is right: it may have seen none."),
        ("return [DICE.random() for _ in prompts]", "The reward is noise: it differs by"),
        ("return [place / 16 for place, _ in enumerate(prompts)]", "The reward is noise: it differs by"),
    ],
    ids=["the prompt alone", "constant", "random", "the place in the batch"],
)
def test_a_reward_that_ignores_the_response(own_recipe, tmp_path, capsys, body, told):
    assert main(["probe", str(own_recipe()), write_reward(tmp_path, body)]) == 0
    text = said(capsys)
    assert told in text
    assert ("tie and teach nothing: the reward ignores the response." in text) == ("noise" not in told)


def test_a_sound_reward_is_found_to_read(own_recipe):
    found = probe(Prepared(load_recipe(own_recipe())))
    assert found.task.shape == (4, 4), "all prompts where there are few"
    assert found.tried == SOUND
    assert not any("reward" in sentence and "read" in sentence for sentence in found.advice())
    assert found.chance.mean > 0


# How it is asked.


def test_groups_seed_and_overrides(own_recipe, capsys):
    assert main(["probe", str(own_recipe()), "--groups", "2", "alpha=0", "trainer.num_generations=8"]) == 0
    first = capsys.readouterr().out
    assert "2 prompts of jsonl" in first
    assert "distinct among the 8 of a group" in first
    assert main(["probe", str(own_recipe()), "--groups", "2", "alpha=0", "trainer.num_generations=8"]) == 0
    assert capsys.readouterr().out == first, "the seed decides"


def test_what_cannot_be_had_is_one_sentence(own_recipe, capsys):
    assert main(["probe", str(own_recipe()), "model=nowhere/nothing"]) == 2
    assert "dqo: error: expected 'nowhere/nothing' to be a folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["kinds", "gsm8k"])
def test_shipped_recipes(name, tiny_policy_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    settings = [f"model={tiny_policy_folder}", "encoder=hashed", "trainer.max_completion_length=4"]
    settings += ["trainer.use_cpu=true"]
    if name == "gsm8k":
        for split, numbers in (("train", range(60)), ("test", range(100, 105))):
            lines = [{"prompt": f"What is {n} + 1?", "reference": str(n + 1)} for n in numbers]
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        settings += [f"data.path={tmp_path}"]
    assert main(["probe", f"recipes/{name}.yaml", "--groups", "3", *settings]) == 0, capsys.readouterr().err
    text = said(capsys)
    assert f"3 prompts of {name}" in text
    assert text.count("--- ") == 3
    assert "What to change: 1." in text  # a random policy has nothing right
