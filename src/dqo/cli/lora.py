"""LoRA from a recipe: train low-rank additions to a frozen policy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dqo.errors import RecipeError
from dqo.hub import first_words

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True)
class LoraSettings:
    """What a recipe says under `lora`.

    Attributes:
        r: Rank of the additions.
        alpha: Their scale, which is alpha / r.
        dropout: Share of their inputs dropped in training.
        target_modules: Names of the layers, or "all-linear".
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: list[str] | str = "all-linear"


def peft_config(lora: dict[str, Any]) -> "LoraConfig | None":
    """Settings of the package peft.

    Args:
        lora: Fields of `LoraSettings`.

    Returns:
        LoraConfig, None where the recipe says nothing: all weights are trained.

    Raises:
        RecipeError: Settings that peft refuses.
    """
    if not lora:
        return None
    from peft import LoraConfig

    settings = LoraSettings(**lora)
    if settings.r < 1:
        raise RecipeError(f"`lora.r` must be at least 1, got {settings.r}; change the value.")
    try:
        return LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=settings.target_modules,
            task_type="CAUSAL_LM",
        )
    except (ValueError, TypeError) as error:
        raise RecipeError(f"lora: peft refuses these settings ({first_words(error)}); change them.") from error
