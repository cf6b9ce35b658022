"""Rewards as plain callables in TRL's convention; none imports a training host."""

from dqo.models.chat import completion_text
from dqo.rewards.calling import CheckedReward
from dqo.rewards.diversity import DiversityReward, prompt_key

__all__ = ["CheckedReward", "DiversityReward", "completion_text", "prompt_key"]
