"""Runs verl's `main_ppo` with DQO: `python -m dqo.integrations.verl.main`, same configuration, same overrides."""

import sys
from dataclasses import asdict

try:
    import hydra
    from omegaconf import DictConfig, open_dict
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    from dqo.integrations.verl.scoring import own_errors
    from dqo.integrations.verl.trainer import DQOTaskRunner
except ModuleNotFoundError as error:
    sys.exit(
        f"error: verl needs the package {error.name!r}; run `pip install -e '.[verl,embed]'` (docs/guides/verl.md)."
    )

from dqo.errors import DQOError
from dqo.integrations.verl.settings import base_mode, read_settings, with_whole_paths


@hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)
def main(config: DictConfig) -> None:
    """Checks the run, then hands it to verl.

    Args:
        config: verl's `ppo_trainer` with overrides and the section `dqo`.
    """
    try:
        settings = with_whole_paths(read_settings(config))
        with open_dict(config):
            config.dqo = asdict(settings)
        base_mode(config)
        auto_set_device(config)
        validate_config(config, need_reference_policy(config), need_critic(config))
        with own_errors():
            run_ppo(config, task_runner_class=DQOTaskRunner)
    except DQOError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
