"""DQO on TRL: trainers that add the diversity credit to GRPO, RLOO and PPO, and their settings."""

from dqo.integrations.trl.config import DQOConfig, DQOPPOConfig, DQORLOOConfig
from dqo.integrations.trl.ppo import DQOPPOTrainer
from dqo.integrations.trl.trainer import DQORLOOTrainer, DQOTrainer

__all__ = ["DQOConfig", "DQOPPOConfig", "DQOPPOTrainer", "DQORLOOConfig", "DQORLOOTrainer", "DQOTrainer"]
