"""One optimizer step on fixed completions, for `accelerate launch` with any number of processes.

    replayed_run.py trainer|dropin|guarded|ppo ROWS_PER_PROCESS OUT.json
    replayed_run.py evaluated-trainer|evaluated-dropin ROWS_PER_PROCESS OUT.json

The completions of a row depend on its global position only, so that runs with different numbers of processes see
the same batch. Rank 0 writes the global reward table of every batch, the
advantages of all processes and the norm of every weight after the last step.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate.utils import gather
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from dqo import DiversityReward, DQOConfig, DQOPPOConfig, DQOPPOTrainer, DQOTrainer

G, G_TRAINED = 4, 3  # a group; a group of training where the run evaluates too, in groups of G
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


def same_length(pairs):
    """A classifier of same answers: first words of equal length."""
    return [len(a.split()[0]) == len(b.split()[0]) for a, b in pairs]


def main(kind: str, rows: int, policy: str, out: str) -> None:
    """Run one step and write {"rewards": (N, F) table, "names": [...]}."""
    shared = {
        "per_device_train_batch_size": rows, "num_generations": G, "max_completion_length": 5, "max_steps": 1,
        "bf16": False, "use_cpu": True, "report_to": [], "save_strategy": "no", "shuffle_dataset": False,
    }  # fmt: skip
    if evaluates := kind.startswith("evaluated-"):
        kind = kind.removeprefix("evaluated-")
        shared |= {"num_generations": G_TRAINED, "num_generations_eval": G, "per_device_eval_batch_size": rows}
    host = {"dropin": GRPOTrainer, "ppo": DQOPPOTrainer}.get(kind, DQOTrainer)
    seen = {"tables": []}

    class Recorder(host):
        def _calculate_rewards(self, *args):
            seen["tables"].append(super()._calculate_rewards(*args))
            return seen["tables"][-1]

        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            seen["advantages"] = gather(output["advantages"])
            return output

    if kind == "trainer":
        rewards, args = [parity], DQOConfig("unused", alpha=1.0, encoder="hashed", **shared)
    elif kind == "guarded":
        ours = {"diversity": "partition", "same_answer": f"{__file__}:same_length", "decouple_credit": True}
        rewards, args = [parity], DQOConfig("unused", encoder="hashed", scale_rewards="group", **ours, **shared)
    elif kind == "ppo":
        rates = {"critic_learning_rate": 0.1, "learning_rate": 0.01}
        own = {**shared, **rates, "max_steps": 2, "optim": "sgd", "truncated": "terminal", "beta": 0.1}
        rewards, args = [parity], DQOPPOConfig("unused", encoder="hashed", kl_in="reward", **own)
    else:
        credit = DiversityReward(shared["num_generations"], G, encoder="hashed")
        rewards, args = [parity, credit], GRPOConfig("unused", **shared)
    asked = Dataset.from_dict({"prompt": ["a bird", "the cat", "blue house", "new tree", "big river"]})
    trainer = Recorder(
        AutoModelForCausalLM.from_pretrained(policy), rewards, args=args, rollout_func=replay,
        train_dataset=Dataset.from_dict({"prompt": ["the dog", "a cat", "red house", "old tree"]}),
        processing_class=AutoTokenizer.from_pretrained(policy), eval_dataset=asked if evaluates else None,
    )  # fmt: skip
    if kind == "ppo":  # Adam would blow rounding up to whole steps where a gradient is nearly zero
        trainer.critic.adam = torch.optim.SGD(trainer.critic.parameters())
    trainer.train()
    if evaluates:
        seen["tables"].clear()
        trainer.evaluate()
    if trainer.accelerator.is_main_process:
        networks = {"policy": trainer.model, "critic": getattr(trainer, "critic", None)}
        norms = {
            f"{name}.{key}": weight.double().norm().item()
            for name, network in networks.items()
            for key, weight in (network.state_dict() if network is not None else {}).items()
        }
        tables = [table.tolist() for table in seen["tables"]]
        found = {"rewards": tables[-1], "tables": tables, "names": trainer.reward_func_names, "norms": norms}
        found["advantages"] = seen["advantages"].tolist()
        Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
