"""Numbers that are none stop a run before they are saved."""

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOTrainer

from dqo import DQOConfig, DQOTrainer
from dqo.errors import TrainingError


@pytest.fixture
def trainer(tiny_policy, tiny_tokenizer, tmp_path):
    args = DQOConfig(
        str(tmp_path), max_steps=3, save_steps=1, per_device_train_batch_size=4, num_generations=4, bf16=False,
        max_completion_length=4, use_cpu=True, report_to=[], learning_rate=1e-2, encoder="hashed",
    )  # fmt: skip
    rewards = [lambda completions, **_: [float(len(set(c.split()))) for c in completions]]
    dataset = Dataset.from_dict({"prompt": ["the dog", "a cat"]})
    return DQOTrainer(tiny_policy, rewards, args=args, train_dataset=dataset, processing_class=tiny_tokenizer)


def test_nan_loss_stops_with_the_step(trainer, monkeypatch):
    monkeypatch.setattr(GRPOTrainer, "training_step", lambda *args, **kwargs: torch.tensor(float("nan")))
    with pytest.raises(TrainingError, match="step 1: expected a finite loss, got nan"):
        trainer.train()


def test_nan_gradient_stops_before_the_step_is_saved(trainer, tmp_path):
    weight, steps = next(trainer.model.parameters()), []
    weight.register_hook(lambda grad: grad * (float("nan") if len(steps) == 1 else 1.0))

    class Count(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            steps.append(1)

    trainer.add_callback(Count())
    with pytest.raises(TrainingError, match="step 2: expected a finite gradient, got a norm of nan"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
