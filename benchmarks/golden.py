"""Trains GRPO, RLOO and PPO on another commit and on this tree, and compares logs and weights byte for byte.

    python benchmarks/golden.py --against REV

checks REV out into a temporary worktree, runs the same six-step trainings on both trees (float32, one thread, no shared
prompts), and prints one line per run. Exit status 1 where a log line (clocks aside) or a weight differs.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CLOCKS = ("time/", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
RUNS = {
    "grpo": {"combine": "quality_weighted", "beta": 0.1, "num_iterations": 2, "scale_rewards": "group"},
    "rloo": {"combine": "gate", "quality_threshold": 0.3, "beta": 0.1},
    "ppo": {"combine": "add", "beta": 0.1, "kl_in": "reward", "num_iterations": 2},
}


def quality(completions, **columns):
    """Share of words of at most three letters."""
    return [sum(len(word) <= 3 for word in text.split()) / max(1, len(text.split())) for text in completions]


def build_trainer(kind: str, folder: Path, **more: Any) -> Any:
    """Makes the trainer of one run, with the `dqo` that is importable; `more` are settings on top."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import dqo
    from tiny import WORDS, save_tiny_policy

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    save_tiny_policy(folder / "start")
    policy, tokenizer = (auto.from_pretrained(folder / "start") for auto in (AutoModelForCausalLM, AutoTokenizer))
    name = {"grpo": "DQO", "rloo": "DQORLOO", "ppo": "DQOPPO"}[kind]
    settings = RUNS[kind] | {
        "alpha": 0.5, "encoder": "hashed", "shared_prefix": False, "num_generations": 4, "max_steps": 6, "seed": 3,
        "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "max_completion_length": 8,
        "learning_rate": 1e-2, "logging_steps": 1, "bf16": False, "use_cpu": True, "report_to": [],
        "save_strategy": "no", "disable_tqdm": True,
    } | more  # fmt: skip
    prompts = [" ".join(WORDS[i : i + 4]) for i in range(8)]
    return getattr(dqo, f"{name}Trainer")(
        policy, reward_funcs=quality, args=getattr(dqo, f"{name}Config")(str(folder / kind), **settings),
        train_dataset=Dataset.from_dict({"prompt": prompts}), processing_class=tokenizer,
    )  # fmt: skip


def train(kind: str, folder: Path) -> dict:
    """One run: its log without clocks, and a digest of every weight."""
    trainer = build_trainer(kind, folder)
    trainer.train()
    log = [{k: v for k, v in line.items() if not k.startswith(CLOCKS)} for line in trainer.state.log_history]
    networks = {"policy": trainer.model, "critic": getattr(trainer, "critic", None)}
    weights = {
        f"{network}.{key}": hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()
        for network, module in networks.items()
        if module is not None
        for key, value in module.state_dict().items()
    }
    return {"log": log, "weights": weights}


def run(tree: Path, kind: str, out: Path) -> dict:
    """`train` in a process of its own, with the package of `tree`."""
    out.mkdir(parents=True)
    env = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", kind, "--out", str(out)]
    done = subprocess.run(command, env=env, cwd=out, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{kind} on {tree} failed:\n{done.stderr[-3000:]}")
    return json.loads((out / "found.json").read_text())


def compare(kind: str, before: dict, after: dict) -> list[str]:
    """What differs between two runs, in words."""
    found = []
    for old, new in zip(before["log"], after["log"], strict=True):
        found += [
            f"step {old.get('step')}: {name} was {old.get(name)!r}, is {new.get(name)!r}"
            for name in sorted(old.keys() | new.keys())
            if json.dumps(old.get(name)) != json.dumps(new.get(name))
        ]
    names = before["weights"].keys() | after["weights"].keys()
    return found + [f"weight {n}" for n in sorted(names) if before["weights"].get(n) != after["weights"].get(n)]


@contextmanager
def tree_of(revision: str, folder: Path) -> Iterator[Path]:
    """A commit in a worktree of its own, which is removed afterwards."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def main() -> int:
    """Compare, or train as a child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", help="commit to compare with")
    parser.add_argument("--child", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        (options.out / "found.json").write_text(json.dumps(train(options.child, options.out)))
        return 0
    if not options.against:
        parser.error("--against: expected a commit to compare with")
    differing = 0
    with tempfile.TemporaryDirectory() as folder, tree_of(options.against, Path(folder) / "base") as base:
        for kind in RUNS:
            before, after = (run(tree, kind, Path(folder) / f"{kind}-{i}") for i, tree in enumerate((base, ROOT)))
            found = compare(kind, before, after)
            steps = sum("loss" in line for line in before["log"])
            size = f"{steps} steps, {len(before['weights'])} weights"
            print(f"{kind}: {size}: {'equal to the last bit' if not found else f'{len(found)} differences'}")
            print("".join(f"  {line}\n" for line in found[:10]), end="")
            differing += bool(found)
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
