"""Numbers that are none stop a run before they are saved."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl import GRPOTrainer

from dqo import DQOConfig, DQOTrainer
from dqo.errors import RecipeError, RewardError, TrainingError, refuse
from dqo.integrations.trl import faults
from dqo.integrations.trl.faults import OutweighedWarning, TiedWarning
from dqo.rewards import CheckedReward


@pytest.fixture
def trainer(tiny_policy, tiny_tokenizer, tmp_path):
    args = DQOConfig(
        str(tmp_path), max_steps=3, save_steps=1, per_device_train_batch_size=4, num_generations=4, bf16=False,
        max_completion_length=4, use_cpu=True, report_to=[], learning_rate=1e-2, encoder="hashed",
    )  # fmt: skip
    rewards = [lambda completions, **_: [float(len(set(c.split()))) for c in completions]]
    dataset = Dataset.from_dict({"prompt": ["the dog", "a cat"]})
    return DQOTrainer(tiny_policy, rewards, args=args, train_dataset=dataset, processing_class=tiny_tokenizer)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("loss", "weights and batch are finite, so the forward or backward pass went out of range"),
        ("batch", "the batch is not finite in advantages"),
        ("weights", r"the weights are not finite in model.embed_tokens.weight, "),
    ],
)
def test_nan_loss_stops_with_step_diagnosis_and_last_good_checkpoint(trainer, monkeypatch, tmp_path, where, reason):
    host_step = GRPOTrainer.training_step

    def nan_at_the_second(self, *args, **kwargs):
        loss = host_step(self, *args, **kwargs)
        if self.state.global_step == 0:
            return loss
        if where == "batch":
            self._buffered_inputs[0]["advantages"][0] = float("nan")
        if where == "weights":
            for weight in self.model.parameters():
                weight.data.fill_(float("nan"))
        return loss * float("nan")

    monkeypatch.setattr(GRPOTrainer, "training_step", nan_at_the_second)
    with pytest.raises(TrainingError, match=rf"step 2: .* got losses \[nan\] and .*; {reason}.*; ") as caught:
        trainer.train()
    assert f"continue with --resume from {tmp_path / 'checkpoint-1'}, the last good checkpoint." in str(caught.value)


def test_nan_gradient_stops_before_the_step_is_saved(trainer, tmp_path):
    weight, steps = next(trainer.model.parameters()), []
    weight.register_hook(lambda grad: grad * (float("nan") if len(steps) == 1 else 1.0))

    class Count(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            steps.append(1)

    trainer.add_callback(Count())
    with pytest.raises(TrainingError, match=r"step 2: .* got losses \[-?\d.* and a norm of nan; weights and"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    saved = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    now = {name: trainer.model.state_dict()[name] for name in saved}
    torch.testing.assert_close(now, saved, atol=0, rtol=0)


def test_without_a_checkpoint_there_is_none_to_go_back_to(trainer, monkeypatch):
    monkeypatch.setattr(GRPOTrainer, "training_step", lambda *args, **kwargs: torch.tensor(float("nan")))
    trainer._buffered_inputs = [{}]
    with pytest.raises(TrainingError, match="start anew, for there is no checkpoint yet"):
        trainer.train()


@pytest.mark.parametrize(("fp16", "stops"), [(True, False), (False, True)])
def test_loss_scaler_is_left_to_skip_its_own_steps(trainer, fp16, stops):
    for weight in trainer.model.parameters():
        weight.grad = torch.full_like(weight, float("inf"))
    trainer.args.fp16, trainer._buffered_inputs = fp16, []
    with pytest.raises(TrainingError, match="and a norm of") if stops else nullcontext():
        trainer._get_grad_norm(trainer.model)


@pytest.mark.parametrize(("norm", "stops"), [(None, False), (0.5, False), (0.0, False), (-1.0, True)])
def test_norms_as_deepspeed_gives_them(trainer, monkeypatch, norm, stops):
    """None without ZeRO in float32, a number with it, and -1 for a gradient with NaN or infinity."""
    monkeypatch.setattr(GRPOTrainer, "_get_grad_norm", lambda *args, **kwargs: norm)
    trainer.notes.losses, trainer._buffered_inputs = [torch.tensor(1.0)], []
    with pytest.raises(TrainingError, match="and a norm of -1") if stops else nullcontext():
        trainer._get_grad_norm(trainer.model)


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_numbers_are_looked_at_once_per_optimizer_step(trainer, monkeypatch, max_grad_norm):
    """Two micro-batches per update: one look at their losses and the norm, with clipping and without."""
    looks = []
    monkeypatch.setattr(
        "dqo.integrations.trl.faults.stop_before_nan", lambda losses, norm, _: looks.append((len(losses), float(norm)))
    )
    trainer.args.gradient_accumulation_steps = trainer.args.steps_per_generation = 2
    trainer.args.max_grad_norm = max_grad_norm
    trainer.train()
    assert [count for count, _ in looks] == [2, 2, 2]
    logged = [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]
    assert [norm for _, norm in looks] == pytest.approx(logged, rel=1e-6), "the norm is the one that TRL logs"


def test_reward_that_raises_once_stops_with_the_batch_in_a_file(trainer, tmp_path):
    """The third call raises, on one row of eight; the other calls go through, and no reward is made up."""
    calls = []

    def rare(prompts, completions, **columns):
        calls.append(completions)
        if len(calls) == 3:
            raise KeyError("\ud800 in a message")
        return [float(len(text)) for text in completions]

    trainer.reward_funcs[0] = CheckedReward(rare)
    with pytest.raises(RewardError, match=r"raised KeyError .*; what it was called with is in .*step3-process0.jsonl"):
        trainer.train()
    assert len(calls) == 3, "it is not tried again behind the user's back"
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    rows = [json.loads(line) for line in (tmp_path / "failed_reward-step3-process0.jsonl").read_text().splitlines()]
    assert [row["completions"] for row in rows] == calls[2]
    assert {"prompts", "completion_ids"} <= rows[0].keys()
    assert [row["row"] for row in rows] == list(range(4))


def log_qualities(qualities, alpha=1.0, main=True):
    callback = OutweighedWarning()
    for step, quality in enumerate(qualities, 1):
        logs = {"loss": 0.1} if quality is None else {"quality": quality, "alpha": alpha}
        callback.on_log(None, SimpleNamespace(global_step=step, is_world_process_zero=main), None, logs)


# Quality of the first steps of a real run at alpha 4.5 (seed 14) that never recovered, and of one at alpha 3 that did.
LOST = [0.33, 0.22, 0.12, 0.06, 0.08, 0.06, 0.01, 0.07, 0.01, 0.07, 0.0, 0.0]
LEARNT = [0.15, 0.23, 0.26, 0.54, 0.56, 0.55, 0.76, 0.84, 0.68, 0.8, 0.8, 0.97, 0.69, 0.7, 0.75, 0.74, 0.93]


def test_a_lost_run_is_told_of_once_and_early(capsys):
    log_qualities(LOST)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "step 7: quality is 0.066" in told  # (.12 + .06 + .08 + .06 + .01) / 5
    assert "was 0.16, with alpha 1:" in told  # (.33 + .22 + .12 + .06 + .08) / 5
    assert "lower alpha" in told


@pytest.mark.parametrize(
    "case",
    [
        {"qualities": LEARNT},
        {"qualities": LOST, "alpha": 0.0},
        {"qualities": LOST, "main": False},
        {"qualities": [0.0] * 12},
        {"qualities": LOST[:4]},
        {"qualities": [None] * 12},
        {"qualities": [0.8, 0.8, 0.8, 0.8, 0.8, 0.5, 0.4, 0.45, 0.5, 0.5]},
    ],
    ids=["learns", "no diversity", "another process", "never any", "too few", "other logs", "not halved"],
)
def test_silence_otherwise(case, capsys):
    log_qualities(**case)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("version", "beta", "refused"), [("5.22.0", 0.1, True), ("5.22.0", 0.0, False), ("5.23.0", 0.1, False)]
)
def test_a_reference_that_old_transformers_shard_wrongly_is_refused(monkeypatch, tmp_path, version, beta, refused):
    args = DQOConfig(str(tmp_path), beta=beta, use_cpu=True, bf16=False)
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setattr(faults, "is_fsdp_enabled", lambda: True)
    monkeypatch.setattr(faults, "transformers", version)
    with pytest.raises(RecipeError, match=r"needs transformers 5\.23 or later") if refused else nullcontext():
        refuse(faults.list_misfits(args, DQOConfig))


@pytest.mark.parametrize(
    ("shares", "first_step", "main", "told"),
    [
        ([1.0, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0], 1, True, "step 5: in 95% of the groups so far all rewards are equal"),
        ([1.0, 0.5, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 1, True, None),
        ([1.0] * 12, 6, True, None),
        ([1.0] * 12, 1, False, None),
        ([None] * 12, 1, True, None),
    ],
    ids=["ties", "ties later", "a resumed run", "another process", "other logs"],
)
def test_ties_from_the_start_are_told_of_once(shares, first_step, main, told, capsys):
    callback, args = TiedWarning(), SimpleNamespace(logging_steps=1)
    for step, share in enumerate(shares, first_step):
        logs = {} if share is None else {"quality/tied_groups": share}
        callback.on_log(args, SimpleNamespace(global_step=step, is_world_process_zero=main), None, logs)
    said = capsys.readouterr().err
    assert said.count("\n") == (told is not None)
    assert told is None or (told in said and "run `dqo probe RECIPE`" in said)
