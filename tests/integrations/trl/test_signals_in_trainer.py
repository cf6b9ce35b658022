"""Every signal, guard and alpha on a real (tiny) policy: what reaches reward, advantage and loss, what is refused."""

import json
import math

import pytest
import torch
from datasets import Dataset
from tiny_runs import COMMON, PROMPTS, all_equal, recorder, share_of_short_words
from torch.testing import assert_close

from dqo import DQOConfig, DQORLOOConfig, DQORLOOTrainer, DQOTrainer
from dqo.diversity.evidence import Signal
from dqo.diversity.signals import SIGNALS
from dqo.errors import DQOError, RecipeError, RewardError
from dqo.models.chat import completion_text

AUTO = {"alpha": "auto", "quality_floor": 0.5}
HOSTS = {"grpo": (DQOTrainer, DQOConfig), "rloo": (DQORLOOTrainer, DQORLOOConfig)}
NEEDS = {
    "partition": {"same_threshold": 0.05}, "pass_at_k": {"pass_k": 2, "quality_threshold": 0.5, "alpha": 1.0},
    "set": {"set_function": "dqo.diversity.set_functions.distinct"}, "entropy": {"alpha": 0.1},
    "entropy_correct": {"alpha": 0.1, "quality_threshold": 0.5},
}  # fmt: skip


@pytest.fixture
def make(tiny_policy, tiny_tokenizer, tmp_path):
    """Builds a trainer whose rewards, evidence, completions and scored batch are kept for inspection."""

    def build(host="grpo", reward=share_of_short_words, policy=None, embedder=None, **settings):
        trainer_class, config_class = HOSTS[host]

        return recorder(trainer_class)(
            policy or tiny_policy, reward, args=config_class(str(tmp_path), **COMMON | settings),
            train_dataset=Dataset.from_dict({"prompt": PROMPTS}), processing_class=tiny_tokenizer,
            embedder=embedder,
        )  # fmt: skip

    return build


def weights(trainer):
    return torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])


def logged(trainer, name):
    return [line[name] for line in trainer.state.log_history if "loss" in line]


def sharpen(policy):
    """A random policy is nearly uniform, where an entropy has no room to grow."""
    policy.model.norm.weight.data.mul_(5.0)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal_trains_on_both_hosts_or_is_refused_in_a_sentence(name, host, make):
    settings = {"diversity": name, **NEEDS.get(name, {})}
    if (name, host) == ("entropy_correct", "rloo"):
        with pytest.raises(DQOError, match="which RLOO does not keep"):
            make(host, **settings)
        return
    trainer = make(host, **settings)
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
    acts_on_reward = SIGNALS[name].place in ("credit", "discount")
    assert bool((trainer.table[:, 1] != 0).any()) == acts_on_reward
    assert logged(trainer, "alpha") == [0.0 if name == "none" else settings.get("alpha", 1.0)]


TOYS = {
    "credit": Signal("credit", "row numbers", "–", lambda seen, spec: torch.arange(4.0).expand_as(seen.spans).double()),
    "advantage": Signal(
        "advantage", "being right", "–", lambda seen, spec: seen.correct.double(), needs=("correct",)
    ),
    "loss": Signal("loss", "sure tokens", "–", lambda seen, spec: -seen.entropies.mean(), needs=("entropies",)),
}  # fmt: skip


@pytest.mark.parametrize("place", TOYS)
def test_a_row_that_is_added_trains_without_another_edit(place, make, monkeypatch):
    monkeypatch.setitem(SIGNALS, "toy", TOYS[place])
    threshold = {"quality_threshold": 0.5} if place == "advantage" else {}
    trainer = make(diversity="toy", alpha=1.0, reward=one_of_four, **threshold)
    trainer.train()
    assert logged(trainer, "alpha") == [1.0]
    paid = [0.0, 1.0, 2.0, 3.0] * 2 if place == "credit" else [0.0] * 8
    assert trainer.table[:, 1].tolist() == paid
    if place == "advantage":
        assert trainer.batch["advantages"].tolist() == [1.0, 0.0, 0.0, 0.0] * 2
    if place == "loss":
        assert logged(trainer, "diversity/entropy_term")[0] < 0


