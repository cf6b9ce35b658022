"""PPO on a real (tiny) policy: what each token is paid, what the critic learns, what is saved, what is refused."""

import pytest
import torch
from datasets import Dataset
from tiny_runs import COMMON, PROMPTS, recorder, second_is_unscorable, share_of_short_words
from transformers import AutoModelForCausalLM

from dqo import DQOPPOConfig, DQOPPOTrainer
from dqo.errors import ModelError, RecipeError, TrainingError

SETTINGS = COMMON | {"critic_learning_rate": 1e-2, "gradient_checkpointing": False}


def make(policy, tokenizer, folder, reward=share_of_short_words, peft_config=None, **settings):
    return recorder(DQOPPOTrainer)(
        policy, reward, args=DQOPPOConfig(str(folder), **(SETTINGS | settings)), processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}), peft_config=peft_config,
    )  # fmt: skip


def slow_advantages(rewards, values, gamma, lam, last):
    out, later, after = [], 0.0, last
    for r, v in zip(reversed(rewards), reversed(values), strict=True):
        later = r + gamma * after - v + gamma * lam * later
        out, after = [later, *out], v
    return out


def completions_of(batch):
    rows = zip(batch["completion_ids"], batch["completion_mask"].bool(), strict=True)
    return [ids[real].tolist() for ids, real in rows]


@pytest.mark.trl("PPO")
@pytest.mark.parametrize("truncated", ["bootstrap", "terminal"])
def test_each_token_is_paid_as_written(truncated, tiny_policy_folder, tiny_tokenizer, tmp_path):
    settings = {
        "alpha": 0.7, "gamma": 0.9, "gae_lambda": 0.8, "whiten_advantages": False, "beta": 0.5, "kl_in": "reward",
        "truncated": truncated, "max_steps": 3, "num_iterations": 2,
    }  # fmt: skip
    trainer = make(AutoModelForCausalLM.from_pretrained(tiny_policy_folder), tiny_tokenizer, tmp_path, **settings)
    trainer._state_values = spy_values(trainer, seen := [])
    trainer.train()
    batch, values = trainer.batch, seen[-1]
    assert values.abs().max() > 1e-3, "zero values would make the next lines vacuous"
    scores = trainer.table.sum(1)
    kl = batch["old_per_token_logps"] - batch["ref_per_token_logps"]
    assert kl.abs().max() > 1e-4
    ends, cut = (tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id), 0
    for row, ids in enumerate(completions_of(batch)):
        open_end = ids[-1] not in ends  # the host takes a pad token for an end too
        cut += open_end
        waits = open_end and truncated == "bootstrap"
        paid = [-0.5 * k for k in kl[row, : len(ids)].tolist()]
        paid[-1] += 0.0 if waits else scores[row].item()
        expected = slow_advantages(
            paid, values[row, : len(ids)].tolist(), 0.9, 0.8, values[row, len(ids)].item() if waits else 0.0
        )
        torch.testing.assert_close(batch["advantages"][row, : len(ids)].tolist(), expected, atol=1e-5, rtol=0)
        assert (batch["advantages"][row, len(ids) :] == 0).all()
    assert cut > 0, "nothing was cut off"


