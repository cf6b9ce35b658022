"""Sampling n responses a prompt for an evaluation: each prompt read once against the host's `generate` on every row.

Run `python benchmarks/sampling.py`, with `--model`, `--tokens`, `--json FILE`. Both ways draw with the same random
numbers, so their responses can be compared; times are those of the process's CPU where there is no accelerator, which
other work on the machine stretches less than wall time.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dqo.evaluation.engines import Asked, LocalModel
from dqo.evaluation.sampling import Request
from dqo.models.policy import DEFAULT_POLICY, load_policy
from dqo.tasks import load_task

_PADDING = "Here is what happened before. " * 60  # about 360 tokens in front of a short prompt


def requests(prompts: int, n: int, long: bool) -> list[Request]:
    """Requests for n responses to each of some prompts of the concepts task."""
    texts = [prompt.prompt for prompt in load_task("concepts").prompts("test")[:prompts]]
    return [Request(str(p), i, _PADDING * long + text) for p, text in enumerate(texts) for i in range(n)]


def timed(draw: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    clock = time.perf_counter if torch.accelerator.is_available() else time.process_time
    start = clock()
    return draw(), clock() - start


def measure(source: LocalModel, asked: list[Request]) -> dict[str, float]:
    """Seconds of both ways over the same requests, and the share of responses that are the same."""
    numbers = torch.stack([source._uniforms(request) for request in asked])  # (N, T)
    ids = [source._encode(request) for request in asked]
    source._shared(ids[:2], numbers[:2])
    shared, fast = timed(lambda: source._shared(ids, numbers))
    plain, slow = timed(lambda: source._by_host(ids, numbers))
    same = [source._answer(a) == source._answer(b) for a, b in zip(shared, plain, strict=True)]
    return {"prompt_tokens": max(map(len, ids)), "shared_s": fast, "host_s": slow, "speedup": slow / fast,
            "tokens": sum(map(len, shared)), "same_responses": sum(same) / len(same)}  # fmt: skip


def main() -> None:
    """Measure short and long prompts and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_POLICY)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    asked = Asked(seed=0, max_new_tokens=args.tokens, temperature=1.0)
    source = LocalModel(*load_policy(args.model, device=device), asked, args.prompts * args.n)
    found = {name: measure(source, requests(args.prompts, args.n, name == "long")) for name in ("short", "long")}
    for name, row in found.items():
        print(f"{name} prompts: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
    if args.json:
        args.json.write_text(json.dumps(vars(args) | {"json": None, "results": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
