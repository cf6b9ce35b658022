"""`dqo train` on fixed completions, for `accelerate launch` with any number of processes.

    replayed_train.py [--fsdp-on-cpu] [--sampled] RECIPE [key=value ...]

The completions of a rollout depend on its number and on the global position of a row only, so that runs with
different numbers of processes see the same batches; --sampled lets the policy write them. Everything else is the
command line's own.
"""

import os
import sys
from functools import partial

import torch
from accelerate.state import DistributedType, PartialState

CALLS = 8
EOS, FIRST, LAST = 1, 5, 34  # of the tiny tokenizer: the end, and the range of its words
GENERATOR = torch.Generator().manual_seed(7)
TABLE = [
    torch.randint(FIRST, LAST + 1, (int(length),), generator=GENERATOR).tolist() + [EOS] * (int(length) % 2)
    for length in torch.randint(1, 6, (CALLS * 64,), generator=GENERATOR)
]
TABLE[3] = TABLE[1]  # a copy inside a group


def replay(prompts, trainer):
    """Rollout hook: the table's rows of this rollout at this process's global positions."""
    call = trainer.replayed = getattr(trainer, "replayed", -1) + 1
    start = 64 * call + trainer.accelerator.process_index * len(prompts)
    rows = TABLE[start : start + len(prompts)]
    heads = [trainer.processing_class(p if isinstance(p, str) else p[0]["content"]).input_ids for p in prompts]
    return {"prompt_ids": heads, "completion_ids": rows, "logprobs": [[0.0] * len(ids) for ids in rows]}


def fsdp_on_cpu():
    """accelerate shards over accelerators only; called one, the CPU goes the same way, over gloo."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)


def main(arguments):
    """Run `dqo train`, with the rollout hook in every trainer unless the policy samples."""
    flags = {flag for flag in ("--fsdp-on-cpu", "--sampled") if flag in arguments}
    arguments = [argument for argument in arguments if argument not in flags]
    if "--fsdp-on-cpu" in flags:
        fsdp_on_cpu()
    from dqo.cli.main import main as dqo
    from dqo.train import run as train

    if "--sampled" not in flags:
        train.TRAINERS = {name: partial(host, rollout_func=replay) for name, host in train.TRAINERS.items()}
    return dqo(["train", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
