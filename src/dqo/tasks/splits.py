"""Seeded train, dev and test splits of a generated task that share no item."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from dqo.errors import RecipeError
from dqo.records import Prompt

SPLITS = ("train", "dev", "test")
_ATTEMPTS = 2000  # draws for one item before the space counts as exhausted

Item = TypeVar("Item")


def draw_splits(
    draw: Callable[[random.Random], Item],
    sizes: Mapping[str, int],
    *,
    seed: int,
    clash: Callable[[Item, Item], bool],
) -> dict[str, list[Item]]:
    """Draw items without repetition, none of which clashes with an item of another split.

    The test split is drawn first, then dev, then train, each with its own generator seeded by a string: a larger
    train split leaves the test split as it was, and every process and Python version draws the same.

    Args:
        draw: One item from a generator; items compare by `==`.
        sizes: Items wanted for "train", "dev" and "test".
        seed: Seed of the whole.
        clash: Whether two items may not lie in different splits; equal items never occur twice anyway.

    Returns:
        The items of each split, in drawing order.

    Raises:
        RecipeError: A size or seed that is no non-negative integer, or more items wanted than can be drawn.
    """
    for option, value in {"seed": seed, **{f"{split}_size": sizes[split] for split in SPLITS}}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise RecipeError(f"{option}: expected a non-negative integer, got {value!r}.")
    drawn: dict[str, list[Item]] = {}
    for split in reversed(SPLITS):
        rng = random.Random(f"{seed}/{split}")
        others = [item for items in drawn.values() for item in items]
        items: list[Item] = []
        for _ in range(sizes[split]):
            items.append(_fresh(draw, rng, items, others, clash, f"{split}_size={sizes[split]}"))
        drawn[split] = items
    return drawn


def pick_split(splits: Mapping[str, list[Item]], split: str) -> list[Item]:
    """One of the splits by name.

    Args:
        splits: The items of each split.
        split: "train", "dev" or "test".

    Returns:
        A new list of its items.

    Raises:
        RecipeError: A name that is none of the three.
    """
    if split not in splits:
        raise RecipeError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}.")
    return list(splits[split])


def distinct_ids(splits: Mapping[str, list[Prompt]]) -> dict[str, list[Prompt]]:
    """Puts the split in front of ids that two splits share, as where each file counts from 0.

    What is found by its id (a finished answer, a baseline's, the same prompt of another run) is then never that of
    another split.

    Args:
        splits: The prompts of each split.

    Returns:
        The same prompts; an id that is changed is changed in `meta` too, where it stands there.
    """
    times = Counter(prompt.id for prompts in splits.values() for prompt in prompts)
    return {
        split: [_renamed(prompt, f"{split}-{prompt.id}") if times[prompt.id] > 1 else prompt for prompt in prompts]
        for split, prompts in splits.items()
    }


def _renamed(prompt: Prompt, name: str) -> Prompt:
    meta = prompt.meta | {"id": name} if "id" in prompt.meta else prompt.meta
    return replace(prompt, id=name, meta=meta)


def _fresh(
    draw: Callable[[random.Random], Item],
    rng: random.Random,
    items: list[Item],
    others: list[Item],
    clash: Callable[[Item, Item], bool],
    wanted: str,
) -> Item:
    for _ in range(_ATTEMPTS):
        item = draw(rng)
        if item not in items and not any(clash(item, other) for other in others):
            return item
    raise RecipeError(
        f"{wanted}: expected no more prompts than the task can make, but after {len(items)} no new one was found in "
        f"{_ATTEMPTS} draws; ask for a smaller split."
    )
