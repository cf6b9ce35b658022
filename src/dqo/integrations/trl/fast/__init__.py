"""Optional: prompts that a group's rows share, in updates and rollouts."""

from dqo.integrations.trl.fast.sharing import attach

__all__ = ["attach"]
