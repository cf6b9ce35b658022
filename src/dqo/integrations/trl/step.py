"""What lives for one step of training: its clock, notes that TRL's methods cannot hand on, its rows and rewards."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor

from dqo.errors import RecipeError
from dqo.rewards import CheckedReward, prompt_key

COLUMN = "diversity"  # of TRL's reward table, ours
NO_GOAL = "DQO needs at least one task reward, got none; pass `reward_funcs`, diversity alone has no goal."


@dataclass
class Step:
    """Notes of the step under way, which the parts of a trainer read and write."""

    # wall time by name since the last `collect`
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    # () of each micro-batch since the last optimizer step
    losses: list[Tensor] = field(default_factory=list)
    # from the start of a rollout until its rewards are computed
    sampling: bool = False
    # groups of the newest batch of all processes
    groups: int = 0
    # tokens of each prompt of this process's rows
    prompt_ids: list[list[int]] = field(default_factory=list)
    # (P, G) task rewards of the newest batch of all processes, and what is optimised
    task: Tensor | None = None
    combined: Tensor | None = None
    # log-probabilities, entropies and auxiliary loss of each forward; None while nobody asks for them
    forwards: list[tuple] | None = None

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Time the block under this name, in seconds; an exception inside is timed too and passes on."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def collect(self) -> dict[str, float]:
        """Seconds by name since the last call, with "time/update"; starts anew."""
        # Spans nest: "time/step" holds "time/rollout", which holds generation, rewards, embedding and credit.
        seconds, self.seconds = self.seconds, defaultdict(float)
        return {**seconds, "time/update": seconds["time/step"] - seconds["time/rollout"]}


def join_rows(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of prompts and completions together: (N, P+C) each."""
    ids, mask = (torch.cat([batch[f"prompt_{kind}"], batch[f"completion_{kind}"]], dim=1) for kind in ("ids", "mask"))
    return ids, mask


def hash_rows(rows: list[dict[str, Any]], device: torch.device) -> Tensor:
    """Digest of each row of the data set, so that processes can compare them: (N_local,) int64."""
    # The prompt tells groups apart. Where environments bring the prompt, a row may have none: its other columns do.
    keys = [int(prompt_key(row.get("prompt", row)), 16) >> 1 for row in rows]
    return torch.tensor(keys, dtype=torch.int64, device=device)  # (N_local,)


def reserved_column(prompts: list, **_: Any) -> list[float]:
    """Keeps a column of TRL's reward table free for `_calculate_rewards` to fill."""
    return [0.0] * len(prompts)


reserved_column.__name__ = COLUMN


def list_rewards(reward_funcs: Any, args: Any, environments: bool) -> list:
    """The task rewards as a list, their outputs checked; our column gets weight 1 in `args`."""
    several = isinstance(reward_funcs, list | tuple)
    funcs = [*reward_funcs] if several else [reward_funcs] if reward_funcs is not None else []
    weights = args.reward_weights
    if weights is not None and len(weights) != len(funcs):
        raise RecipeError(f"`reward_weights` needs one number for each of {len(funcs)} rewards, got {len(weights)}.")
    if COLUMN in [getattr(func, "__name__", None) for func in funcs]:
        raise RecipeError(
            "`reward_funcs` holds a function named 'diversity', the name of the trainer's own column; rename it, or, "
            "if it is a DiversityReward, remove it: DQOTrainer adds the credit itself."
        )
    if not funcs and not environments:  # environments may bring rewards of their own
        raise RecipeError(NO_GOAL)
    args.reward_weights = weights and [*weights, 1.0]
    return [*map(checked, funcs)]


def checked(func: Any) -> Any:
    """Plain callables get their output checked, once; reward models and names of them are left to TRL."""
    return func if isinstance(func, (str, torch.nn.Module, CheckedReward)) else CheckedReward(func)


def number_repeats(names: list[str]) -> list[str]:
    """The names of reward columns, later ones of the same name numbered: two lambdas are <lambda> and <lambda>_2."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{n}" for n in count(2))
        found.append(name if name not in found else next(new for new in numbered if new not in {*names, *found}))
    return found