def axes(texts):
    """Of every four rows the first two alike and all others at right angles."""
    return torch.eye(3)[[0, 0, 1, 2]].repeat(len(texts) // 4, 1)


def test_graph_cut_takes_half_of_half_from_two_that_are_alike(make):
    """Two alike share what they are paid for, which is alpha of the task reward: here .5 * 1 * (1 / 2 - 1)."""
    trainer = make(diversity="graph_cut", alpha=0.5, reward=all_equal, embedder=axes)
    trainer.train()
    assert_close(trainer.table[:, 1], torch.tensor([-0.25, -0.25, 0.0, 0.0] * 2))


def test_unlikeliness_ranks_by_the_log_probability_of_the_sampling_policy(make, tiny_policy):
    trainer = make(diversity="unlikeliness", alpha=0.25, learning_rate=0.0, reward=all_equal)
    gather, seen, expected = trainer.rival.evidence, [], []
    trainer.rival.evidence = lambda *args: seen.append(gather(*args)) or seen[-1]
    trainer.train()
    for row, completion in zip(trainer.batch["prompt_ids"], trainer.ids, strict=True):
        prompt = row[row != 0].tolist()
        with torch.no_grad():
            logps = tiny_policy(torch.tensor([prompt + list(completion)])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
        expected.append(sum(logps[at, token].item() for at, token in zip(places, completion, strict=True)))
    got = seen[-1].logp.flatten()
    assert_close(got, torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=0)
    least, most = got[:4].argmin().item(), got[:4].argmax().item()
    assert trainer.table[least, 1] == 0.0
    assert trainer.table[most, 1].item() == pytest.approx(-0.25 * 3 / 4)


def test_partition_asks_a_classifier_about_pairs_that_differ(make, tmp_path):
    file = tmp_path / "judge.py"
    file.write_text("def same(pairs):\n    assert all(a != b for a, b in pairs)\n    return [True] * len(pairs)\n")
    trainer = make(diversity="partition", same_answer=f"{file}:same", reward=all_equal)
    trainer.train()
    assert_close(trainer.table[:, 1], torch.full((8,), 0.1 - 1.0))  # one cluster: a tenth is kept
    file = tmp_path / "short.py"
    file.write_text("def same(pairs):\n    return [True]\n")
    with pytest.raises(RewardError, match="expected one boolean per pair, got 1 for"):
        make(diversity="partition", same_answer=f"{file}:same").train()


@pytest.mark.parametrize("host", HOSTS)
def test_spread_pays_nothing_below_the_gate_and_nothing_in_sum(host, make):
    trainer = make(host, combine="spread", quality_threshold=0.3)
    trainer.train()
    task, paid = trainer.table.unflatten(0, (2, 4)).unbind(-1)
    assert (task < 0.3).any()
    assert (paid[task < 0.3] == 0).all()
    assert paid.abs().max() > 0.001, "no credit at all would make the next line vacuous"
    assert_close(paid.sum(1), torch.zeros(2), atol=1e-6, rtol=0)


def one_of_four(completions, **kwargs):
    return [1.0, 0.0, 0.0, 0.0] * (len(completions) // 4)


def test_pass_at_k_sets_the_advantages_and_mixes_by_alpha(make):
    """Of the six pairs three hold the right one: mean and spread 1/2.

    Each pair with it passes, (1 - 1/2) / (1/2) = 1; of the three with a wrong one one does, (1/3 - 1/2) / (1/2) = -1/3.
    """
    settings = {"diversity": "pass_at_k", "pass_k": 2, "quality_threshold": 0.5, "alpha": 0.25}
    trainer = make(reward=one_of_four, scale_rewards="none", **settings)
    trainer.train()
    right, wrong = 0.75 * 0.75 + 0.25 * 1, 0.75 * -0.25 + 0.25 * -1 / 3
    assert_close(trainer.batch["advantages"], torch.tensor([right, wrong, wrong, wrong] * 2), atol=1e-5, rtol=0)
    assert list(trainer._logs["advantages"]) == pytest.approx(trainer.batch["advantages"].tolist())


def test_decoupled_credit_and_floor_reach_the_advantages(make):
    trainer = make(alpha=0.01, reward=all_equal, scale_rewards="group")
    trainer.train()
    assert trainer.batch["advantages"].abs().max() > 0.5, "the host blows a tied group up"
    trainer = make(alpha=0.01, reward=all_equal, scale_rewards="group", decouple_credit=True)
    trainer.train()
    credit = trainer.table[:, 1].view(2, 4)  # alpha is in it
    centred = (credit - credit.mean(1, keepdim=True)).flatten()
    assert_close(trainer.batch["advantages"], centred, atol=1e-7, rtol=0)
    assert logged(trainer, "alpha_effective") == [0.01]
    trainer = make(alpha=0.01, reward=all_equal, scale_rewards="group", std_floor=0.5)
    trainer.train()
    credit = trainer.table[:, 1].view(2, 4)
    centred = (credit - credit.mean(1, keepdim=True)).flatten()
    assert_close(trainer.batch["advantages"], centred / 0.5001, atol=1e-6, rtol=0)


@pytest.mark.parametrize("host", HOSTS)
def test_tied_groups_are_skipped_by_their_task_reward(host, make):
    trainer = make(host, reward=all_equal, skip_tied_groups=True)
    before = weights(trainer)
    trainer.train()
    assert trainer.table[:, 1].std() > 0, "the shaped reward does vary"
    assert (trainer.batch["advantages"] == 0).all()
    assert torch.equal(weights(trainer), before)
    assert logged(trainer, "quality/tied_groups") == [1.0]


@pytest.mark.trl("entropy")
@pytest.mark.parametrize("host", HOSTS)
def test_entropy_alone_makes_the_policy_less_sure(host, make, tiny_policy):
    sharpen(tiny_policy)
    settings = {"reward": all_equal, "max_steps": 12, "learning_rate": 3e-3, "optim": "sgd", "max_grad_norm": 0.0}
    trainer = make(host, diversity="entropy", alpha=0.5, **settings)
    trainer.train()
    entropy = logged(trainer, "entropy")
    assert sum(entropy[-3:]) > sum(entropy[:3]) + 0.02
    still = make(host, diversity="none", **settings)
    before = weights(still)
    still.train()
    assert torch.equal(weights(still), before), "with tied rewards nothing else moves the policy"


def test_the_entropy_step_does_not_depend_on_how_a_batch_is_accumulated(make, tiny_policy):
    sharpen(tiny_policy)
    start = {k: v.clone() for k, v in tiny_policy.state_dict().items()}
    ends = []
    for split in (
        {},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "steps_per_generation": 2},
    ):
        tiny_policy.load_state_dict(start)
        fixed = {"min_p": 1.0, "optim": "sgd", "learning_rate": 0.01, "max_grad_norm": 0.0}  # greedy, so equal lengths
        trainer = make(diversity="entropy", alpha=0.5, reward=all_equal, **fixed, **split)
        trainer.train()
        ends.append(weights(trainer))
    assert (ends[0] - torch.cat([v.flatten() for k, v in start.items() if "lm_head" not in k])).abs().max() > 1e-5
    assert_close(ends[0], ends[1], atol=2e-5, rtol=0)


def test_an_evaluation_and_a_resume_keep_the_alpha_of_the_rollout(make, tmp_path):
    moving = {"diversity": "entropy", "alpha": 0.1, "alpha_schedule": "linear", "max_steps": 4, "num_iterations": 2}
    trainer = make(**moving, save_strategy="steps", save_steps=1)
    trainer.train()
    of_the_last_rollout = 0.1 * (1 - 2 / 3)  # two updates each: sampled after 0 and after 2 of 4 steps
    assert trainer.rollout_alpha == pytest.approx(of_the_last_rollout)
    trainer.evaluate(Dataset.from_dict({"prompt": PROMPTS}))
    assert trainer.rollout_alpha == pytest.approx(of_the_last_rollout)
    again = make(**moving)
    assert again.rollout_alpha == 0.1
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))  # between the two updates
    assert again.rollout_alpha == pytest.approx(of_the_last_rollout)


