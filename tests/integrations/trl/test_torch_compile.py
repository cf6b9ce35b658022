"""`torch_compile=True` trains what it trains without, and is not given up after a few batches."""

import copy

import pytest
import torch
from datasets import Dataset

from dqo import DQOConfig, DQOPPOConfig, DQOPPOTrainer, DQORLOOConfig, DQORLOOTrainer, DQOTrainer


@pytest.mark.parametrize(
    ("trainer_class", "config", "bf16"),
    [(DQOTrainer, DQOConfig, False), (DQORLOOTrainer, DQORLOOConfig, True), (DQOPPOTrainer, DQOPPOConfig, False)],
    ids=["grpo", "rloo-bf16", "ppo"],
)
def test_a_compiled_policy_trains_the_same(trainer_class, config, bf16, tiny_policy, tiny_tokenizer, tmp_path):
    def run(**settings):
        args = config(
            str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=6, use_cpu=True,
            report_to=[], save_strategy="no", encoder="hashed", beta=0.0, max_steps=12, learning_rate=1e-2, bf16=bf16,
            gradient_checkpointing=False, disable_tqdm=True, **settings,
        )  # fmt: skip
        trainer = trainer_class(
            copy.deepcopy(tiny_policy), lambda completions, **_: [float(len(set(c.split()))) for c in completions],
            args, Dataset.from_dict({"prompt": ["the dog", "a cat near", "red house", "old tree"]}),
            processing_class=tiny_tokenizer,
        )  # fmt: skip
        trainer.train()
        assert trainer.shares_prefix
        assert trainer.shares_rollouts
        names = ("loss", "grad_norm", "reward", "diversity/vendi")
        return trainer, [[line[name] for name in names] for line in trainer.state.log_history if "loss" in line]

    _, plain = run()
    torch.compiler.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):  # of 8, fewer than the calls
        trainer, compiled = run(torch_compile=True, torch_compile_backend="eager")
    assert hasattr(trainer.model_wrapped, "_orig_mod"), "it was compiled"
    # rounding of bf16 may change a draw, after which the runs part
    rows, close = (1, {"rel": 0.05, "abs": 0.02}) if bf16 else (12, {"rel": 1e-4, "abs": 1e-5})
    assert len(compiled) == len(plain) == 12
    for ours, theirs in zip(compiled[:rows], plain[:rows], strict=True):
        assert ours == pytest.approx(theirs, **close)