def spy_values(trainer, seen):
    original = trainer._state_values

    def spy(batch):
        seen.append(original(batch))
        return seen[-1]

    return spy


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_values_are_those_of_the_states_before_each_token_and_behind_the_last(
    shared_prefix, tiny_policy, tiny_tokenizer, tmp_path
):
    trainer = make(tiny_policy, tiny_tokenizer, tmp_path, shared_prefix=shared_prefix)
    trainer.train()
    batch = trainer.batch
    with torch.no_grad():
        values = trainer._state_values(batch)
        assert values.std() > 1e-4, "a critic that has not learned would make the next lines vacuous"
        for row, ids in enumerate(completions_of(batch)):
            prompt = batch["prompt_ids"][row]
            whole = torch.cat([prompt, torch.tensor(ids)])[None]
            seen = torch.cat([batch["prompt_mask"][row], torch.ones(len(ids), dtype=torch.long)])[None]
            hidden = trainer.critic.backbone(whole, attention_mask=seen).last_hidden_state[0, len(prompt) - 1 :]
            expected = trainer.critic.head(hidden).squeeze(-1)
            torch.testing.assert_close(values[row, : len(ids) + 1], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sharing_the_prompt_trains_the_same_critic_and_policy(
    checkpointing, tiny_policy_folder, tiny_tokenizer, tmp_path
):
    trained = []
    for shared in (True, False):
        policy = AutoModelForCausalLM.from_pretrained(tiny_policy_folder)
        settings = {"optim": "sgd", "learning_rate": 0.3, "max_steps": 3}
        trainer = make(
            policy, tiny_tokenizer, tmp_path, shared_prefix=shared, gradient_checkpointing=checkpointing,
            gradient_accumulation_steps=2, steps_per_generation=2, critic_learning_rate=0.3, **settings,
        )  # fmt: skip
        trainer.shares_rollouts = False  # other random numbers would give other completions
        # Adam would blow rounding up to whole steps where a gradient is nearly zero
        trainer.critic.adam = torch.optim.SGD(trainer.critic.parameters())
        trainer.train()
        trained.append([policy.state_dict(), trainer.critic.state_dict()])
    assert trained[0][1]["head.weight"].abs().max() > 1e-4, "the critic has not learned"
    torch.testing.assert_close(trained[0], trained[1], atol=3e-5, rtol=1e-3)


def test_critic_learns_the_known_value_of_the_first_state(tiny_policy, tiny_tokenizer, tmp_path):
    """Paid is a first word of three letters or less, so the value of a prompt is that probability under the policy."""
    short = torch.tensor([len(w) <= 3 for w in tiny_tokenizer.convert_ids_to_tokens(range(len(tiny_tokenizer)))])

    def first_is_short(completion_ids, **kwargs):
        return [float(short[ids[0]]) for ids in completion_ids]

    trainer = make(
        tiny_policy, tiny_tokenizer, tmp_path, reward=first_is_short, alpha=0.0, learning_rate=0.0,
        max_steps=160, truncated="terminal", per_device_train_batch_size=32, num_generations=8, max_completion_length=3,
        gae_lambda=1.0, lr_scheduler_type="constant", logging_steps=20, critic_learning_rate=2e-3,
    )  # fmt: skip  # a low rate: a critic that follows the newest batch follows its luck
    start = {k: v.clone() for k, v in tiny_policy.state_dict().items()}
    trainer.train()
    torch.testing.assert_close(tiny_policy.state_dict(), start, atol=0, rtol=0)
    batch = trainer.batch
    with torch.no_grad():
        values = trainer._state_values(batch)
        logits = trainer.model(batch["prompt_ids"], attention_mask=batch["prompt_mask"]).logits[:, -1]
    known = (logits.softmax(-1) * short).sum(-1)
    assert 0.1 < known.mean() < 0.9
    # 8 draws a prompt and step have a std of .17; a critic that remembers some ten steps is off by .05, thrice is wrong
    torch.testing.assert_close(values[:, 0], known, atol=0.15, rtol=0)
    paid = trainer.table[:, 0]
    behind = values[:, 1][batch["completion_mask"][:, 0] == 1]
    assert (behind - paid).abs().mean() < 0.75 * (known - paid).abs().mean(), "a drawn word tells more than its prompt"
    assert trainer.state.log_history[-2]["critic/explained_variance"] > 0.4


@pytest.mark.parametrize("lora", [False, True])
def test_checkpoint_is_the_policy_alone_and_training_resumes_exactly(
    lora, tiny_policy_folder, tiny_tokenizer, tmp_path
):
    from peft import LoraConfig
    from safetensors import safe_open

    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "num_iterations": 2}

    def fresh():
        peft = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM") if lora else None
        policy = AutoModelForCausalLM.from_pretrained(tiny_policy_folder)
        return make(policy, tiny_tokenizer, tmp_path / "run", peft_config=peft, **settings)

    whole = fresh()
    whole.train()
    folder = tmp_path / "run" / "checkpoint-4"
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            assert [name for name in weights.keys() if "critic" in name or "value" in name] == []  # noqa: SIM118
    _, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    again = fresh()
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    torch.testing.assert_close(again.critic.state_dict(), whole.critic.state_dict(), atol=0, rtol=0)
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict(), atol=0, rtol=0)
    state, other = (t.critic.adam.state_dict() for t in (again, whole))
    torch.testing.assert_close(state["state"], other["state"], atol=0, rtol=0)
    assert state["state"][0]["step"] == 4
    if lora:
        assert not [name for name in whole.critic.state_dict() if "lora" in name]
        assert all(weight.requires_grad for weight in whole.critic.parameters())


