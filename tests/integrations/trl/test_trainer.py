"""The trainers on a real (tiny) policy: what reaches the advantages, what is logged, what is refused."""

import copy
import json
import math
from dataclasses import fields

import pytest
import torch
from datasets import Dataset
from tiny_runs import COMMON, PROMPTS, all_equal, recorder, second_is_unscorable, share_of_short_words
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM
from trl import GRPOConfig, GRPOTrainer

from dqo import DQOConfig, DQOPPOConfig, DQORLOOConfig, DQORLOOTrainer, DQOTrainer
from dqo.core import effective_alpha
from dqo.embedders import load_embedder
from dqo.errors import DQOError, EncoderError, GroupError, RecipeError, RewardError
from dqo.integrations.trl.seams import why_unshared

TRAINERS = [(DQOTrainer, DQOConfig), (DQORLOOTrainer, DQORLOOConfig)]


SHARED = [pytest.mark.trl("shared prompts"), pytest.mark.skipif(why_unshared() is not None, reason=str(why_unshared()))]


def make(
    trainer_class, config_class, policy, tokenizer, folder, reward=share_of_short_words, embedder=None, **settings
):
    """A trainer whose reward table, completions and batch are kept for inspection."""
    span = settings.pop("answer_span", None)

    extra = {} if trainer_class is GRPOTrainer else {"embedder": embedder, "answer_span": span}
    args = config_class(str(folder), **COMMON | settings)
    dataset = Dataset.from_dict({"prompt": PROMPTS})
    return recorder(trainer_class)(
        policy, reward, args=args, train_dataset=dataset, processing_class=tokenizer, **extra
    )  # fmt: skip


def deleted_row_credit(texts):
    """Leave-one-out credit of one group by determinants of explicitly deleted matrices."""
    E = load_embedder("hashed")(texts).double()
    A = E @ E.T + torch.eye(len(E), dtype=torch.float64)
    kept = [[j for j in range(len(E)) if j != i] for i in range(len(E))]
    return [(torch.linalg.slogdet(A)[1] - torch.linalg.slogdet(A[k][:, k])[1]).item() for k in kept]


@pytest.mark.trl("advantages")
@pytest.mark.parametrize(("trainer_class", "config_class"), TRAINERS, ids=["grpo", "rloo"])
def test_reward_is_task_plus_alpha_times_the_credit_of_the_group(
    trainer_class, config_class, tiny_policy, tiny_tokenizer, tmp_path
):
    settings = {"alpha": 0.7, "max_steps": 3, "learning_rate": 1e-3}
    trainer = make(trainer_class, config_class, tiny_policy, tiny_tokenizer, tmp_path, **settings)
    trainer.train()
    assert trainer.reward_func_names == ["share_of_short_words", "diversity"]
    texts = trainer.completions
    expected = torch.tensor(deleted_row_credit(texts[:4]) + deleted_row_credit(texts[4:]))
    assert expected.std() > 0.01, "equal credits would make the next line vacuous"
    torch.testing.assert_close(trainer.table[:, 1], 0.7 * expected, atol=1e-6, rtol=0)
    paid = trainer.table[:, 0] + 0.7 * expected  # (N,)
    above = paid.view(2, 4) - paid.view(2, 4).mean(dim=1, keepdim=True)
    advantages = trainer.batch["advantages"].view(2, 4)
    scale = (advantages * above).sum() / above.square().sum()
    assert scale > 1
    torch.testing.assert_close(advantages, scale * above, atol=1e-4, rtol=0)


def test_column_holds_combined_minus_weighted_task_for_every_rule(tiny_policy, tiny_tokenizer, tmp_path):
    settings = {"combine": "multiply", "alpha": 2.0, "reward_weights": [3.0]}
    trainer = make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path, **settings)
    assert trainer.args.reward_weights == [3.0, 1.0]
    trainer.train()
    task = 3.0 * trainer.table[:, 0]
    credit = torch.tensor(deleted_row_credit(trainer.completions[:4]) + deleted_row_credit(trainer.completions[4:]))
    total = (trainer.table * trainer.reward_weights).sum(dim=1)
    torch.testing.assert_close(total, task * (1 + 2.0 * credit), atol=1e-5, rtol=0)