def test_entropy_on_right_responses_leaves_the_wrong_ones_alone(make):
    settings = {"diversity": "entropy_correct", "alpha": 0.5, "reward": all_equal}
    wrong = make(quality_threshold=2.0, **settings)
    before = weights(wrong)
    wrong.train()
    assert torch.equal(weights(wrong), before)
    right = make(quality_threshold=0.5, **settings)
    right.train()
    assert not torch.equal(weights(right), before)
    assert right.batch["correct"].tolist() == [True] * 8


def test_alpha_follows_its_schedule(make):
    trainer = make(alpha=1.0, alpha_schedule="linear", alpha_end=0.0, alpha_warmup_steps=1, max_steps=4)
    trainer.train()
    assert logged(trainer, "alpha") == pytest.approx([1.0, 1.0, 0.5, 0.0])
    assert (trainer.table[:, 1] == 0).all(), "the last step is paid for quality alone"


@pytest.mark.parametrize(("floor", "rises"), [(-1.0, True), (2.0, False)])
def test_automatic_alpha_rises_above_the_floor_and_falls_below_it(floor, rises, make):
    trainer = make(alpha="auto", quality_floor=floor, quality_floor_ramp=0.0, max_steps=4)
    trainer.train()
    alpha = logged(trainer, "alpha")
    assert alpha[0] == 1.0
    assert alpha == sorted(alpha, reverse=not rises)
    assert alpha[-1] != 1.0
    assert logged(trainer, "alpha/floor") == [floor] * 4


