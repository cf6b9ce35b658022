"""One decoding step of SmolLM2-135M on a CPU: the host's cache, a static one, the same compiled, and dqo's rollout.

    python benchmarks/decoding.py

Every way decodes the same number of rows after one prompt, sampling included: seconds a step once the prompt is read,
the first steps (of the compiled one: the compilation) told apart. Nothing else should run.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

from dqo.models.policy import load_policy
from dqo.models.rollout import Sampling, generate_shared
from dqo.models.rollout_cache import cache_keyword

WARM, STEPS = 16, 40


def steps_of_host(forward: Callable, model: PreTrainedModel, rows: Tensor, cache: Cache) -> list[float]:
    """Seconds of every decoding step through the host's forward, each row with the prompt's keys of its own.

    Args:
        forward: the model's, or a compiled one.
        model: the policy, for the prompt.
        rows: (R, L) token ids, the prompt in every row.
        cache: empty, with room for `WARM + STEPS` tokens more.

    Returns:
        `WARM + STEPS` numbers.
    """
    keyword, (R, L) = cache_keyword(model), rows.shape
    logits = model(rows, use_cache=True, logits_to_keep=1, **{keyword: cache}).logits[:, -1]  # (R, V)
    seconds = []
    for step in range(WARM + STEPS):
        start = time.perf_counter()
        tokens = torch.multinomial(logits.softmax(-1), 1)  # (R, 1)
        positions = torch.full((R, 1), L + step)  # (R, 1)
        logits = forward(tokens, position_ids=positions, use_cache=True, logits_to_keep=1, **{keyword: cache}).logits
        logits = logits[:, -1]  # (R, V)
        seconds.append(time.perf_counter() - start)
    return seconds


def step_of_dqo(model: PreTrainedModel, prompt: list[int], R: int) -> float:
    """Seconds a step: a rollout of `WARM + STEPS` tokens less one of `WARM`."""
    taken = []
    for tokens in (WARM, WARM + STEPS):
        start = time.perf_counter()
        generate_shared(
            model, [prompt] * R, sampling=Sampling(), max_new_tokens=tokens, eos_token_ids=[], pad_token_id=0
        )
        taken.append(time.perf_counter() - start)
    return (taken[1] - taken[0]) / STEPS


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, nargs="+", default=[48, 512], help="tokens of the prompt")
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 16], help="rows decoded together")
    options = parser.parse_args()
    model, _ = load_policy("HuggingFaceTB/SmolLM2-135M-Instruct", device="cpu")
    model.eval()
    compiled = torch.compile(model.forward, dynamic=False)
    print(
        f"{torch.get_num_threads()} threads, seconds a step\nprompt rows  host  static  compiled (first steps)    dqo"
    )
    for L in options.prompt:
        prompt = torch.randint(3, 40000, (L,), generator=torch.Generator().manual_seed(0)).tolist()
        for R in options.rows:
            rows, room = torch.tensor([prompt] * R), L + WARM + STEPS  # (R, L)
            step_of_dqo(model, prompt, R)  # allocations and code paths of a first use
            host = steps_of_host(model.forward, model, rows, DynamicCache())
            static, fast = (
                steps_of_host(forward, model, rows, StaticCache(model.config, max_cache_len=room))
                for forward in (model.forward, compiled)
            )
            plain, still, quick = (statistics.median(seconds[WARM:]) for seconds in (host, static, fast))
            print(f"{L:6} {R:4} {plain:5.3f}  {still:6.3f}  {quick:8.3f} ({sum(fast[:WARM]):9.1f} s)  "
                  f"{step_of_dqo(model, prompt, R):5.3f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
