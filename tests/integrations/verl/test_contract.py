"""What the plug-in stands on in verl 0.9: an upgrade that moves it fails here, by name, and not in a training run."""

import inspect

import pytest

pytest.importorskip("verl", reason="verl is not installed: make test-oldest")

from verl.trainer.ppo.v1 import PPOTrainer, get_trainer_cls
from verl.trainer.ppo.v1 import trainer_base as base


def test_our_trainers_are_registered_and_override_four_methods():
    from dqo.integrations.verl.trainer import DQOMixin, DQOTrainerColocateAsync, DQOTrainerSync

    assert get_trainer_cls("dqo_sync") is DQOTrainerSync
    assert get_trainer_cls("dqo_colocate_async") is DQOTrainerColocateAsync
    inherited = [name for name in vars(DQOMixin) if hasattr(PPOTrainer, name) and not name.startswith("__")]
    assert inherited == ["init", "_load_checkpoint", "_save_checkpoint", "_compute_advantage"]


def test_the_trainer_reads_rewards_from_the_queue_at_our_seam_and_nowhere_else_before_the_update():
    assert list(inspect.signature(PPOTrainer._compute_advantage).parameters) == ["self", "batch", "metrics"]
    source = inspect.getsource(PPOTrainer._compute_advantage)
    assert '"rm_scores"' in source
    step = inspect.getsource(PPOTrainer._step_once)
    order = ["_compute_reward_colocate", "_balance_batch", "_compute_values", "_compute_advantage", "_update_critic"]
    places = [step.index(f"self.{name}(") for name in order]
    assert places == sorted(places)
    for name in ("_update_critic", "_update_actor", "_compute_old_log_prob", "_compute_values"):
        assert "rm_scores" not in inspect.getsource(getattr(PPOTrainer, name))


def test_checkpoints_lie_where_alpha_is_kept():
    """What `alpha=auto` has learned lies in the same folder, and is written before verl's own files."""
    saved, loaded = inspect.getsource(PPOTrainer._save_checkpoint), inspect.getsource(PPOTrainer._load_checkpoint)
    assert 'self.config.trainer.default_local_dir, f"global_step_{self.global_steps}"' in saved
    assert "self.global_steps = 0" in loaded
    assert "global_step_folder = self.config.trainer.resume_from_path" in loaded


def test_metrics_take_the_optimised_reward_from_token_level_rewards():
    source = inspect.getsource(PPOTrainer._compute_metrics)
    assert 'if "token_level_rewards" not in data' in source
    assert 'data["token_level_scores"] = data["rm_scores"]' in source


def test_keys_and_padding_tags_have_the_form_that_groups_are_read_from():
    from verl.trainer.ppo import padding_utils
    from verl.trainer.ppo.v1 import agent_loop_tq

    assert 'f"{uid}_{session_id}_{i}"' in inspect.getsource(agent_loop_tq)
    source = inspect.getsource(padding_utils)
    assert 'f"{pad_uid}_{local_idx}_0"' in source
    assert "is_padding=True" in source


def test_the_mode_is_compared_with_sync_so_that_a_new_name_must_not_stay():
    assert 'self.trainer_mode == "sync"' in inspect.getsource(base.PPOTrainer._build_replay_buffer)


def test_the_runner_can_be_subclassed_and_is_what_run_ppo_takes():
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo

    assert inspect.isclass(TaskRunnerV1.__ray_actor_class__)
    assert "self.trainer.init()" in inspect.getsource(TaskRunnerV1.__ray_actor_class__)
    assert "task_runner_class" in inspect.signature(run_ppo).parameters
    assert "get_trainer_cls(config.trainer.v1.trainer_mode)" in inspect.getsource(TaskRunnerV1.__ray_actor_class__.run)