def test_gate_pays_no_diversity_below_the_threshold(tiny_policy, tiny_tokenizer, tmp_path):
    settings = {"combine": "gate", "quality_threshold": 0.3, "alpha": 1.0}
    trainer = make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path, **settings)
    trainer.train()
    good = trainer.table[:, 0] >= 0.3
    assert good.any()
    assert not good.all()
    assert (trainer.table[~good, 1] == 0).all()
    assert (trainer.table[good, 1] > 0).all()


def test_alpha_zero_is_the_unmodified_host(tiny_policy, tiny_tokenizer, tmp_path):
    start = {k: v.clone() for k, v in tiny_policy.state_dict().items()}
    settings = {"alpha": 0.0, "max_steps": 3, "shared_prefix": False}
    ours = make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path / "a", **settings)
    ours.train()
    after = {k: v.clone() for k, v in tiny_policy.state_dict().items()}
    tiny_policy.load_state_dict(start)
    host_settings = {k: v for k, v in COMMON.items() if k != "encoder"} | {"scale_rewards": "batch", "max_steps": 3}
    host = GRPOTrainer(
        tiny_policy, share_of_short_words, args=GRPOConfig(str(tmp_path / "b"), **host_settings),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}), processing_class=tiny_tokenizer,
    )  # fmt: skip
    host.train()
    assert any(not torch.equal(start[k], after[k]) for k in start), (
        "an untrained policy would make the next line vacuous"
    )
    for key, value in tiny_policy.state_dict().items():
        torch.testing.assert_close(value, after[key], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("trainer_class", "config_class"), TRAINERS, ids=["grpo", "rloo"])
@pytest.mark.parametrize("checkpointing", [pytest.param(True, marks=SHARED), False])
def test_sharing_the_prompt_trains_the_same_policy(
    trainer_class, config_class, checkpointing, tiny_policy_folder, tiny_tokenizer, tmp_path
):
    settings = {
        "max_steps": 3, "optim": "sgd", "learning_rate": 1.0, "gradient_checkpointing": checkpointing, "beta": 0.1,
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "steps_per_generation": 4,
    }  # fmt: skip
    weights = []
    for shared in (True, False):
        policy = AutoModelForCausalLM.from_pretrained(tiny_policy_folder)
        start = {k: v.clone() for k, v in policy.state_dict().items()}
        trainer = make(
            trainer_class, config_class, policy, tiny_tokenizer, tmp_path, shared_prefix=shared, **settings
        )  # fmt: skip
        assert trainer.shares_rollouts == shared
        trainer.shares_rollouts = False  # other random numbers would give other completions
        trainer.train()
        assert trainer.shares_prefix == shared
        weights.append(policy.state_dict())
        assert max((start[k] - v).abs().max() for k, v in policy.state_dict().items()) > 1e-3, "nothing was trained"
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("trainer_class", "config_class"), TRAINERS, ids=["grpo", "rloo"])
def test_rollouts_are_shared_and_end_at_the_eos(trainer_class, config_class, tiny_policy, tiny_tokenizer, tmp_path):
    trainer = make(trainer_class, config_class, tiny_policy, tiny_tokenizer, tmp_path)
    assert trainer.shares_rollouts
    trainer.train()
    ids, mask = trainer.batch["completion_ids"], trainer.batch["completion_mask"].bool()
    assert len({tuple(row.tolist()) for row in ids}) > 1, "copies would make the next line vacuous"
    for row, real in zip(ids, mask, strict=True):
        assert tiny_tokenizer.eos_token_id not in row[real][:-1].tolist()


def test_generation_settings_that_only_the_host_knows_are_left_to_it(tiny_policy, tiny_tokenizer, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        settings = {"generation_kwargs": {"no_repeat_ngram_size": 2}}
        trainer = make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path, **settings)
        trainer.train()
    assert trainer.shares_prefix
    assert not trainer.shares_rollouts
    assert sum("no_repeat_ngram_size" in r.getMessage() for r in caplog.records) == 1


