"""Training at learning rate 0 on fixed completions: what the loss compares with old policy and reference is equal.

    one_layout_run.py ALGORITHM POLICY OUT.json '{"setting": value, …}'

runs one such training on the processes of `accelerate launch`; a test calls `record` for one process.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate.utils import gather
from datasets import Dataset
from peft import LoraConfig

from dqo import DQOConfig, DQOPPOConfig, DQOPPOTrainer, DQORLOOConfig, DQORLOOTrainer, DQOTrainer

G, LONGEST = 4, 48
WORDS = ["the", "a", "dog", "cat", "bird", "runs", "sings", "sleeps", "eats", "red", "blue", "green", "big", "old"]
SEQUENCES = {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}
ALGORITHMS = {
    "grpo": (DQOTrainer, DQOConfig, {"num_iterations": 2}),
    "gspo": (DQOTrainer, DQOConfig, {"num_iterations": 2, **SEQUENCES}),
    "bnpo": (DQOTrainer, DQOConfig, {"num_iterations": 2, "loss_type": "bnpo"}),
    "rloo": (DQORLOOTrainer, DQORLOOConfig, {}),
    "rloo-free": (DQORLOOTrainer, DQORLOOConfig, {"beta": 0.0}),
    "ppo": (DQOPPOTrainer, DQOPPOConfig, {"num_iterations": 2}),
    "ppo-paid": (DQOPPOTrainer, DQOPPOConfig, {"num_iterations": 2, "kl_in": "reward"}),
}
COMMON = {
    "num_generations": G, "per_device_train_batch_size": 8, "steps_per_generation": 2, "gradient_accumulation_steps": 2,
    "max_steps": 2, "max_completion_length": LONGEST, "learning_rate": 0.0, "beta": 0.1, "logging_steps": 1,
    "use_cpu": True, "report_to": [], "save_strategy": "no", "encoder": "hashed", "disable_tqdm": True,
}  # fmt: skip


def ragged(rows):
    """Completions of 5 to LONGEST random tokens."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(5, LONGEST + 1, (rows,), generator=generator).tolist()
    return [torch.randint(5, 35, (length,), generator=generator).tolist() for length in lengths]


def letters(completions, **columns):
    """A reward whose groups do not tie."""
    return [float(len(text) % 7) for text in completions]


def record(algorithm, policy, folder, lora=False, **settings):
    """Train, and return the ratios of every loss, what was logged, and the rows of every micro-batch."""
    trainer_class, config_class, own = ALGORITHMS[algorithm]
    found = {"ratios": [], "rows": []}

    class Recorder(trainer_class):
        def _generate_single_turn(self, prompts, *args, **kwargs):
            first = self.accelerator.process_index * len(prompts)
            ids = ragged(64)[first : first + len(prompts)]
            return ids if trainer_class is DQORLOOTrainer else (ids, None)

        def _prepare_inputs(self, batch):
            before = self._buffered_inputs
            inputs = super()._prepare_inputs(batch)
            if self._buffered_inputs is not before:
                found["rows"].append(
                    [(b["completion_ids"] * b["completion_mask"]).tolist() for b in self._buffered_inputs]
                )
            return inputs

        def _compute_loss(self, model, inputs):
            calls, original = [], self._get_per_token_logps_and_entropies
            self._get_per_token_logps_and_entropies = lambda *args, **kwargs: (
                calls.append(original(*args, **kwargs)) or calls[-1]
            )
            try:
                loss = super()._compute_loss(model, inputs)
            finally:
                del self._get_per_token_logps_and_entropies
            logps, mask = calls[-1][0].detach(), inputs["completion_mask"]
            if trainer_class is DQORLOOTrainer:
                ratio = ((logps * mask).sum(1) - inputs["old_logps"]).exp()
            else:
                off = (logps - inputs["old_per_token_logps"]) * mask  # (N, C)
                ratio = off.gather(1, off.abs().argmax(1, keepdim=True)).squeeze(1).exp()  # (N,) the worst of each row
            found["ratios"].append(gather(ratio).tolist())
            return loss

    trainer = Recorder(
        str(policy),
        letters,
        args=config_class(str(folder), **COMMON | own | settings),
        train_dataset=Dataset.from_dict({"prompt": [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]}),
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM") if lora else None,
    )
    trainer.train()
    assert trainer.shares_prefix == trainer.args.shared_prefix
    found["logged"] = [line for line in trainer.state.log_history if "loss" in line]
    found["main"] = trainer.accelerator.is_main_process
    return found


if __name__ == "__main__":
    algorithm, policy, out, settings = sys.argv[1:]
    found = record(algorithm, policy, Path(out).with_suffix(""), **json.loads(settings))
    if found["main"]:
        Path(out).write_text(json.dumps(found))
