"""A policy small enough to train for real in a test: a random two-layer Llama over a word-level vocabulary."""

import json
import sys

import forking
import pytest
import torch
import yaml

WORDS = [
    "the", "a", "dog", "cat", "bird", "runs", "sings", "sleeps", "eats", "red", "blue", "green", "big", "small", "old",
    "new", "house", "tree", "river", "and", "or", "not", "with", "near", "over", "under", "fast", "slow", "happy",
    "sad",
]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Word-level tokenizer with chat template, eos, and left padding, as a policy's tokenizer has."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", "user", "assistant", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    return tokenizer


@pytest.fixture
def tiny_policy(tiny_tokenizer):
    """A fresh copy of the same random policy for every test."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=tiny_tokenizer.pad_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    torch.random.set_rng_state(state)
    return model


@pytest.fixture
def tiny_policy_folder(tiny_policy, tiny_tokenizer, tmp_path):
    """The tiny policy saved as a Hugging Face folder, as `--model` takes it."""
    folder = tmp_path / "tiny-policy"
    tiny_policy.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


# A task of the user's own, small enough to train on in a second, and the command line in a fresh process.

REWARD = """
import os
import time
from pathlib import Path

CALLS = Path(__file__).with_name("calls")


def words(prompts, completions, **columns):
    return [min(1.0, len(text.split()) / 8) for text in completions]


def killed_at_the_fourth_call(prompts, completions, **columns):
    calls = int(CALLS.read_text()) if CALLS.exists() else 0
    CALLS.write_text(str(calls + 1))
    if calls == 3:
        os.kill(os.getpid(), 9)
    return words(prompts, completions)


def terminated_at_the_second_call(prompts, completions, **columns):
    calls = int(CALLS.read_text()) if CALLS.exists() else 0
    CALLS.write_text(str(calls + 1))
    if calls == 1:
        os.kill(os.getpid(), 15)
    return words(prompts, completions)


def slowly(prompts, completions, **columns):
    time.sleep(0.3)
    return words(prompts, completions)


def raises_at_the_third_call(prompts, completions, **columns):
    calls = int(CALLS.read_text()) if CALLS.exists() else 0
    CALLS.write_text(str(calls + 1))
    if calls == 2:
        raise KeyError(completions[0])
    return words(prompts, completions)
"""


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("the dog", "a cat", "red house", "old tree")))
    return path


@pytest.fixture
def own_recipe(tmp_path, tiny_policy_folder, prompt_file):
    """Writes a recipe that trains the tiny policy for three steps; top-level settings by keyword, returns its path."""

    def write(trainer=None, reward="words", **changes):
        (tmp_path / "reward.py").write_text(REWARD)
        recipe = {
            "model": str(tiny_policy_folder),
            "task": "jsonl",
            "task_options": {
                "reward": f"{tmp_path / 'reward.py'}:{reward}", "train": str(prompt_file), "max_completion_length": 6
            },
            "output_dir": str(tmp_path / "run"),
            "encoder": "hashed",
            "trainer": {
                "use_cpu": True, "max_steps": 3, "num_generations": 4, "save_steps": 2, "learning_rate": 1e-2,
                "per_device_train_batch_size": 8, "gradient_checkpointing": False, **(trainer or {}),
            },
        } | changes  # fmt: skip
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write


@pytest.fixture
def dqo_process():
    """`python -m dqo ARGS` in a process of its own, forked from one that has imported dqo."""

    def start(*args):
        return forking.run([sys.executable, "-m", "dqo", *map(str, args)], capture_output=True, text=True)

    return start
