"""A real Ray and a real TransferQueue, started once per module; nothing is imported where verl is not installed."""

import pytest


@pytest.fixture(scope="session")
def verl_config():
    """Compose verl's own configuration with overrides, as its command line does."""
    from hydra import compose, initialize_config_module

    def make(*overrides):
        with initialize_config_module("verl.trainer.config", version_base=None):
            return compose("ppo_trainer", overrides=list(overrides))

    return make


@pytest.fixture(scope="module")
def transfer_queue(verl_config):
    """TransferQueue on a private Ray instance; it goes with the module, as other tests connect to clusters."""
    import ray
    import transfer_queue as tq

    config = verl_config("transfer_queue.enable=true", "transfer_queue.backend.SimpleStorage.num_data_storage_units=1")
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    tq.init(config.transfer_queue)
    yield tq
    tq.close()
    ray.shutdown()


@pytest.fixture
def make_trainer(transfer_queue, verl_config, tiny_tokenizer):
    """A trainer as far as `_compute_advantage` needs one: real class, real configuration, no models."""
    from dqo.integrations.verl import trainer as module

    from .batches import ALPHA, ENCODER

    def make(estimator, *overrides, alpha=ALPHA, name="DQOTrainerSync", mode="dqo_sync"):
        config = verl_config(
            f"trainer.v1.trainer_mode={mode}",
            f"algorithm.adv_estimator={estimator}",
            "actor_rollout_ref.rollout.n=4",
            f"+dqo.alpha={alpha}",
            f"+dqo.encoder={ENCODER}",
            "+dqo.encoder_actors=0",
            *overrides,
        )
        trainer = getattr(module, name)(config)
        trainer.tokenizer, trainer.timing_raw = tiny_tokenizer, {}
        trainer.global_steps, trainer.total_training_steps = 1, 5
        return trainer

    return make
