"""One optimizer step on fixed completions, for `accelerate launch` with any number of processes.

    replayed_run.py trainer|dropin ROWS_PER_PROCESS OUT.json

The completions of a row depend on its global position only, so that runs with different numbers of processes see
the same batch. Rank 0 writes the global reward table.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from dqo import DiversityReward, DQOConfig, DQOTrainer

G = 4
TABLE = torch.randint(5, 30, (64, 5), generator=torch.Generator().manual_seed(7))
TABLE[3] = TABLE[1]  # a duplicate inside a group that straddles processes


def replay(prompts, trainer):
    """Rollout hook: the table's rows at this process's global positions."""
    start = trainer.accelerator.process_index * len(prompts)
    ids = [TABLE[start + i].tolist() for i in range(len(prompts))]
    return {"prompt_ids": [[5, 6]] * len(prompts), "completion_ids": ids, "logprobs": [[0.0] * 5] * len(prompts)}


def parity(completion_ids, **kwargs):
    """Task reward that depends on the row, so that a misaligned credit would show."""
    return [float(ids[0] % 2) for ids in completion_ids]


def main(kind: str, rows: int, policy: str, out: str) -> None:
    """Run one step and write {"rewards": (N, F) table, "names": [...]}."""
    shared = {
        "per_device_train_batch_size": rows, "num_generations": G, "max_completion_length": 5, "max_steps": 1,
        "bf16": False, "use_cpu": True, "report_to": [], "save_strategy": "no", "shuffle_dataset": False,
    }  # fmt: skip
    host = DQOTrainer if kind == "trainer" else GRPOTrainer
    seen = {}

    class Recorder(host):
        def _calculate_rewards(self, *args):
            seen["rewards"] = super()._calculate_rewards(*args)
            return seen["rewards"]

    if kind == "trainer":
        rewards, args = [parity], DQOConfig("unused", alpha=1.0, encoder="hashed", **shared)
    else:
        rewards, args = [parity, DiversityReward(G, encoder="hashed")], GRPOConfig("unused", **shared)
    trainer = Recorder(
        AutoModelForCausalLM.from_pretrained(policy), rewards, args=args, rollout_func=replay,
        train_dataset=Dataset.from_dict({"prompt": ["the dog", "a cat", "red house", "old tree"]}),
        processing_class=AutoTokenizer.from_pretrained(policy),
    )  # fmt: skip
    trainer.train()
    if trainer.accelerator.is_main_process:
        Path(out).write_text(json.dumps({"rewards": seen["rewards"].tolist(), "names": trainer.reward_func_names}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