def test_a_model_that_cannot_share_is_said_once_and_trained_plainly(tiny_tokenizer, tmp_path, caplog):
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=4, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with caplog.at_level("WARNING"):
        trainer = make(DQOTrainer, DQOConfig, MistralForCausalLM(config), tiny_tokenizer, tmp_path, max_steps=2)
        trainer.train()
    assert not trainer.shares_prefix
    told = [r.getMessage() for r in caplog.records if "own copy of the prompt" in r.getMessage()]
    assert len(told) == 1
    assert "4 tokens" in told[0] or "sliding" in told[0]


def test_unscorable_row_gets_nothing_and_leaves_the_kernel(tiny_policy, tiny_tokenizer, tmp_path):
    trainer = make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path, reward=second_is_unscorable)
    trainer.train()
    assert trainer.table[1].isnan().all()
    others = [trainer.completions[i] for i in (0, 2, 3)]
    expected = torch.tensor(deleted_row_credit(others), dtype=torch.float32)
    torch.testing.assert_close(trainer.table[[0, 2, 3], 1], expected, atol=1e-6, rtol=0)
    assert trainer.batch["advantages"][1] == 0


def test_answer_span_is_what_is_embedded(tiny_policy, tiny_tokenizer, tmp_path):
    settings = {"answer_span": lambda text: "the same for all", "alpha": 1.0}
    trainer = make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path, **settings)
    trainer.train()
    copies = torch.log(torch.tensor(1 + 1 / 4))
    torch.testing.assert_close(trainer.table[:, 1], copies.expand(8), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("trainer_class", "config_class"), TRAINERS, ids=["grpo", "rloo"])
def test_every_promised_number_is_logged_at_every_step(
    trainer_class, config_class, tiny_policy, tiny_tokenizer, tmp_path
):
    trainer = make(trainer_class, config_class, tiny_policy, tiny_tokenizer, tmp_path, alpha=0.5, max_steps=2)
    trainer.train()
    names = {
        "quality", "alpha", "alpha_effective", "diversity/credit", "diversity/log_volume", "diversity/vendi",
        "diversity/cosine_distance", "completions/mean_length", "completions/clipped_ratio",
        "time/embed", "time/credit", "time/generate", "time/update",
    }  # fmt: skip
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 2
    for line in lines:
        assert names <= line.keys()
        assert 1 <= line["diversity/vendi"] <= 4
        assert line["alpha"] == 0.5
        assert line["time/update"] > 0


def test_tie_group_shows_in_the_effective_alpha(tiny_policy, tiny_tokenizer, tmp_path):
    settings = {"reward": all_equal, "scale_rewards": "group", "alpha": 0.01}
    trainer = make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path, **settings)
    trainer.train()
    (line,) = [line for line in trainer.state.log_history if "loss" in line]
    assert line["alpha_effective"] > 50 * line["alpha"], "group std blows a tie group's credit up whatever alpha is"


def test_effective_alpha_passes_over_rows_that_nothing_scored():
    rewards = torch.tensor([[0.0, 1.0, torch.nan], [2.0, 3.0, 4.0]])
    std = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]).std().item()
    assert effective_alpha(0.5, rewards, "batch") == pytest.approx(0.5 / std, rel=1e-3)
    by_group = (0.5 / 2**-0.5 + 0.5) / 2
    assert effective_alpha(0.5, rewards, "group") == pytest.approx(by_group, rel=1e-3)


def test_effective_alpha_of_normalised_advantages_leaves_out_what_parts_the_groups():
    rewards = torch.tensor([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])  # centred -1, 0, 1 twice: variance 4/5
    assert effective_alpha(0.5, rewards, "centred") == pytest.approx(0.5 / 0.8**0.5, rel=1e-3)


