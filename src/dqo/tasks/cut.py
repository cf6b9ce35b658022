"""Splits of a data set that share nothing, cut by a hash, so that they are the same on every machine."""

import hashlib
from collections.abc import Callable, Sequence

from dqo.errors import DataError
from dqo.records import Prompt

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
