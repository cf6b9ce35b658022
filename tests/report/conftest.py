"""Run folders as training and evaluation leave them, from sentences a small model might write."""

import math
import random
from types import SimpleNamespace

import pytest
import yaml

from dqo.embedders import HashedEmbedder
from dqo.evaluation.run import evaluate
from dqo.files.records import Group, append_jsonl

SCENES = [
    ("dog", "ball", "park"), ("woman", "bread", "kitchen"), ("boat", "river", "storm"), ("child", "kite", "beach"),
    ("cook", "knife", "onion"), ("bird", "nest", "tree"), ("teacher", "chalk", "board"), ("train", "bridge", "snow"),
]  # fmt: skip
OPENINGS = [
    "The {0} chased a {1} all over the {2} until it was dark.", "In the {2}, a {0} found an old {1} under the leaves.",
    "Nobody knew why the {0} had left the {1} in the {2}.", "A {1} and a {0} were all that remained of the {2}.",
    "She painted the {2} with a {0} on one side and a {1} on the other.",
    "Every morning the {0} carries the {1} past the {2}.",
    "Without the {1}, the {0} would never have crossed the {2}.", "He sold the {1} to a {0} he met near the {2}.",
    "Two friends watched a {0} drop its {1} into the {2}.", "When the {2} was quiet, the {0} slept beside the {1}.",
]  # fmt: skip
NASTY = [
    "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>",
    "</script><script>window.ran = 3</script>",
    "abc \u202e cba \u202c and {{ 7 * 7 }} <!-- ",
    "\u05e9\u05dc\u05d5\u05dd עולם, hello \u2067 mixed \u2069",
    "",
]


def groups(diversity, skill, prompts=24, n=10, seed=0, nasty=False):
    """Groups whose responses use `diversity` of the ten openings, and all words of the scene with chance `skill`."""
    rng = random.Random(seed)
    made = []
    for p in range(prompts):
        scene = SCENES[p % len(SCENES)]
        known = rng.sample(OPENINGS, max(1, round(diversity * len(OPENINGS))))
        responses, rewards = [], []
        for _ in range(n):
            right = rng.random() < skill
            words = scene if right else (scene[0], scene[1], "street")
            responses.append(rng.choice(known).format(*words))
            rewards.append(1.0 if right else round(rng.uniform(0.2, 0.6), 3))
        if nasty and p == 0:
            responses[: len(NASTY)] = NASTY
            responses[len(NASTY)] = "long " * 200_000
        finish = ["length" if rng.random() < 0.06 else "eos" for _ in responses]
        prompt = f"Write one sentence about an everyday scene that uses the words {', '.join(scene)}. (No. {p})"
        made.append(Group(f"test-{p}", prompt, list(scene), responses, finish, rewards, {}))
    return made


def evaluated(folder, seed=0, heldout=True, **shape):
    """An evaluation folder as `dqo eval` writes it."""
    judge = HashedEmbedder(64) if heldout else None
    evaluate(groups(seed=seed, **shape), encoder=HashedEmbedder(128), heldout_encoder=judge, out=folder)
    return folder


def trained(folder, alpha, end_quality, end_vendi, steps=60, finished=True, hack=True, **shape):
    """A run folder: config, log and evaluation."""
    rng = random.Random(str(folder.name))
    config = {
        "task": "concepts", "model": "HuggingFaceTB/SmolLM2-135M-Instruct", "alpha": alpha, "combine": "add",
        "seed": 42, "encoder": "hashed:128", "trainer":
        {"learning_rate": 1e-4, "max_steps": steps, "num_generations": 8, "beta": 0.01},
    }  # fmt: skip
    resolved = {
        "device": "cpu", "attention": "sdpa", "trainer": {"use_cpu": True, "bf16": False},
        "versions": {"dqo": "0.1.0", "torch": "2.13.0", "trl": "1.16.0", "transformers": "5.16.1"},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "resolved.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))
    for step in range(1, steps + 1):
        done = 1 - math.exp(-3.5 * step / steps)
        noise = lambda size: rng.gauss(0, size)  # noqa: E731
        row = {
            "step": step, "quality": 0.42 + (end_quality - 0.42) * done + noise(0.03),
            "diversity/credit": 0.55 + 0.1 * (end_vendi - 6) / 6 * done + noise(0.008),
            "diversity/credit_std": 0.05 + noise(0.004),
            "diversity/vendi": 6.4 + (end_vendi - 6.4) * done + noise(0.2),
            "diversity/cosine_distance": 0.6 * (1 - done / 2),
            "alpha": alpha, "alpha_effective": alpha / (0.3 + noise(0.02)), "kl": 0.04 * done + abs(noise(0.003)),
            "loss": noise(0.02), "reward": 0.5 + 0.4 * done, "grad_norm": 1 + abs(noise(0.4)), "learning_rate": 1e-4,
            "entropy": 2.4 - 1.1 * done + noise(0.05), "completions/mean_length": 22 + 6 * done + noise(1.5),
            "completions/clipped_ratio": max(0.0, 0.1 - 0.08 * done + noise(0.01)), "num_tokens": step * 4200,
            "frac_reward_zero_std": 0.1 + 0.3 * done, "rewards/concepts/mean": 0.42 + (end_quality - 0.42) * done,
            "time/step": 9 + noise(0.5), "time/rollout": 4.2, "time/generate": 3.6 + noise(0.1), "time/reward": 0.12,
            "time/embed": 0.31 + noise(0.02), "time/credit": 0.004, "time/update": 4.8,
        }  # fmt: skip
        if hack:
            row |= {"hack/length_drift": 0.02 + 0.12 * done + noise(0.01), "hack/repetition": abs(noise(0.01))}
        append_jsonl(folder / "metrics.jsonl", row)
    if finished:
        (folder / "checkpoints" / "final").mkdir(parents=True)
    evaluated(folder / "eval", **shape)
    return folder


def three_runs(root):
    """A base model, a collapsed run and a diverse one, hostile responses among them."""
    return [
        evaluated(root / "base" / "eval", diversity=1.0, skill=0.4, nasty=True, seed=1),
        trained(root / "reward-only", 0.0, 0.95, 2.0, diversity=0.2, skill=0.97, seed=2),
        trained(root / "dqo-alpha-1", 1.0, 0.9, 5.6, diversity=0.8, skill=0.9, seed=3),
    ]


@pytest.fixture(scope="session")
def samples():
    """Makers of groups, evaluation folders and run folders."""
    return SimpleNamespace(groups=groups, evaluated=evaluated, trained=trained, nasty=NASTY)


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory):
    return three_runs(tmp_path_factory.mktemp("runs"))
