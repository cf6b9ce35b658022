"""Samples with a tiny model in child processes that are killed at seeded random times, until one finishes.

Run as `python kill_sampling.py FOLDER SEED`; prints the number of kills and of lines that were there at the last of
them. Forks before torch starts a thread of its own.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dqo.evaluation.engines import Asked, LocalModel
from dqo.evaluation.sampling import sample_from
from dqo.files.records import Prompt

PROMPTS = [Prompt(f"p{i}", f"w{i} w{i + 1}", [], {}) for i in range(40)]


def policy():
    raw = Tokenizer(
        models.WordLevel({"<eos>": 0, "<unk>": 1, **{f"w{i}": i + 2 for i in range(60)}}, unk_token="<unk>")
    )
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<eos>", eos_token="<eos>", unk_token="<unk>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=62, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config), tokenizer


def sample(out):
    asked = Asked(seed=1, max_new_tokens=24, temperature=1.0)
    return sample_from(LocalModel(*policy(), asked, batch_size=7), PROMPTS, 5, out=out)


def lines(path):
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def main(folder, seed):
    path, kept, kills, rng = folder / "groups.jsonl", [], 0, random.Random(seed)
    while True:
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            sample(folder)
            os._exit(0)
        # anywhere, and on average a third later each time, so that it ends on a busy machine too
        deadline = time.monotonic() + rng.uniform(0.02, 0.12) * 1.35**kills
        finished = False
        while time.monotonic() < deadline and not finished:
            finished = os.waitpid(child, os.WNOHANG) != (0, 0)
            time.sleep(0.005)
        if finished:
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        now = lines(path)
        assert now[: len(kept)] == kept, "a finished line was lost or changed"
        assert all(json.loads(line)["responses"] for line in now), "a line is whole or not there"
        kept = now
    print(kills, len(kept))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
