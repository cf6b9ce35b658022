"""Rewards as plain callables in TRL's convention; none imports a training host."""

from dqo.response import completion_text
from dqo.rewards.checked import CheckedReward
from dqo.rewards.diversity_reward import DiversityReward, prompt_key
from dqo.rewards.task_reward import TaskReward

__all__ = ["CheckedReward", "DiversityReward", "TaskReward", "completion_text", "prompt_key"]
