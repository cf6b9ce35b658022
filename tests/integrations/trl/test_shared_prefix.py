"""Sharing a prompt changes no number: log-probs, entropies and gradients against TRL's own computation."""

import copy
from types import SimpleNamespace

import pytest
import torch
import trl.trainer.utils as trl_utils
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GraniteConfig,
    JambaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)
from trl.trainer.utils import add_fused_lm_head

from dqo.integrations.trl.fast import head, sharing
from dqo.integrations.trl.fast.packing import IGNORED, shared_prefix_logps
from dqo.integrations.trl.fast.sharing import why_not_shared

VOCAB, PAD, C = 64, 0, 6
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": PAD,
    "max_position_embeddings": 64,
}
PER_ROW = [1, 2, 8]  # completions per packed row: plain rows, parts of groups, whole groups


def policy(config, temperature=0.7):
    """Random float32 model with TRL's head; weights scaled up so that attention is far from uniform."""
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data.mul_(8)
    torch.random.set_rng_state(state)
    add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
    return model.train()


def batch(prompt_lengths, completion_lengths, prompt_of_row, seed=0, columns=C):
    """TRL's tensors: (N, P+C) ids and mask, prompts left-padded, completions right-padded to `columns`, C."""
    gen = torch.Generator().manual_seed(seed)
    P, N = max(prompt_lengths), len(prompt_of_row)
    prompts = [torch.randint(1, VOCAB, (length,), generator=gen) for length in prompt_lengths]
    ids, mask = torch.full((N, P + columns), PAD), torch.zeros(N, P + columns, dtype=torch.long)
    for n, (p, length) in enumerate(zip(prompt_of_row, completion_lengths, strict=True)):
        start, stop = P - len(prompts[p]), P + length
        ids[n, start:P], mask[n, start:stop] = prompts[p], 1
        ids[n, P:stop] = torch.randint(1, VOCAB, (length,), generator=gen)
    return ids, mask


BATCHES = {
    "one group": batch([5], [6, 6, 6, 6], [0, 0, 0, 0]),
    "early ends": batch([5, 9], [6, 1, 3, 2, 5, 6], [0, 0, 0, 1, 1, 1]),
    "shuffled rows": batch([7, 4, 5], [2, 6, 3, 4, 1, 6], [2, 0, 1, 0, 2, 1]),
    "part of a group": batch([8, 3], [4, 2, 5], [0, 0, 1]),
    "single responses": batch([4, 6], [3, 4], [0, 1]),
    "no room used up": batch([6, 6], [2, 3, 1, 3], [0, 0, 1, 1]),
    "a masked row": batch([6, 4], [3, 0, 2, 6], [0, 0, 1, 1]),
    "prompt of one token": batch([1, 5], [3, 2, 4, 4], [0, 0, 1, 1]),
    "only prompts of one token": batch([1], [3, 2], [0, 0]),
}


def trl_call(model, ids, mask, C=C):
    """What TRL's `_get_per_token_logps_and_entropies` does with one batch."""
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[:, :-C] = IGNORED
    outputs = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    return outputs.log_probs[:, -C:], outputs.entropy[:, -C:]


def gradients(model, logps, entropies):
    """Gradients of a loss in which every token weighs differently, in log-probs and in entropies."""
    weight = torch.arange(logps.numel(), device=logps.device).reshape(logps.shape).cos()
    model.zero_grad()
    ((logps.exp() + weight * logps).sum() + (weight * entropies).sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model, ids, mask, completions, C=C):
    ours, theirs = shared_prefix_logps(model, ids, mask, C, completions=completions), trl_call(model, ids, mask, C)
    for ours_values, their_values in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_values, their_values, atol=1e-5, rtol=1e-5)
    our_grads, their_grads = gradients(model, *ours), gradients(model, *theirs)
    assert our_grads.keys() == their_grads.keys()
    assert our_grads
    for name, grad in their_grads.items():
        scale = grad.abs().max().item()
        assert scale > 0, f"{name} has no gradient, so comparing it proves nothing"
        torch.testing.assert_close(our_grads[name], grad, atol=1e-5 * max(scale, 1), rtol=1e-5, msg=name)


@pytest.fixture(scope="module")
def llama():
    return policy(LlamaConfig(**SMALL))


@pytest.mark.parametrize("completions", PER_ROW)
@pytest.mark.parametrize("name", BATCHES)
def test_values_and_gradients_equal_trl(llama, name, completions):
    assert_same(llama, *BATCHES[name], completions)


@pytest.mark.parametrize("completions", PER_ROW)
def test_only_positions_with_a_label_reach_the_vocabulary(llama, completions, monkeypatch):
    ids, mask = BATCHES["early ends"]
    projected = []
    for module, name in ((trl_utils, "_ChunkedLogProbFunction"), (head, "TiledLogProbs")):
        whole = getattr(module, name).apply

        def note(hidden, *rest, whole=whole):
            projected.append(len(hidden))
            return whole(hidden, *rest)

        monkeypatch.setattr(module, name, SimpleNamespace(apply=note))
    trl_call(llama, ids, mask)
    shared_prefix_logps(llama, ids, mask, C, completions=completions)
    completion_tokens = int(mask[:, -C:].sum())
    assert projected[0] > 2 * completion_tokens, "the host's head projects prompts and padding too on this device"
    assert projected[1] == completion_tokens


