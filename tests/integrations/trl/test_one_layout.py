"""Nothing learnt, nothing changed: in every precision the first ratio is 1, the first KL 0, and TRL's rows stay TRL's.

At learning rate 0 policy, old policy and reference are one. Their log-probabilities must then be equal to the last bit,
or bf16 rounding stands in importance ratios and KL before anything is learnt.
"""

import json
import os
import sys
from pathlib import Path

import forking
import one_layout_run as run
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SCRIPT = Path(__file__).with_name("one_layout_run.py")


@pytest.fixture(scope="module")
def policy(tiny_tokenizer, tmp_path_factory):
    """Deep and with large weights, so that another order of sums shows in bf16."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        max_position_embeddings=256,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data.mul_(2.5)
    folder = tmp_path_factory.mktemp("policy")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def assert_nothing_compared_differs(found, beta=True):
    ratios = torch.tensor([ratio for batch in found["ratios"] for ratio in batch])
    assert len(ratios) >= 32
    assert (ratios == 1).all(), f"ratios {ratios.min():.4f} to {ratios.max():.4f}"
    assert len(found["logged"]) == 2
    for line in found["logged"]:
        assert line["clip_ratio/region_mean"] == 0
        assert not beta or line.get("kl", 0) == 0
    assert not beta or "kl" in found["logged"][0]


@pytest.mark.parametrize("algorithm", run.ALGORITHMS)
@pytest.mark.parametrize("precision", ["autocast", "weights", "float32"])
def test_ratio_is_1_and_kl_0_before_anything_is_learnt(algorithm, precision, policy, tmp_path):
    settings = {"bf16": precision == "autocast"}
    if precision == "weights":
        settings["model_init_kwargs"] = {"dtype": "bfloat16"}
    found = run.record(algorithm, policy, tmp_path, **settings)
    assert_nothing_compared_differs(found, beta=algorithm != "rloo-free")


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "ppo-paid"])
@pytest.mark.parametrize("rows", [2, 4, 16], ids=["below a group", "a group", "several groups"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_whatever_the_batch(algorithm, rows, checkpointing, policy, tmp_path):
    micro_batches = 32 // rows
    settings = {
        "bf16": True, "per_device_train_batch_size": rows, "steps_per_generation": micro_batches,
        "gradient_accumulation_steps": max(1, micro_batches // 2), "gradient_checkpointing": checkpointing,
    }  # fmt: skip
    assert_nothing_compared_differs(run.record(algorithm, policy, tmp_path, **settings))


def test_ppo_s_kl_without_shared_prompts(policy, tmp_path):
    assert_nothing_compared_differs(run.record("ppo-paid", policy, tmp_path, bf16=True, shared_prefix=False))


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_with_lora_whose_reference_is_the_policy_without_it(algorithm, policy, tmp_path):
    assert_nothing_compared_differs(run.record(algorithm, policy, tmp_path, lora=True, bf16=True))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "ppo-paid"])
def test_on_two_processes(algorithm, policy, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "bf16"]
    launch += ["--num_processes", "2", "--multi_gpu", "--dynamo_backend", "no", "--main_process_port", "0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    command = [*launch, str(SCRIPT), algorithm, str(policy), str(tmp_path / "out.json"), json.dumps({"bf16": True})]
    done = forking.run(command, capture_output=True, text=True, env=env, timeout=900, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_nothing_compared_differs(json.loads((tmp_path / "out.json").read_text()))


@pytest.mark.parametrize(
    ("algorithm", "accumulation", "settings"),
    [
        ("grpo", 1, {}),
        ("grpo", 2, {}),
        ("rloo", 4, {}),
        ("bnpo", 4, {"as cut": True}),
        ("grpo", 4, {"as cut": True, "top_entropy_quantile": 0.5}),
        ("grpo", 4, {"as cut": True, "diversity": "entropy", "alpha": 1e-3}),
    ],
    ids=[
        "an update per micro-batch",
        "two per update",
        "one update",
        "bnpo",
        "entropy quantile",
        "entropy in the loss",
    ],
)
def test_every_optimizer_step_sees_the_rows_that_trl_gives_it(algorithm, accumulation, settings, policy, tmp_path):
    as_cut = settings.pop("as cut", False)
    both = []
    for shared in (False, True):
        found = run.record(
            algorithm, policy, tmp_path, shared_prefix=shared, bf16=False, steps_per_generation=4, max_steps=4,
            gradient_accumulation_steps=accumulation, seed=5, **settings,
        )  # fmt: skip
        both.append(found["rows"])
    size = 1 if as_cut else accumulation
    for trl, ours in zip(*both, strict=True):
        for start in range(0, 4, size):
            steps = [[row for batch in cut[start : start + size] for row in batch] for cut in (trl, ours)]
            assert sorted(steps[0]) == sorted(steps[1])
    moved = any(trl != ours for trl, ours in zip(*both, strict=True))
    assert moved != as_cut, "rows move among the micro-batches of one update, and only where the loss allows it"