def test_checkpoint_of_another_critic_is_refused(tiny_policy, tiny_tokenizer, tmp_path):
    trainer = make(tiny_policy, tiny_tokenizer, tmp_path)
    trainer.critic.save(tmp_path)
    trainer.critic.head = torch.nn.Linear(3, 1)
    with pytest.raises(ModelError, match=r"critic\.safetensors: expected the critic of the run that is continued"):
        trainer.critic.load(tmp_path)


def test_promised_numbers_are_logged_over_epochs_and_minibatches(tiny_policy_folder, tiny_tokenizer, tmp_path):
    policy = AutoModelForCausalLM.from_pretrained(tiny_policy_folder)
    trainer = make(
        policy, tiny_tokenizer, tmp_path, num_iterations=2, steps_per_generation=2, max_steps=8, beta=0.1,
    )  # fmt: skip
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 8
    rollouts = [line for line in lines if "quality" in line]
    assert len(rollouts) == 2, "four optimizer steps share a rollout: two minibatches, two epochs"
    for line in lines:
        assert {
            "critic/value_loss",
            "critic/clip_share",
            "critic/grad_norm",
            "clip_ratio/region_mean",
            "kl",
        } <= line.keys()
        assert 0 <= line["critic/clip_share"] <= 1
    for line in rollouts:
        assert {"critic/explained_variance", "critic/value", "critic/return", "critic/advantage_std"} <= line.keys()
    mask = trainer.batch["value_mask"].bool()
    advantages = trainer.batch["advantages"][mask]
    torch.testing.assert_close(advantages.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(advantages.std(), torch.tensor(1.0), atol=1e-4, rtol=0)


def test_an_evaluation_may_be_larger_than_a_batch_of_training(tiny_policy, tiny_tokenizer, tmp_path):
    sizes = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 8}
    trainer = make(tiny_policy, tiny_tokenizer, tmp_path, **sizes)
    metrics = trainer.evaluate(Dataset.from_dict({"prompt": PROMPTS}))
    assert 1 <= metrics["eval_diversity/vendi"] <= 4


def test_unscorable_row_moves_neither_policy_nor_critic(tiny_policy, tiny_tokenizer, tmp_path):
    trainer = make(tiny_policy, tiny_tokenizer, tmp_path, reward=second_is_unscorable)
    trainer.train()
    assert (trainer.batch["advantages"][1] == 0).all()
    assert trainer.batch["value_mask"][1].sum() == 0
    assert trainer.batch["value_mask"][0].sum() > 0


def test_a_gradient_of_the_critic_that_is_no_number_reaches_no_weight(tiny_policy, tiny_tokenizer, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    trainer, grads = make(tiny_policy, tiny_tokenizer, tmp_path, **settings), []

    def spoil_the_second(grad):
        grads.append(grad)
        return grad * float("nan") if len(grads) == 2 else grad

    trainer.critic.head.bias.register_hook(spoil_the_second)
    with pytest.raises(TrainingError, match=r"gradient of the critic, got a norm of nan; .*checkpoint-1, the last"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert all(weight.isfinite().all() for weight in trainer.critic.parameters())


def test_groups_of_two_are_allowed_and_meaningless_settings_refused(tmp_path, monkeypatch):
    DQOPPOConfig(str(tmp_path), **(SETTINGS | {"num_generations": 2}))
    refused = {
        "`scale_rewards` must be none, got 'group'": {"scale_rewards": "group"},
        "`truncated` must be one of bootstrap, terminal, got 'own'": {"truncated": "own"},
        "`gae_lambda` must be at most 1, got 1.5": {"gae_lambda": 1.5},
        "`value_clip` must be above 0": {"value_clip": 0.0},
        "kl_in='reward' needs `beta` above 0": {"kl_in": "reward"},
        "replace the advantages of a group, got them with PPO": {"skip_tied_groups": True},
        "go by the sign of a response's one advantage": {"off_policy_mask_threshold": 0.5},
        "loss_type='vespo' go by the sign": {"loss_type": "vespo"},
        "no loss scaling, got fp16=True": {"fp16": True, "bf16": None},
    }
    for message, settings in refused.items():
        with pytest.raises(RecipeError, match=message):
            DQOPPOConfig(str(tmp_path), **(SETTINGS | settings))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(RecipeError, match=r"DeepSpeed drives one network per process"):
        DQOPPOConfig(str(tmp_path), **SETTINGS)
