"""What TRL, or a library behind it, refuses after it took the settings, told in one sentence."""

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dqo
from dqo.errors import DQOError, RecipeError, TrainingError
from dqo.files.records import Prompt
from dqo.models.weights import first_words
from dqo.train.inputs import prompt_lengths
from dqo.train.memory import memory_parts, policy_shape
from dqo.train.recipe import LoraSettings, Recipe

_PACKAGE = Path(dqo.__file__).parent
_HOSTS = ("accelerate", "datasets", "peft", "transformers", "trl")
# What we call with settings. Whatever else of TRL's we call with the wrong thing is a bug of ours.
_TAKE_SETTINGS = (
    "__init__", "__post_init__", "train", "create_optimizer", "create_scheduler", "get_reporting_integration_callbacks",
)  # fmt: skip


@contextmanager
def refusals_told(started: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turns an error about settings that comes out of TRL into a RecipeError.

    An error of our own code, of a library that it called, or of a part of TRL that takes no settings keeps its
    traceback: that is a bug, and nothing that a user can change. So does one that is not about values or packages.

    Args:
        started: Whether a step is done; from then on nothing is about settings.

    Raises:
        RecipeError: In the place of TRL's error.
    """
    try:
        yield
    except (DQOError, ModuleNotFoundError):
        raise
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        if started() or not _about_settings(error) or not _from_settings(error):
            raise
        raise RecipeError(f"trainer: TRL refuses these settings: {first_words(error)}; change them.") from error


def _about_settings(error: Exception) -> bool:
    """Whether the kind of error says so: torch raises RuntimeError for whatever goes wrong."""
    if not isinstance(error, RuntimeError):
        return True
    # a kind of RuntimeError that TRL raises for settings it does not offer, and one for a logger not installed
    return isinstance(error, NotImplementedError) or "to be installed" in str(error)


def _from_settings(error: Exception) -> bool:
    """Whether our code, where it was left last on the way to the error, had handed settings to TRL."""
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if not frame.filename.startswith("<")]  # of dataclasses
    left = max((place for place, one in enumerate(frames) if Path(one.filename).is_relative_to(_PACKAGE)), default=-1)
    if left + 1 >= len(frames):
        return False
    entered = frames[left + 1]
    return entered.name in _TAKE_SETTINGS and any(host in Path(entered.filename).parts for host in _HOSTS)


# A run that runs out of memory says what takes it, by the numbers, and which setting brings it down.

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