def test_a_unit_of_credit_buys_the_effective_alpha_of_rloo(tiny_policy, tiny_tokenizer, tmp_path):
    def by_prompt(prompts, **kwargs):  # groups far apart, and nothing but the credit within them
        return [float(len(prompt)) for prompt in prompts]

    settings = {"reward": by_prompt, "normalize_advantages": True, "alpha": 0.3}
    trainer = make(DQORLOOTrainer, DQORLOOConfig, tiny_policy, tiny_tokenizer, tmp_path, **settings)
    trainer.train()
    (line,) = [line for line in trainer.state.log_history if "loss" in line]
    credit = trainer.table[:, 1].view(2, 4) / 0.3
    centred = (credit - credit.mean(1, keepdim=True)).flatten()
    bought = (trainer.batch["advantages"] @ centred / (centred @ centred)).item()
    assert line["alpha_effective"] == pytest.approx(bought, rel=1e-2)


@pytest.mark.parametrize(("trainer_class", "config_class"), TRAINERS, ids=["grpo", "rloo"])
def test_evaluation_with_default_settings(trainer_class, config_class, tiny_policy, tiny_tokenizer, tmp_path):
    trainer = make(trainer_class, config_class, tiny_policy, tiny_tokenizer, tmp_path)
    evaluated = trainer.evaluate(Dataset.from_dict({"prompt": PROMPTS * 2}))
    assert 1 <= evaluated["eval_diversity/vendi"] <= 4
    assert "eval_loss" in evaluated
    trainer.train()
    line = next(line for line in trainer.state.log_history if "loss" in line)
    assert line["time/rollout"] < line["time/step"], "rollouts of an evaluation are no part of a step"


def test_checkpoint_loads_and_training_resumes(tiny_policy, tiny_tokenizer, tmp_path):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path, **settings).train()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    torch.testing.assert_close(loaded.state_dict(), tiny_policy.state_dict())
    again = make(DQOTrainer, DQOConfig, loaded, tiny_tokenizer, tmp_path, **(settings | {"max_steps": 3}))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.state.global_step == 3
    steps = [line["step"] for line in again.state.log_history if "loss" in line]
    assert steps == [1, 2, 3]
    assert json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["global_step"] == 2


def test_two_generations_are_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(DQOError, match=r"num_generations of at least 3, got 2.*cancel in the group mean"):
        DQOConfig(str(tmp_path), **(COMMON | {"num_generations": 2}))
    DQOConfig(str(tmp_path), **(COMMON | {"num_generations": 2, "alpha": 0.0}))


def test_normalize_then_sum_is_refused(tmp_path):
    with pytest.raises(DQOError, match="sum_then_normalize"):
        DQOConfig(str(tmp_path), **COMMON, multi_objective_aggregation="normalize_then_sum")


def test_a_clip_of_the_sum_is_refused_and_without_credit_allowed(tmp_path):
    with pytest.raises(DQOError, match=r"clips the task reward and the credit in one sum, got \(0, 1\)"):
        DQORLOOConfig(str(tmp_path), **COMMON, reward_clip_range=(0, 1))
    DQORLOOConfig(str(tmp_path), **COMMON, reward_clip_range=(0, 1), alpha=0.0)


@pytest.mark.parametrize("settings", [{"skip_tied_groups": True}, {"diversity": "pass_at_k", "pass_k": 2,
                                                                    "quality_threshold": 0.5}])  # fmt: skip
def test_advantages_that_hold_the_kl_are_not_replaced(tmp_path, settings):
    DQORLOOConfig(str(tmp_path), **COMMON | settings)
    with pytest.raises(DQOError, match=r"sets the advantages, in which RLOO keeps its KL .* got beta=0\.1"):
        DQORLOOConfig(str(tmp_path), **COMMON | settings | {"beta": 0.1})


def test_a_device_without_float64_is_not_trained_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    config = DQOConfig(str(tmp_path), **COMMON | {"use_cpu": False, "bf16": None})
    assert config.use_cpu
    assert "training on the processor, because mps has no float64" in capsys.readouterr().err


def test_the_policy_s_own_start_may_be_the_encoder(tiny_policy_folder, tiny_tokenizer, tmp_path):
    loaded = AutoModelForCausalLM.from_pretrained(tiny_policy_folder, dtype=torch.float32)
    texts = ["the dog runs", "a cat"]
    expected = load_embedder(f"policy:{tiny_policy_folder}")(texts)
    for policy in (loaded, str(tiny_policy_folder)):
        trainer = make(DQOTrainer, DQOConfig, policy, tiny_tokenizer, tmp_path, encoder="policy")
        torch.testing.assert_close(trainer._embed(texts), expected, atol=1e-6, rtol=0)