def test_a_call_without_one_real_token_is_zero_and_still_differentiable(llama):
    ids, mask = BATCHES["one group"]
    mask = mask.clone()
    mask[:, -C:] = 0
    logps, entropies = shared_prefix_logps(llama, ids, mask, C)
    assert not logps.any()
    assert not entropies.any()
    llama.zero_grad()
    logps.sum().backward()
    assert not any(p.grad.any() for p in llama.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**SMALL),
        Qwen2Config(**SMALL, tie_word_embeddings=True),
        GraniteConfig(**SMALL, logits_scaling=3.0),
        GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0,
                   attn_pdrop=0),
        Qwen3MoeConfig(**SMALL, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2,
                       router_aux_loss_coef=0.0),
    ],
    ids=["qwen2", "tied weights", "scaled logits", "learned positions", "experts without aux loss"],
)  # fmt: skip
def test_other_architectures(config):
    model = policy(config)
    assert why_not_shared(model) is None
    assert_same(model, *BATCHES["shuffled rows"], 2)


def test_lora():
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(policy(LlamaConfig(**SMALL)), settings)
    assert why_not_shared(model) is None
    assert_same(model, *BATCHES["early ends"], 2)
    assert all("lora" in name for name, p in model.named_parameters() if p.grad is not None)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant):
    model = policy(LlamaConfig(**SMALL))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert_same(model, *BATCHES["early ends"], None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_rows_have_equal_values_to_the_last_bit_whatever_the_grad_mode(dtype):
    ids, mask = BATCHES["early ends"]
    model = policy(LlamaConfig(**SMALL)).to(dtype)
    with torch.no_grad():
        old, _ = shared_prefix_logps(model, ids, mask, C)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    new, _ = shared_prefix_logps(model, ids, mask, C)
    assert new.requires_grad
    assert torch.equal(old, new)


def test_weights_flattened_by_the_first_fsdp(tmp_path):
    import torch.distributed as dist
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = policy(LlamaConfig(**SMALL))
    with torch.no_grad():
        expected = shared_prefix_logps(model, *BATCHES["early ends"], C)[0]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        sharded = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
        with torch.no_grad():
            found = shared_prefix_logps(sharded, *BATCHES["early ends"], C)[0]
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_reference_without_entropy():
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL)).eval()
    add_fused_lm_head(model)
    with torch.no_grad():
        assert shared_prefix_logps(model, *BATCHES["early ends"], C)[1] is None


def jamba():
    return JambaConfig(**SMALL, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
                       num_experts=2, mamba_d_state=4, mamba_d_conv=2, mamba_expand=1, mamba_dt_rank=4,
                       use_mamba_kernels=False, router_aux_loss_coef=0.0)  # fmt: skip


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "short_factor": [1.0] * 4, "long_factor": [9.0] * 4,
        "original_max_position_embeddings": 32}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MistralConfig(**SMALL, sliding_window=4), r"reaches back 4 tokens only \(sliding_window\)"),
        (Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=4, max_window_layers=1), "sliding_attention"),
        (jamba(), "recurrent layers would carry state"),
        (LlamaConfig(**SMALL, rope_parameters=DYNAMIC), r"depend on the length of the row \(rope_type dynamic\)"),
        (LlamaConfig(**SMALL, rope_parameters=LONG), r"depend on the length of the row \(rope_type longrope\)"),
    ],
    ids=["window", "some windows", "hybrid", "dynamic", "longrope"],
)
def test_unsupported_models_say_why(config, reason):
    model = policy(config)
    with pytest.raises(AssertionError, match=reason):
        assert why_not_shared(model) is None, why_not_shared(model)
    assert model.training


def test_the_check_needs_no_weights_and_draws_no_random_numbers():
    model = policy(LlamaConfig(**SMALL))
    for weight in model.parameters():  # as in ZeRO-3
        weight.data = weight.data.new_empty(0)
    state = torch.random.get_rng_state()
    assert why_not_shared(model) is None
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_check_has_a_layer_of_every_kind():
    layers = {"num_hidden_layers": 6, "no_rope_layers": [1, 1, 0, 1, 0, 1]}
    model = policy(SmolLM3Config(**SMALL | layers, use_sliding_window=False))
    small = sharing._in_small(model)
    assert small.config.no_rope_layers == [1, 1, 0]
    assert len(small.model.layers) == 3
    assert len(sharing._in_small(policy(LlamaConfig(**SMALL))).model.layers) == 1
    assert model.config.num_hidden_layers == 6
    assert why_not_shared(model) is None


def test_a_model_that_fails_without_a_word_is_told_by_the_kind_of_failure(monkeypatch):
    model = policy(LlamaConfig(**SMALL))

    def fails(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr("dqo.integrations.trl.fast.sharing.shared_prefix_logps", fails)
    assert why_not_shared(model) == "its forward does not take a shared prompt (AssertionError)."


def test_numbers_catch_what_the_configuration_hides():
    """Negative control: windowed attention whose configuration says full is refused for its numbers."""
    model = policy(MistralConfig(**SMALL, sliding_window=3))
    honest = copy.deepcopy(model.config)
    model.config.layer_types = ["full_attention"] * 2
    assert honest.sliding_window == 3
    with pytest.raises(AssertionError, match=r"log-probabilities change by .* when responses share a prompt"):
        assert why_not_shared(model) is None, why_not_shared(model)
    ids, mask = BATCHES["one group"]
    error = (shared_prefix_logps(model, ids, mask, C, completions=8)[0] - trl_call(model, ids, mask)[0]).abs().max()
    assert error > 1e-2


@pytest.mark.parametrize("attention", ["flash_attention_2", "eager"])
def test_attention_backend_without_masks(attention):
    model = policy(LlamaConfig(**SMALL))
    model.config._attn_implementation = attention
    assert "takes no such mask" in why_not_shared(model)


def test_prompt_learning_adapter():
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(
        policy(LlamaConfig(**SMALL)), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    )
    assert "PROMPT_TUNING adapter puts tokens" in why_not_shared(model)
