"""What a recipe's numbers and names must satisfy before anything is loaded: above zero, whole groups, two encoders."""

import os
from collections.abc import Mapping
from typing import Any

from dqo.errors import RecipeError

_SEEDS = 2**32  # numpy's limit
_ABOVE_ZERO = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "num_iterations",
               "max_completion_length", "temperature", "learning_rate", "logging_steps", "steps_per_generation",
               "generation_batch_size", "num_train_epochs", "repetition_penalty", "epsilon", "epsilon_high", "delta",
               "adam_epsilon")  # fmt: skip
_AT_LEAST_ZERO = ("beta", "weight_decay", "max_grad_norm", "warmup_steps", "top_k")
_SHARES = {"top_p": (0.0, 1.0), "min_p": (None, 1.0), "adam_beta1": (None, 1.0), "adam_beta2": (None, 1.0)}
_LEVELS = ("token", "sequence")  # of GSPO's importance ratio; the host finds out after its first rollout


def check_numbers(trainer: Mapping[str, Any], seed: int) -> None:
    """Refuse what the host would take and compute with: signs, shares and names that mean nothing."""
    if not 0 <= seed < _SEEDS:
        raise RecipeError(f"`seed` must be at least 0 and below 2^32, got {seed}; change the value.")
    for name in _ABOVE_ZERO:
        value = trainer.get(name)
        if value is not None and value <= 0:
            raise RecipeError(f"`trainer.{name}` must be above 0, got {value}; change the value.")
    for name in _AT_LEAST_ZERO:
        value = trainer.get(name)
        if value is not None and value < 0:
            raise RecipeError(f"`trainer.{name}` must be at least 0, got {value}; change the value.")
    for name, (above, most) in _SHARES.items():
        value = trainer.get(name)
        if value is not None and not (0 <= value <= most and value != above):
            raise RecipeError(f"`trainer.{name}` must lie between 0 and {most:g}, got {value}; change the value.")
    if (steps := trainer.get("max_steps")) is not None and steps < 1 and steps != -1:
        raise RecipeError(f"`trainer.max_steps` must be at least 1, or -1 for whole epochs, got {steps}; change it.")
    level = trainer.get("importance_sampling_level")
    if level not in (None, *_LEVELS):
        raise RecipeError(f"`trainer.importance_sampling_level` must be one of {', '.join(_LEVELS)}, got {level!r}.")


def check_whole_groups(trainer: Mapping[str, Any]) -> None:
    """A generation batch must hold whole groups; says how it comes about and what would fit."""
    size, processes = trainer["num_generations"], int(os.environ.get("WORLD_SIZE", "1"))
    rows = trainer["per_device_train_batch_size"] * processes
    steps = trainer["steps_per_generation"] or trainer["gradient_accumulation_steps"]
    given = trainer["generation_batch_size"]
    if size is None:
        raise RecipeError("`trainer.num_generations` must be a number of responses a prompt, got null; set it.")
    if (given or rows * steps) % size:
        product = (
            f"{rows * steps} rows (trainer.per_device_train_batch_size {trainer['per_device_train_batch_size']} x "
            f"{processes} processes x {steps} accumulated); make the product"
        )
        raise RecipeError(
            f"a step must hold whole groups of trainer.num_generations = {size} responses, got "
            f"{f'trainer.generation_batch_size = {given}; make it' if given else product} a multiple of {size}."
        )


def outside_training(encoder: str, model: str) -> str:
    """The encoder by a name that means the same outside of the run: `policy` is the run's own start.

    Args:
        encoder: As a recipe names it.
        model: The policy that the run starts from.

    Returns:
        A name that `load_embedder` takes.
    """
    return f"policy:{model}" if encoder == "policy" else encoder


def check_heldout(heldout: str | None, encoder: str) -> None:
    """Refuse a second judge that is the first.

    Args:
        heldout: Name of the encoder for evaluation only, if there is one.
        encoder: Name of the one that measures diversity in training.

    Raises:
        RecipeError: They are one, be it by two names.
    """
    from dqo.embedders.loading import canonical

    if heldout is not None and canonical(heldout) == canonical(encoder):
        names = f"{heldout!r} for both" if heldout == encoder else f"{heldout!r}, another name of {encoder!r}"
        raise RecipeError(
            f"heldout_encoder: expected another encoder than `encoder`, which it checks, got {names}; choose another, "
            "or remove it."
        )