def test_a_loss_over_experts_leaves_prompts_unshared(tiny_tokenizer, tmp_path):
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None,
            "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "vocab_size": len(tiny_tokenizer)}  # fmt: skip
    for own, asked, shares in ((0.0, 0.01, False), (0.01, 0.0, True)):
        policy = MixtralForCausalLM(MixtralConfig(**size, router_aux_loss_coef=own))
        trainer = make(DQOTrainer, DQOConfig, policy, tiny_tokenizer, tmp_path, router_aux_loss_coef=asked)
        assert trainer.shares_prefix is shares
        trainer.train()


@pytest.mark.trl("alpha auto")
@pytest.mark.parametrize(("accumulated", "passes"), [(4, 4), (4, 1), (2, 1)])
def test_auto_alpha_moves_once_a_step_whatever_it_is_sampled_in(
    accumulated, passes, tiny_policy, tiny_tokenizer, tmp_path
):
    trainer = make(
        DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path, reward=all_equal, alpha="auto",
        quality_floor=0.5, quality_floor_ramp=0.0, alpha_start=0.1, max_steps=3, steps_per_generation=passes,
        gradient_accumulation_steps=accumulated, per_device_train_batch_size=4,
    )  # fmt: skip
    trainer.train()
    alphas = [line["alpha"] for line in trainer.state.log_history if "loss" in line]
    # error .5, rate .5: memory grows by .25 a step, the proportional term is held at 1
    assert alphas == pytest.approx([0.1, 0.1 * math.exp(1.25), 0.1 * math.exp(1.5)])


def test_adapters_that_would_be_dropped_and_frozen_policies_are_refused(
    tiny_policy_folder, tiny_policy, tiny_tokenizer, tmp_path
):
    from peft import LoraConfig, get_peft_model

    dataset = Dataset.from_dict({"prompt": PROMPTS})
    given = {"args": DQOConfig(str(tmp_path), **COMMON), "train_dataset": dataset, "processing_class": tiny_tokenizer}
    lora = LoraConfig(r=2, target_modules=["q_proj"])
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_policy_folder), lora)
    tuned.save_pretrained(tmp_path / "adapter")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    with pytest.raises(RecipeError, match="without an adapter beside `peft_config`"):
        DQOTrainer(loaded, share_of_short_words, peft_config=lora, **given)
    for policy in (loaded, tiny_policy.requires_grad_(False)):
        with pytest.raises(RecipeError, match="one whose weights are all frozen; pass `peft_config`"):
            DQOTrainer(policy, share_of_short_words, **given)


def test_a_second_diversity_column_is_refused(tiny_policy, tiny_tokenizer, tmp_path):
    def diversity(completions, **kwargs):
        return [0.0] * len(completions)

    with pytest.raises(RecipeError, match="name of the trainer's own column"):
        make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path, reward=diversity)


def test_no_task_reward_is_refused(tiny_policy, tiny_tokenizer, tmp_path):
    with pytest.raises(RecipeError, match="at least one task reward"):
        make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path, reward=None)


