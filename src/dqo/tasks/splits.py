"""Seeded train, dev and test splits of a generated task that share no item."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from dqo.errors import DataError, RecipeError
from dqo.files.records import Prompt

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


# Splits of a data set that share nothing, cut by a hash, so that they are the same on every machine.

Key = Callable[[Prompt], str]
MOST = 100  # prompts cut where no size is given, but no more than a tenth


def cut(
    prompts: Sequence[Prompt], size: int | None, *, key: Key, seed: int, label: str
) -> tuple[list[Prompt], list[Prompt]]:
    """Set prompts apart, all prompts of one key together.

    Keys are taken in the order of a hash of seed, label and key: adding or removing other prompts changes no choice
    between two keys.

    Args:
        prompts: N prompts.
        size: Prompts wanted; None for a tenth of them, at most `MOST`. Up to one key's prompts more may come.
        key: What may not lie on both sides.
        seed: Of the choice.
        label: Name of the split that is cut.

    Returns:
        What is cut and what is left, each in the order given.

    Raises:
        DataError: Nothing would be left.
    """
    size = min(MOST, len(prompts) // 10) if size is None else size
    order = sorted({key(prompt) for prompt in prompts}, key=lambda text: _digest(f"{seed}/{label}/{text}"))
    members: dict[str, int] = {}
    for prompt in prompts:
        members[key(prompt)] = members.get(key(prompt), 0) + 1
    chosen, count = set(), 0
    for text in order:
        if count >= size:
            break
        chosen.add(text)
        count += members[text]
    left = [prompt for prompt in prompts if key(prompt) not in chosen]
    if not left:
        raise DataError(
            f"{label}_size={size}: expected fewer prompts than the {len(prompts)} there are to cut from; lower it."
        )
    return [prompt for prompt in prompts if key(prompt) in chosen], left


def plain(text: str) -> str:
    """A text as it counts for equality: case folded, white space collapsed."""
    return " ".join(text.casefold().split())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# Reading what a task needs from the `meta` of a prompt, which may come from a user's file.


def meta_field(prompt: Prompt, field: str, kind: type, task: str) -> Any:
    """One field of a prompt's `meta`, with its type checked; a list must hold one type of item and not be empty.

    Args:
        prompt: The prompt.
        field: Name of the field.
        kind: `int`, `str`, or `list[int]` or `list[str]`.
        task: Name of the task that needs it, for the message.

    Returns:
        The value.

    Raises:
        DataError: A field that is missing or of another type.
    """
    value = prompt.meta.get(field)
    item_kind = getattr(kind, "__args__", [None])[0]
    items = value if isinstance(value, list) and item_kind else [value]
    if not items or not all(type(item) is (item_kind or kind) for item in items) or bool(item_kind) != (items is value):
        expected = f"a non-empty list of {item_kind.__name__}" if item_kind else f"a value of type {kind.__name__}"
        raise DataError(
            f"prompt {prompt.id!r}: the task {task!r} needs {expected} in meta.{field}, got "
            f"{'nothing' if field not in prompt.meta else repr(value)[:80]}; use data of this task or another task."
        )
    return value
