"""`dqo sample`: responses of a model to the prompts of a file, and the sampling that `dqo eval` shares."""

import argparse
from pathlib import Path

import torch

from dqo.cli.run_folder import model_source
from dqo.evaluation.sample import sample_groups
from dqo.models import load_policy
from dqo.records import Group, Prompt, read_prompts

DEFAULT_LENGTH = 256  # tokens of a response where no task says better


def run(args: argparse.Namespace) -> None:
    """Write DIR/groups.jsonl.

    Args:
        args: `model`, `data`, `out` and the sampling flags.

    Raises:
        DQOError: A data file, model or number that does not do.
    """
    groups = sample(args, read_prompts(args.data), DEFAULT_LENGTH)
    print(f"Sampled {args.n} responses to each of {len(groups)} prompts: {Path(args.out) / 'groups.jsonl'}")


def sample(args: argparse.Namespace, prompts: list[Prompt], default_length: int) -> list[Group]:
    """Groups sampled as the flags say, on the accelerator where there is one; an unfinished DIR is continued.

    Args:
        args: `model`, `out`, `n`, `seed`, `limit`, `max_new_tokens`, `batch_size` and `temperature`.
        prompts: What to ask.
        default_length: Longest response in tokens where the flags give none.

    Returns:
        One group of `n` responses a prompt.

    Raises:
        ModelError: No such model, or a run that has not finished.
        DataError: A number out of range, or an `out` that holds something else.
    """
    Path(args.out).mkdir(parents=True, exist_ok=True)  # an unwritable place fails before the model is loaded
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    model, tokenizer = load_policy(model_source(args.model), device=device)
    return sample_groups(
        model,
        tokenizer,
        prompts[: args.limit],
        args.n,
        seed=args.seed,
        max_new_tokens=args.max_new_tokens or default_length,
        batch_size=args.batch_size,
        temperature=args.temperature,
        out=args.out,
    )