def test_automatic_alpha_and_drift_resume_where_the_checkpoint_left_them(make, tmp_path):
    settings = {"alpha": "auto", "quality_floor": -1.0, "alpha_rate": 0.05, "quality_floor_ramp": 0.0}
    saving = {"save_strategy": "steps", "save_steps": 2}
    first = make(max_steps=2, **saving, **settings)
    first.train()
    kept = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["stateful_callbacks"]["dqo"]
    assert kept["alpha"]["control"]["seen"] == 2
    assert kept["drift"] == first._drift.state()
    second = make(max_steps=4, **settings)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert logged(second, "alpha")[2] == first._alpha.now(2, 4) != 1.0
    assert second._alpha.state()["control"]["seen"] == 4
    plain = make(max_steps=2, **saving)
    plain.train()
    state = tmp_path / "checkpoint-2" / "trainer_state.json"
    document = json.loads(state.read_text())
    del document["stateful_callbacks"]["dqo"]
    state.write_text(json.dumps(document))
    with pytest.raises(RecipeError, match=r"other settings of 'alpha' .* lacks 'alpha'"):
        make(max_steps=4, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_floor_of_a_baseline_is_read_from_its_log(make, tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "quality": 0.9}\n{"step": 2, "quality": null}\n{"step": 3, "quality": 0.5}\n')
    trainer = make(alpha="auto", quality_floor_of=str(tmp_path), quality_slack=0.1, max_steps=3)
    trainer.train()
    assert logged(trainer, "alpha/floor") == pytest.approx([0.8, 0.8, 0.4])


def test_signs_of_tricks_are_in_every_line(make):
    trainer = make(max_steps=2)
    trainer.train()
    names = ("length_drift", "norm_drift", "post_answer", "repetition", "low_quality_credit")
    for name in names:
        assert len(logged(trainer, f"hack/{name}")) == 2
    assert logged(trainer, "hack/length_drift")[0] == 0.0
    assert logged(trainer, "hack/post_answer") == [0.0, 0.0]
    assert all(0 <= share <= 1 for share in logged(trainer, "hack/low_quality_credit"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"diversity": "dpp"}, "`diversity` must be one of none, dqo, pairwise, .* got 'dpp'"),
        ({"diversity": "eliptical"}, r"graph_cut, .* \(did you mean 'elliptical'\?\), got 'eliptical'"),
        ({"diversity": "entropy"}, "takes an `alpha` of at most 0.5, got 1; 0.001 is a usual start"),
        ({"diversity": "graph_cut", "alpha": 2.0}, "takes an `alpha` of at most 1, got 2"),
        ({"diversity": "graph_cut", "combine": "gate", "quality_threshold": 0.5}, "got combine='gate' with diversity="),
        ({"diversity": "pairwise", "combine": "quality_weighted"}, "needs a signal defined for weighted vectors"),
        ({"diversity": "pairwise", "kernel": "linear"}, "needs a kernel with unit diagonal, got kernel='linear'"),
        (
            {"diversity": "vendi", "credit_scale": "unit"},
            "`credit_scale` belongs to diversity='dqo', got credit_scale='unit'",
        ),
        ({"diversity": "partition"}, "needs one of `same_threshold` and `same_answer`"),
        ({"same_threshold": 0.5}, "`same_threshold` belongs to diversity='partition'"),
        ({"diversity": "pass_at_k", "quality_threshold": 0.5}, "needs `pass_k`, got None; set one"),
        ({"diversity": "pass_at_k", "quality_threshold": 0.5, "pass_k": 9}, "at most num_generations=4, got 9"),
        ({"diversity": "pass_at_k", "pass_k": 2}, "`quality_threshold` belongs to"),
        ({"combine": "spread"}, "`quality_threshold` belongs to"),
        ({"std_floor": 0.1, "scale_rewards": "none"}, "guard against a std, got scale_rewards='none'"),
        ({"std_floor": -0.1}, "`std_floor` must be at least 0, got -0.1"),
        ({"scale_rewards": "groups"}, "`scale_rewards` must be one of none, batch, group .*, got 'groups'"),
        ({"alpha": "automatic"}, "`alpha` must be a number or auto, got 'automatic'"),
        ({"alpha": "auto"}, "needs exactly one of quality_floor, quality_floor_of, vendi_target, got none"),
        ({"alpha": "auto", "quality_floor": 0.5, "vendi_target": 2.0}, "got quality_floor and vendi_target"),
        ({"alpha": "auto", "vendi_target": 5.0}, "got 5.0 with num_generations=4; set it to that at most"),
        ({"alpha": "auto", "quality_floor_of": "no/such.jsonl"}, "expected a readable metrics.jsonl"),
        ({"alpha": "auto", "quality_floor": 0.5, "diversity": "graph_cut"}, "takes an `alpha` of at most 1, got 10"),
        ({"alpha": "auto", "quality_floor": 0.5, "alpha_schedule": "linear"}, "belongs to a number as `alpha`"),
        ({"quality_floor": 0.5}, "`quality_floor` belongs to alpha='auto', got quality_floor=0.5 with alpha=1.0"),
        (
            {"alpha": "auto", "quality_floor_of": "x", "quality_slack": -0.1},
            "`quality_slack` must be at least 0, got -0.1",
        ),
        (AUTO | {"quality_floor_ramp": 1.5}, "`quality_floor_ramp` must be at most 1, got 1.5"),
        ({"alpha": "auto", "quality_floor": math.nan}, "`quality_floor` must be a finite number, got nan"),
        ({"combine": "gate", "quality_threshold": math.nan}, "`quality_threshold` must be a finite number, got nan"),
        ({"alpha_end": 0.5}, "belongs to alpha_schedule='linear' or 'cosine'"),
        ({"alpha_schedule": "steps"}, "must be one of constant, linear, cosine"),
    ],
)
def test_settings_that_contradict_are_refused_before_anything_is_loaded(settings, told, tmp_path):
    with pytest.raises(DQOError, match=told):
        DQOConfig(str(tmp_path), **COMMON | settings)


