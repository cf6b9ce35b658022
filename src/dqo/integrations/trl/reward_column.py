"""The reward column that diversity enters by, and what may stand beside it."""

from itertools import count
from typing import Any

import torch

from dqo.errors import RecipeError
from dqo.rewards import CheckedReward

COLUMN = "diversity"


def reserved_column(prompts: list, **_: Any) -> list[float]:
    """Keeps a column of the host's reward table free for `_calculate_rewards` to fill."""
    return [0.0] * len(prompts)


reserved_column.__name__ = COLUMN


def checked(func: Any) -> Any:
    """Plain callables get their output checked, once; reward models and names of them are left to TRL."""
    return func if isinstance(func, (str, torch.nn.Module, CheckedReward)) else CheckedReward(func)


def distinct(names: list[str]) -> list[str]:
    """The names of reward columns, later ones of the same name numbered: two lambdas are <lambda> and <lambda>_2."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{n}" for n in count(2))
        found.append(name if name not in found else next(new for new in numbered if new not in {*names, *found}))
    return found


def check_task_rewards(count: int) -> None:
    """A run needs task rewards; those that environments bring count too."""
    if count < 1:
        raise RecipeError(
            "DQO needs at least one task reward, got none; pass `reward_funcs`, diversity alone has no goal."
        )


def check_rewards(funcs: list, weights: list[float] | None) -> None:
    """Task rewards must be callable, none of the column's name, and each needs a weight."""
    if weights is not None and len(weights) != len(funcs):
        raise RecipeError(f"`reward_weights` needs one number for each of {len(funcs)} rewards, got {len(weights)}.")
    for func in funcs:
        if not callable(func) and not isinstance(func, str):
            raise RecipeError(
                f"`reward_funcs` takes a function, a reward model or its name, or a list of them, got {func!r}; "
                "correct that entry."
            )
        if getattr(func, "__name__", None) == COLUMN:
            raise RecipeError(
                "`reward_funcs` holds a function named 'diversity', the name of the trainer's own column; rename it, "
                "or, if it is a DiversityReward, remove it: DQOTrainer adds the credit itself."
            )
