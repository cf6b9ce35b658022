"""One measurement of an optimizer step: a job as JSON on the command line, its result as one JSON line on stdout.

Started by step.py, in a process for every measurement. Stock GRPOTrainer and DQOTrainer get the same model,
prompts, reward and settings.

Every completion is forced to its full length without touching either trainer: the end-of-sequence token of tokenizer
and model is set to one whose id lies beyond the model's vocabulary, so nothing can ever sample it. That costs no logits
processor, holds for `generate`, continuous batching and shared rollouts alike, and is checked against the lengths the
host itself logs.
"""

import contextlib
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from dqo import DQOConfig, DQOTrainer
from dqo.models.policy import load_policy
from measurements import Job

ALPHA = 0.5
SPANS = ("time/generate", "time/reward", "time/embed", "time/credit", "time/rollout", "time/update")


class Stopwatch(TrainerCallback):
    """Wall time from the end of one optimizer step to the end of the next, so that nothing lies between two steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Every step but the first, which warms up."""
        return [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)]


def measure(job: Job) -> dict[str, Any]:
    """Runs one warm-up step and the steps of the job.

    Args:
        job: arm, lengths, settings.

    Returns:
        "step_s" (seconds of each measured step), "tokens_per_s" (completion tokens, each generated and trained on),
        "peak_mb" (of the process), "lengths" (shortest and longest completion), "spans" (median seconds by name, from
        the trainer's own clock; empty for stock), "threads".

    Raises:
        SystemExit: lengths that are not the job's.
    """
    model, tokenizer = load_policy(job.model, device="cpu")
    prompts = make_prompts(tokenizer, job)
    never_end(model, tokenizer)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(job, model, tokenizer, prompts, folder)
        trainer.add_callback(watch)
        trainer.train()
    logs = [entry for entry in trainer.state.log_history if "completions/min_length" in entry]
    check_lengths(job, logs)
    step_s = watch.seconds()
    return {
        "step_s": step_s,
        "tokens_per_s": job.rows * job.shape.completion / statistics.median(step_s),
        "peak_mb": peak_mb(),
        "lengths": [logs[-1]["completions/min_length"], logs[-1]["completions/max_length"]],
        "spans": {name: statistics.median(log[name] for log in logs[1:]) for name in SPANS if name in logs[-1]},
        "threads": torch.get_num_threads(),
    }


def build_trainer(job: Job, model: Any, tokenizer: Any, prompts: list[str], folder: str) -> GRPOTrainer:
    """The arm's trainer, on settings that are the same for every arm but for what the job says."""
    settings = {
        "per_device_train_batch_size": job.micro,
        "gradient_accumulation_steps": job.rows // job.micro,
        "gradient_checkpointing": job.checkpointing,
        "num_generations": job.shape.G,
        "max_completion_length": job.shape.completion,
        "max_steps": job.steps + 1,
        "bf16": job.dtype == "bf16",
        "use_cpu": True,
        "seed": job.seed,
        "scale_rewards": "batch",
        "beta": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_transformers_continuous_batching": job.engine == "continuous",
    }
    dataset = Dataset.from_dict({"prompt": prompts})
    if job.arm == "stock":
        args = GRPOConfig(folder, **settings)
        return GRPOTrainer(model, share_of_new_words, args=args, train_dataset=dataset, processing_class=tokenizer)
    shared = job.arm == "shared"
    args = DQOConfig(folder, alpha=ALPHA, encoder=job.encoder, shared_prefix=shared, **settings)
    trainer = DQOTrainer(model, share_of_new_words, args=args, train_dataset=dataset, processing_class=tokenizer)
    if trainer.shares_prefix != shared:
        sys.exit(f"expected a model whose prompts can be shared, but {job.model!r} is not one; name another --model.")
    return trainer


def share_of_new_words(completions: list[str], **_: Any) -> list[float]:
    """A task reward that costs nothing: distinct words over words."""
    return [len(set(text.split())) / max(1, len(text.split())) for text in completions]


def make_prompts(tokenizer: PreTrainedTokenizerBase, job: Job) -> list[str]:
    """Different prompts of exactly `job.shape.prompt` tokens for every step, made of words that are one token each."""
    source = random.Random(job.seed)
    ids = list(range(len(tokenizer)))
    source.shuffle(ids)
    words: list[str] = []
    for token in ids:
        word = tokenizer.decode([token]).strip()
        if word.isascii() and word.isalpha() and len(tokenizer(" " + word, add_special_tokens=False).input_ids) == 1:
            words.append(word)
        if len(words) == 200:
            break
    extra = len(tokenizer("").input_ids)  # a beginning-of-sequence token
    prompts = []
    for _ in range(job.prompts * (job.steps + 1)):
        prompts.append("".join(f" {word}" for word in source.choices(words, k=job.shape.prompt - extra)))
        if (length := len(tokenizer(prompts[-1]).input_ids)) != job.shape.prompt:
            sys.exit(
                f"expected a prompt of {job.shape.prompt} tokens, but the tokenizer of {job.model!r} made {length}."
            )
    return prompts


def never_end(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes the end-of-sequence token one that the model has no logit for."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    tokenizer.add_tokens([f"<|unused {i}|>" for i in range(max(0, vocabulary - len(tokenizer)))])
    tokenizer.add_special_tokens({"eos_token": "<|never|>"})
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    assert tokenizer.eos_token_id >= vocabulary


def check_lengths(job: Job, logs: list[dict]) -> None:
    """Refuses a measurement whose completions or prompts, by the host's own count, are not as long as asked for."""
    T = job.shape.completion
    lengths = {log[f"completions/{end}_length"] for log in logs for end in ("min", "max")}
    tokens, expected = logs[-1]["num_tokens"], (job.steps + 1) * job.rows * (job.shape.prompt + T)
    if len(logs) != job.steps + 1 or lengths != {T} or tokens != expected:
        sys.exit(
            f"expected {expected} tokens with completions of {T}, but the host counted {tokens:.0f} with completions "
            f"of {sorted(lengths)} over {len(logs)} steps."
        )


def peak_mb() -> float:
    """Most memory this process has held, in units of 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    """Measure what the command line says; the host's own prints go to stderr."""
    job = Job.from_json(sys.argv[1])
    score = Path("/proc/self/oom_score_adj")
    if score.exists():  # when memory runs out, this process shall go and not its driver or a neighbour
        score.write_text("1000")
    with contextlib.redirect_stdout(sys.stderr):
        result = measure(job)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
