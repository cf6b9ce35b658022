"""A run that runs out of memory says what takes it, by the numbers, and which setting brings it down."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dqo.cli.lora import LoraSettings
from dqo.cli.memory import memory_parts, policy_shape
from dqo.cli.recipe import Recipe
from dqo.cli.run_inputs import prompt_lengths
from dqo.errors import TrainingError
from dqo.records import Prompt

# What grows with the rows of one pass. The rest is there whatever the batch is.
_BY_ROWS = ("activations", "logits", "keys and values")


@contextmanager
def memory_explained(recipe: Recipe, prompts: list[Prompt], trainer: Any) -> Iterator[None]:
    """Turns a failed allocation, on an accelerator or on the processor, into one sentence with the arithmetic.

    Args:
        recipe: Of the run.
        prompts: What it trains on.
        trainer: What trains it.

    Raises:
        TrainingError: In the place of the failed allocation.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in str(error):
            raise
        raise TrainingError(_explanation(recipe, prompts, trainer, str(error))) from error


def _explanation(recipe: Recipe, prompts: list[Prompt], trainer: Any, told: str) -> str:
    config, lora = recipe.config, LoraSettings(**recipe.lora)
    shape = policy_shape(trainer.model.config, lora.r if recipe.lora else None, lora.target_modules)
    longest = max(prompt_lengths(prompts, trainer.processing_class, recipe))
    parts = memory_parts(shape, config, recipe.dtype, longest)
    by_rows = max((name for name in _BY_ROWS if name in parts), key=parts.__getitem__)
    rows, tokens = config.per_device_train_batch_size, longest + config.max_completion_length
    return (
        f"step {trainer.state.global_step + 1}: out of memory{_asked_for(told)}; a process takes about "
        f"{sum(parts.values()):.2g} GiB: " + ", ".join(f"{name} {value:.2g}" for name, value in parts.items())
        + f", of which {by_rows} come from {rows} rows of up to {tokens} tokens at a time; "
        f"{_remedy(recipe, rows, parts, by_rows)}."
    )  # fmt: skip


def _asked_for(told: str) -> str:
    """What the allocator could not give, in its own unit."""
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ ?(?:[KMGT]i?B|bytes))", told)
    if asked is None:
        return ""
    size = asked[1]
    return f" on asking for {int(size[:-6]) / 2**30:.2g} GiB" if size.endswith("bytes") else f" on asking for {size}"


def _remedy(recipe: Recipe, rows: int, parts: dict[str, float], by_rows: str) -> str:
    """The setting that takes most off; the fixed part can only be divided or left untrained."""
    fixed = sum(value for name, value in parts.items() if name not in _BY_ROWS)
    if fixed > sum(parts.values()) / 2 and not recipe.lora:
        return "most of it does not depend on the batch, so set lora={r: 16}, or shard it with FSDP or DeepSpeed"
    if by_rows == "activations" and not recipe.config.gradient_checkpointing:
        return "set trainer.gradient_checkpointing=true, which may be added to --resume"
    if rows > 1:
        passes = recipe.config.gradient_accumulation_steps
        return (
            f"start anew with trainer.per_device_train_batch_size={rows // 2} and "
            f"trainer.gradient_accumulation_steps={passes * 2}, the same batch in smaller passes"
        )
    return "lower trainer.max_completion_length, or leave out the longest prompts"
