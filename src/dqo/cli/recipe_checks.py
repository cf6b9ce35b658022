"""What a recipe's numbers and names must satisfy before anything is loaded: above zero, whole groups, two encoders."""

import os
from collections.abc import Mapping
from typing import Any

from dqo.errors import RecipeError

_SEEDS = 2**32  # numpy's limit
_ABOVE_ZERO = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "num_iterations",
               "max_completion_length", "temperature", "learning_rate", "logging_steps")  # fmt: skip


def check_numbers(trainer: Mapping[str, Any], seed: int) -> None:
    """Refuse sizes, lengths and rates that are not above 0, and a seed that a generator does not take."""
    if not 0 <= seed < _SEEDS:
        raise RecipeError(f"`seed` must be at least 0 and below 2^32, got {seed}; change the value.")
    for name in _ABOVE_ZERO:
        value = trainer.get(name)
        if value is not None and value <= 0:
            raise RecipeError(f"`trainer.{name}` must be above 0, got {value}; change the value.")


def check_whole_groups(trainer: Mapping[str, Any]) -> None:
    """A generation batch must hold whole groups; says how it comes about and what would fit."""
    size, processes = trainer["num_generations"], int(os.environ.get("WORLD_SIZE", "1"))
    rows = trainer["per_device_train_batch_size"] * processes
    steps = trainer["steps_per_generation"] or trainer["gradient_accumulation_steps"]
    total = trainer["generation_batch_size"] or rows * steps
    if total % size:
        raise RecipeError(
            f"a step must hold whole groups of trainer.num_generations = {size} responses, got {total} rows "
            f"(trainer.per_device_train_batch_size {trainer['per_device_train_batch_size']} x {processes} processes x "
            f"{steps} accumulated); make the product a multiple of {size}."
        )


def check_heldout(heldout: str | None, encoder: str) -> None:
    """Refuse a second judge that is the first.

    Args:
        heldout: Name of the encoder for evaluation only, if there is one.
        encoder: Name of the one that measures diversity in training.

    Raises:
        RecipeError: They are one.
    """
    if heldout == encoder:
        raise RecipeError(
            f"heldout_encoder: expected another encoder than the one that is trained on, got {heldout!r} for both; "
            "choose another, or remove it."
        )