CALLS = (  # a template that says all of a conversation with tools, which the host asks for
    "{% for m in messages %}{{ m['role'] }} {% for c in m.get('tool_calls') or [] %}{{ c['function']['name'] }} "
    "{{ c['function']['arguments'] }} {% endfor %}{{ m['content'] or '' }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


class Silent:
    def reset(self, **row):
        """Starts a conversation about a row."""


class Judging(Silent):
    def get_reward(self):
        return 0.5


def test_an_environment_may_own_the_reward(tiny_policy, tiny_tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = CALLS
    dataset = Dataset.from_dict({"prompt": [[{"role": "user", "content": prompt}] for prompt in PROMPTS]})
    settings = {
        "args": DQOConfig(str(tmp_path), **COMMON),
        "train_dataset": dataset, "processing_class": tokenizer,
    }  # fmt: skip
    trainer = DQOTrainer(tiny_policy, environment_factory=Judging, **settings)
    trainer.train()
    (line,) = [line for line in trainer.state.log_history if "loss" in line]
    assert line["quality"] == 0.5
    assert line["reward"] == pytest.approx(0.5 + line["diversity/credit"])
    with pytest.raises(RecipeError, match="at least one task reward, got none"):
        DQOTrainer(tiny_policy, environment_factory=Silent, **settings)


def test_a_reward_that_raises_or_is_not_a_number_stops_with_its_name(tiny_policy, tiny_tokenizer, tmp_path):
    def broken(completions, **kwargs):
        return [float("nan")] * len(completions)

    with pytest.raises(RewardError, match="broken"):
        make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path, reward=broken).train()


def test_an_encoder_with_the_wrong_count_or_nan_is_named(tiny_policy, tiny_tokenizer, tmp_path):
    short = make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path, embedder=lambda texts: torch.ones(1, 3))
    with pytest.raises(EncoderError, match=r"one row of numbers per text, got a Tensor .* shape \(1, 3\) for 8 texts"):
        short.train()
    nan = make(
        DQOTrainer,
        DQOConfig,
        tiny_policy,
        tiny_tokenizer,
        tmp_path,
        embedder=lambda t: torch.full((len(t), 3), torch.nan),
    )
    with pytest.raises(DQOError, match=r"row \[0, 0\] of shape \(2, 4, 3\) holds NaN"):
        nan.train()


def test_group_size_that_does_not_match_the_rows_is_refused(tiny_policy, tiny_tokenizer, tmp_path):
    trainer = make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path)
    trainer.num_generations = 8  # the sampler was built for 4; a stride of 8 would mix two prompts
    trainer._get_train_sampler = lambda dataset=None: list(range(4)) * 2
    with pytest.raises(GroupError, match="another prompt"):
        trainer.train()


@pytest.mark.parametrize("as_list", [False, True])
def test_a_reward_model_may_bring_its_tokenizer(tiny_policy, tiny_policy_folder, tiny_tokenizer, tmp_path, as_list):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig.from_pretrained(tiny_policy_folder, num_labels=1, num_hidden_layers=1)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    trainer = DQOTrainer(
        tiny_policy, LlamaForSequenceClassification(config), args=DQOConfig(str(tmp_path), **COMMON),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}), processing_class=tiny_tokenizer,
        reward_processing_classes=[tokenizer] if as_list else tokenizer,
    )  # fmt: skip
    assert trainer.reward_processing_classes == [tokenizer, None]
    trainer.train()
    assert len(trainer.state.log_history) > 0


@pytest.mark.parametrize(
    ("config", "rewards", "settings", "told"),
    [
        (GRPOConfig, share_of_short_words, {}, r"this trainer needs a DQOConfig, got GRPOConfig; pass args=DQOConfig"),
        (DQORLOOConfig, share_of_short_words, {}, r"this trainer needs a DQOConfig, got DQORLOOConfig"),
        (DQOPPOConfig, share_of_short_words, {}, r"this trainer needs a DQOConfig, got DQOPPOConfig"),
        (DQOConfig, [share_of_short_words] * 2, {"reward_weights": [1.0]}, r"for each of 2 rewards, got 1\.$"),
    ],
)
def test_slips_are_told_before_the_policy_is_looked_at(config, rewards, settings, told, tiny_tokenizer, tmp_path):
    own = {name: value for name, value in COMMON.items() if name in {spec.name for spec in fields(config)}}
    args = config(str(tmp_path), **own, **settings)
    with pytest.raises(RecipeError, match=told):
        DQOTrainer("no/such-policy", rewards, args=args, processing_class=tiny_tokenizer)


def test_a_batch_that_nothing_scores_stops_the_run(tiny_policy, tiny_tokenizer, tmp_path):
    def nothing(completions, **columns):
        return [None] * len(completions)

    trainer = make(DQOTrainer, DQOConfig, tiny_policy, tiny_tokenizer, tmp_path, reward=nothing)
    with pytest.raises(RewardError, match=r"step 1: no reward function could score any of 8 responses \(all None\)"):
        trainer.train()
