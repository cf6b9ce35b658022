"""DQO on TRL: trainers that add the diversity credit to GRPO and RLOO, and their settings."""

from dqo.integrations.trl.config import DQOConfig, DQORLOOConfig
from dqo.integrations.trl.trainer import DQORLOOTrainer, DQOTrainer

__all__ = ["DQOConfig", "DQORLOOConfig", "DQORLOOTrainer", "DQOTrainer"]
