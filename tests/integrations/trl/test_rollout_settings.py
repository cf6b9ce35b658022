"""Settings of generation that a model brings along apply with shared prompts as they do in TRL, or TRL applies them."""

import copy
from collections import Counter

import pytest
import torch
from datasets import Dataset
from transformers import GenerationConfig

from dqo import DQOConfig, DQORLOOConfig, DQORLOOTrainer, DQOTrainer
from dqo.models.rollout import Sampling, effective_sampling

PROMPTS = ["the dog", "a cat"]
TRAINERS = [(DQOTrainer, DQOConfig), (DQORLOOTrainer, DQORLOOConfig)]
BEYOND = {
    "no_repeat_ngram_size": 1, "suppress_tokens": [5, 6, 7], "bad_words_ids": [[8], [9, 10]], "stop_strings": ["dog"],
    "typical_p": 0.5, "min_new_tokens": 3, "epsilon_cutoff": 0.02, "eta_cutoff": 0.02, "begin_suppress_tokens": [5],
    "exponential_decay_length_penalty": [1, 1.5], "sequence_bias": [[[5], 3.0]], "forced_eos_token_id": 1,
    "guidance_scale": 1.5, "num_beams": 2, "encoder_repetition_penalty": 1.2, "max_time": 60.0, "top_h": 0.4,
}  # fmt: skip


def make(policy, tokenizer, folder, trainer=DQOTrainer, config=DQOConfig, **settings):
    args = config(
        str(folder), per_device_train_batch_size=64, num_generations=32, max_completion_length=6, max_steps=1,
        use_cpu=True, report_to=[], save_strategy="no", encoder="hashed", beta=0.0, **{"bf16": False, **settings},
    )  # fmt: skip
    return trainer(
        policy, lambda completions, **_: [float(len(c)) for c in completions], args,
        Dataset.from_dict({"prompt": PROMPTS}), processing_class=tokenizer,
    )  # fmt: skip


def drawn(trainer, rows=64):
    """Completions of one rollout, as token lists."""
    ids = trainer.processing_class(PROMPTS[0])["input_ids"]
    found = trainer._generate_single_turn([ids] * rows, None, {}, rows)
    return found if isinstance(trainer, DQORLOOTrainer) else found[0]


def test_what_only_generate_applies_is_left_to_trl_and_said_once(tiny_policy, tiny_tokenizer, tmp_path, caplog):
    tiny_policy.generation_config.no_repeat_ngram_size = 1
    trainer = make(tiny_policy, tiny_tokenizer, tmp_path)
    assert not trainer.shares_rollouts
    assert caplog.text.count("`generation_config` sets no_repeat_ngram_size, which TRL applies") == 1
    neutral = tiny_policy.generation_config
    for name, value in BEYOND.items():
        tiny_policy.generation_config = copy.deepcopy(neutral)
        tiny_policy.generation_config.no_repeat_ngram_size = None
        assert effective_sampling(tiny_policy, trainer.generation_config) == (Sampling(), [])
        setattr(tiny_policy.generation_config, name, value)
        assert effective_sampling(tiny_policy, trainer.generation_config)[1] == [name]


@pytest.mark.parametrize(("trainer", "config"), TRAINERS, ids=["grpo", "rloo"])
def test_suppressed_tokens_are_never_drawn_in_a_training(trainer, config, tiny_policy, tiny_tokenizer, tmp_path):
    tiny_policy.generation_config.suppress_tokens = list(range(5, 30))
    run = make(tiny_policy, tiny_tokenizer, tmp_path, trainer, config)
    run.train()
    ids = torch.cat([batch["completion_ids"] for batch in run._buffered_inputs])
    assert not torch.isin(ids, torch.arange(5, 30)).any()


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [
        ({}, {}, Sampling()),
        ({"min_p": 0.3}, {}, Sampling(min_p=0.3)),
        ({"min_p": 0.3}, {"min_p": 0.1}, Sampling(min_p=0.1)),
        ({"top_k": 7, "top_p": 0.5, "temperature": 0.3, "repetition_penalty": 1.7}, {}, Sampling()),
        ({"top_k": 7}, {"top_k": None}, Sampling(top_k=7)),
        ({}, {"top_k": None}, Sampling(top_k=50)),
        ({}, {"temperature": 0.7, "top_p": 0.9, "top_k": 3}, Sampling(temperature=0.7, top_p=0.9, top_k=3)),
    ],
)
def test_settings_that_both_apply_are_the_ones_that_generate_would_take(
    own, given, expected, tiny_policy, tiny_tokenizer, tmp_path
):
    for name, value in own.items():
        setattr(tiny_policy.generation_config, name, value)
    trainer = make(tiny_policy, tiny_tokenizer, tmp_path, **given)
    assert trainer.shares_rollouts
    assert effective_sampling(trainer.model, trainer.generation_config) == (expected, [])


@pytest.mark.parametrize("bf16", [False, True])
def test_a_model_s_min_p_draws_the_same_with_and_without_sharing(bf16, tiny_policy, tiny_tokenizer, tmp_path):
    with torch.no_grad():
        for weight in tiny_policy.parameters():
            weight.mul_(4.0 if weight.dim() == 2 else 1.0)
    tiny_policy.generation_config.min_p = 0.3
    trainer = make(tiny_policy, tiny_tokenizer, tmp_path, bf16=bf16)
    ids = torch.tensor([tiny_tokenizer(PROMPTS[0])["input_ids"]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        p = tiny_policy(ids).logits[0, -1].double().softmax(-1)  # (V,)
    p = p.where(p >= 0.3 * p.max(), 0.0)
    p /= p.sum()
    assert 1 < (p > 0).sum() < len(p) // 2
    torch.manual_seed(0)
    for shares in (True, False):
        trainer.shares_rollouts = shares
        found = Counter(completion[0] for completion in drawn(trainer, 2000))
        seen = torch.tensor([found[token] for token in range(len(p))], dtype=torch.float64)
        assert seen[p == 0].sum() == 0, "tokens below min_p are never drawn"
        possible = p > 0
        squares = ((seen - 2000 * p)[possible].square() / (2000 * p)[possible]).sum().item()  # chi-squared
        degrees = int(possible.sum()) - 1
        assert squares < degrees + 5 * (2 * degrees) ** 0.5, shares


def test_a_plain_config_brings_nothing(tiny_policy):
    given = GenerationConfig(do_sample=True, max_new_tokens=4, top_k=0)
    assert effective_sampling(tiny_policy, given) == (Sampling(), [])


@pytest.mark.parametrize("bf16", [False, True])
def test_a_correction_gets_the_log_probabilities_of_sampling(bf16, tiny_policy, tiny_tokenizer, tmp_path):
    settings = {"off_policy_mask_threshold": 0.5, "bf16": bf16, "learning_rate": 0.0}
    trainer = make(tiny_policy, tiny_tokenizer, tmp_path, **settings)
    trainer.train()
    (batch,) = trainer._buffered_inputs
    sampled, mask = batch["sampling_per_token_logps"], batch["completion_mask"]
    assert sampled.shape == mask.shape
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    seen = torch.cat([batch["prompt_mask"], mask], dim=1)
    with torch.no_grad():
        forward, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, seen, mask.shape[1])
    torch.testing.assert_close(sampled * mask, forward.float() * mask, atol=0.03 if bf16 else 1e-5, rtol=0)
    assert (sampled * mask).sum() < -10.0
    plain = make(tiny_policy, tiny_tokenizer, tmp_path / "plain", bf16=bf16)
    plain.train()
    assert "sampling_per_token_logps" not in plain._buffered_inputs[0]
