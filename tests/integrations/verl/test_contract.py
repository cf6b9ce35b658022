"""What the plug-in stands on in verl 0.9, tried on a fake batch: an upgrade that moves it fails here."""

from types import SimpleNamespace

import pytest

pytest.importorskip("verl", reason="verl is not installed: make test-oldest")

import numpy as np
from torch import tensor
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1 import PPOTrainer, get_trainer_cls

from .batches import expected_gae_returns, expected_rewards, mixed_batch, put, read


def test_our_trainers_are_registered_and_override_four_methods():
    from dqo.integrations.verl.trainer import DQOMixin, DQOTrainerColocateAsync, DQOTrainerSync

    assert get_trainer_cls("dqo_sync") is DQOTrainerSync
    assert get_trainer_cls("dqo_colocate_async") is DQOTrainerColocateAsync
    inherited = [name for name in vars(DQOMixin) if hasattr(PPOTrainer, name) and not name.startswith("__")]
    assert inherited == ["init", "_load_checkpoint", "_save_checkpoint", "_compute_advantage"]


def test_in_a_step_nothing_but_the_advantages_sees_the_credit(
    make_trainer, transfer_queue, tiny_tokenizer, monkeypatch
):
    rows, seen = mixed_batch(), []
    batch = put(transfer_queue, tiny_tokenizer, rows)
    task = [pytest.approx(row.token_scores()) for row in rows]
    trainer = make_trainer("gae")
    trainer.replay_buffer = SimpleNamespace(sample=lambda **_: (batch, {}))
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=None)
    monkeypatch.setattr(trainer, "on_sample_end", lambda: None)  # it puts rollout servers to sleep

    def stage(name):
        def note(batch, metrics):
            assert read(transfer_queue, batch, "rm_scores") == task, f"{name} sees the task's reward alone"
            seen.append(name)
            return batch

        monkeypatch.setattr(trainer, name, note)

    before = ["_compute_reward_colocate", "_balance_batch", "_compute_old_log_prob", "_compute_values"]
    after = ["_update_critic", "_update_actor"]
    for name in before + after:
        stage(name)
    compute_advantage = trainer._compute_advantage

    def credited(batch, metrics):
        assert seen == before, "the batch is final: rewards, padding and values are there"
        return compute_advantage(batch, metrics)

    monkeypatch.setattr(trainer, "_compute_advantage", credited)
    trainer._step_once({}, {}, len(rows))
    assert seen == before + after
    for row, got, want in zip(rows, read(transfer_queue, batch, "returns"), expected_gae_returns(rows), strict=True):
        np.testing.assert_allclose(np.array(got) * row.mask, want, atol=2e-5)


def test_metrics_tell_the_task_from_what_was_optimised(make_trainer, transfer_queue, tiny_tokenizer, monkeypatch):
    rows, metrics = mixed_batch(), {}
    batch = put(transfer_queue, tiny_tokenizer, rows)
    for tag in batch.tags:
        tag.update(min_global_steps=0, max_global_steps=0)
    turns = {"num_turns": tensor([2] * len(rows))}
    transfer_queue.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=_dense(turns, len(rows)))
    trainer = make_trainer("gae")
    monkeypatch.setattr(trainer, "_get_n_gpus_for_throughput", lambda: 1)
    trainer._compute_advantage(batch, metrics)
    trainer._compute_metrics(batch, metrics, {"gen": 1.0, "step": 1.0}, global_steps=1, epoch=0)
    real = [i for i, row in enumerate(rows) if not row.padding]
    task, part = (np.array(values)[real] for values in expected_rewards(rows))
    assert metrics["critic/score/mean"] == pytest.approx(task.mean(), abs=1e-5)
    assert metrics["critic/rewards/mean"] == pytest.approx((task + part).mean(), abs=1e-5)


def test_rows_that_verl_pads_with_are_known_by_tag_and_key(make_trainer, transfer_queue, tiny_tokenizer):
    from dqo.integrations.verl.trainer import _group_rows

    rows = [row for row in mixed_batch() if not row.padding]
    batch = put(transfer_queue, tiny_tokenizer, rows)
    padded = upsample_batch_to_divisible_size(batch, 4, eos_token_id=tiny_tokenizer.eos_token_id)
    assert len(padded) == 8
    groups = _group_rows(padded.keys, padded.tags)
    assert groups == _group_rows(batch.keys, batch.tags)
    assert [len(group) for group in groups] == [3, 4]
    metrics = {}
    make_trainer("grpo")._compute_advantage(padded, metrics)
    assert metrics["diversity/rows"] == 7


def test_verl_is_reported_its_own_name_of_the_mode(make_trainer):
    """It compares the mode with "sync" in many places."""
    trainer = make_trainer("grpo")
    assert trainer.trainer_mode == trainer.config.trainer.v1.trainer_mode == "sync"


def _dense(fields, size):
    from tensordict import TensorDict

    return TensorDict(fields, batch_size=size)
