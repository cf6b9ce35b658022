"""Teaches the packaged policy to solve some puzzles of countdown, from the solutions of training prompts.

Run `python experiments/countdown/teach_countdown.py FOLDER`; the README beside says how long it takes. The untaught
policy of 135 M almost never writes an expression alone, so that a reward of right answers has nothing to tell apart; a
short supervised start before RL is what the field does. It is taught the shortest solutions of a puzzle, in the chat
form that RL samples in. Every so many steps the policy answers the dev prompts; once a fair share is right, the
teaching ends: a policy that solves all would leave nothing to train.
"""

import argparse
import random

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from dqo.models.policy import DEFAULT_POLICY, load_policy
from dqo.tasks import load_task

PUZZLES, SOLUTIONS, BATCH, SEED = 600, 8, 16, 0
# Optimizer steps between two looks at the dev prompts, and the share of right answers there that is enough.
EVERY, ENOUGH = 40, 0.25


class StopWhereEnoughIsRight(TrainerCallback):
    """Answers every dev prompt once, at temperature 1, and ends the training where enough of the answers are right."""

    def __init__(self, task, tokenizer):
        self.task, self.tokenizer = task, tokenizer
        self.prompts = task.prompts("dev")

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Looks after every `EVERY` steps."""
        if state.global_step % EVERY == 0:
            share = self.share_right(model)
            print(f"step {state.global_step}: {share:.2f} of the answers to dev prompts are right")
            control.should_training_stop = share >= ENOUGH

    @torch.no_grad()
    def share_right(self, model) -> float:
        """Samples one response per dev prompt and counts the right ones."""
        model.eval()
        conversations = [[{"role": "user", "content": prompt.prompt}] for prompt in self.prompts]
        inputs = self.tokenizer.apply_chat_template(
            conversations, add_generation_prompt=True, padding=True, padding_side="left", return_tensors="pt",
            return_dict=True,
        ).to(model.device)  # fmt: skip
        output = model.generate(
            **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=self.task.max_completion_length,
        )  # fmt: skip
        ids = output[:, inputs["input_ids"].shape[1] :]  # (N, T)
        ended = [bool((row == self.tokenizer.eos_token_id).any()) for row in ids]
        responses = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        model.train()
        scores = self.task.quality(self.prompts, responses, ended)
        return sum(score == 1.0 for score in scores) / len(scores)


def main() -> None:
    """Trains one pass over the solutions, or less, and saves the policy with its tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where the taught policy goes")
    folder = parser.parse_args().folder
    model, tokenizer = load_policy(DEFAULT_POLICY)
    # The first of these are the prompts that RL trains on; dev and test share no numbers with any.
    task = load_task("countdown", train_size=PUZZLES)
    rows = [
        {
            "prompt": [{"role": "user", "content": prompt.prompt}],
            "completion": [{"role": "assistant", "content": solution}],
        }
        for prompt in task.prompts("train")
        for solution in sorted(task.right_answers(prompt), key=len)[:SOLUTIONS]
    ]
    random.Random(SEED).shuffle(rows)
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            output_dir=folder, num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=1e-4,
            lr_scheduler_type="constant_with_warmup", warmup_steps=2, bf16=False, gradient_checkpointing=False,
            save_strategy="no", report_to="none", logging_steps=1, seed=SEED, completion_only_loss=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[StopWhereEnoughIsRight(task, tokenizer)],
    )  # fmt: skip
    trainer.train()
    trainer.save_model(folder)


if __name__ == "__main__":
    main()