def test_rloo_refuses_pass_at_k_with_a_kl_in_its_advantages(tmp_path):
    settings = {"diversity": "pass_at_k", "pass_k": 2, "quality_threshold": 0.5}
    with pytest.raises(DQOError, match=r"in which RLOO keeps its KL .* got beta=0.1"):
        DQORLOOConfig(str(tmp_path), **COMMON | settings | {"beta": 0.1})


def test_a_log_that_is_none_is_refused_with_its_line(tmp_path):
    for text, told in (
        (b'{"step": 1}\n', "lines with a `quality`"),
        (b'{"step": 1, "quality": true}\n', "lines with a `quality`"),
        (b"{}\n", "line 1: expected the field `step`, got none"),
        (b'{"step": 1.9, "quality": 1}\n', "line 1: `step` must be a whole number, got 1.9"),
        (b'{"step": 1, "quality": NaN}\n', "line 1: expected finite numbers in JSON, got another"),
        (b"\xff\n", "expected UTF-8, got byte 0xff at offset 0"),
    ):
        (tmp_path / "metrics.jsonl").write_bytes(text)
        with pytest.raises(DQOError, match=told):
            DQOConfig(str(tmp_path), **COMMON, alpha="auto", quality_floor_of=str(tmp_path))


def test_a_set_function_sees_what_passes_and_pays_what_the_group_would_lose(make, tmp_path):
    file = tmp_path / "longest.py"
    file.write_text("def most(prompt, answers, rewards):\n    return max((len(a) for a in answers), default=0) * 1.0\n")
    settings = {"diversity": "set", "set_function": f"{file}:most", "combine": "gate", "quality_threshold": 0.3}
    trainer = make(alpha=2.0, **settings)
    trainer.train()
    task, paid = trainer.table.unflatten(0, (2, 4)).unbind(-1)
    assert (task < 0.3).any()
    lengths = torch.tensor([len(completion_text(one)) for one in trainer.completions]).view(2, 4)
    for rewards, credits, length in zip(task, paid, lengths, strict=True):
        passing = [i for i in range(4) if rewards[i] >= 0.3]
        for i in range(4):
            others = [length[j].item() for j in passing if j != i]
            gain = max(0, length[i].item() - max(others, default=0)) if i in passing else 0
            assert credits[i].item() == pytest.approx(2.0 * gain)


def test_settings_under_which_a_set_function_is_not_what_is_optimised_are_refused(make):
    chosen = {"diversity": "set", "set_function": "dqo.diversity.set_functions.distinct"}
    with pytest.raises(DQOError, match="no group's own std divides, got scale_rewards='group'"):
        make(**chosen, scale_rewards="group")
    with pytest.raises(DQOError, match="needs credits of at least 0"):
        make(**chosen, combine="multiply")
    with pytest.raises(DQOError, match="needs `set_function`"):
        make(diversity="set")
    make(**chosen, scale_rewards="group", decouple_credit=True)
