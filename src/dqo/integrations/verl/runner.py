"""verl's TaskRunner that knows DQO's trainers: it registers them in the process that looks them up."""

import ray
from omegaconf import DictConfig
from verl.trainer.main_ppo import TaskRunnerV1


@ray.remote
class DQOTaskRunner(TaskRunnerV1.__ray_actor_class__):
    """verl's runner with `dqo_sync` and `dqo_colocate_async` among its trainer modes."""

    def run(self, config: DictConfig) -> None:
        """Run the training.

        Args:
            config: verl's configuration with the section `dqo`.
        """
        import dqo.integrations.verl.trainer  # noqa: F401  (registers)

        super().run(config)
