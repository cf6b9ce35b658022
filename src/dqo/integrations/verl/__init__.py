"""DQO on verl: trainers that add the diversity credit to GRPO, PPO and every other estimator of verl's V1 trainer."""
