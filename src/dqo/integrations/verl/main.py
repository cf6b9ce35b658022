"""`python -m dqo.integrations.verl.main`: verl's `main_ppo` with DQO, same configuration, same overrides."""

import sys
from dataclasses import asdict

try:
    import hydra
    from omegaconf import DictConfig, open_dict
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device
except ModuleNotFoundError as error:
    sys.exit(
        f"error: verl needs the package {error.name!r}; run `pip install -e '.[verl,embed]'` in an environment of its "
        "own (docs/verl.md)."
    )

from dqo.errors import DQOError
from dqo.integrations.verl.runner import DQOTaskRunner
from dqo.integrations.verl.scoring import own_errors
from dqo.integrations.verl.settings import base_mode, read_settings, with_whole_paths
from dqo.rewards.loading import import_function


@hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)
def main(config: DictConfig) -> None:
    """Check the run, then hand it to verl.

    Args:
        config: verl's `ppo_trainer` with overrides and the section `dqo`.
    """
    try:
        settings = with_whole_paths(read_settings(config))
        if settings.answer_span:
            import_function(settings.answer_span, "dqo.answer_span", "response")
        with open_dict(config):
            config.dqo = asdict(settings)
        base_mode(config)
        auto_set_device(config)
        validate_config(
            config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config)
        )
        with own_errors():
            run_ppo(config, task_runner_class=DQOTaskRunner)
    except DQOError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
