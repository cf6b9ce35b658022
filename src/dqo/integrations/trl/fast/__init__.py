"""Optional: prompts that a group's rows share, in updates and rollouts."""
