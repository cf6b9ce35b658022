"""Teaches the packaged policy what an answer of countdown looks like, from the known solutions of training prompts.

Run `python experiments/countdown/teach_countdown.py FOLDER`: a few minutes on two CPU cores. The untaught policy of 135
M almost never writes an expression alone, so that a reward of right answers has nothing to tell apart; a short
supervised start before RL is what the field does. One solution a prompt, drawn with the seed, in the chat form that RL
samples in.
"""

import argparse
import random

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from dqo.models.policy import DEFAULT_POLICY, load_policy
from dqo.tasks import load_task

EXAMPLES, BATCH, SEED = 256, 16, 0


def main() -> None:
    """Train one pass over the examples and save the policy with its tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where the taught policy goes")
    folder = parser.parse_args().folder
    model, tokenizer = load_policy(DEFAULT_POLICY)
    rng = random.Random(SEED)
    rows = [
        {
            "prompt": [{"role": "user", "content": prompt.prompt}],
            "completion": [{"role": "assistant", "content": rng.choice(prompt.reference)}],
        }
        for prompt in load_task("countdown", numbers=3).prompts("train")[:EXAMPLES]
    ]
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            output_dir=folder, num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=1e-4,
            lr_scheduler_type="linear", warmup_steps=2, bf16=False, gradient_checkpointing=False, save_strategy="no",
            report_to="none", logging_steps=1, seed=SEED, completion_only_loss=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    trainer.save_model(folder)


if __name__ == "__main__":
    main()
