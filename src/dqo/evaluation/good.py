"""Diversity among good answers only: different but wrong is worth nothing."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from dqo.core import reaches
from dqo.errors import DQOError

Item = TypeVar("Item")


def among_good(
    measure: Callable[[list[Item]], float], items: Sequence[Item], rewards: Sequence[float], threshold: float = 0.5
) -> float:
    """A measure of diversity of the items whose reward reaches the threshold.

    The ranking of models can flip with the threshold; report it.

    Args:
        measure: Any measure of this package that takes a group, such as `vendi_score`.
        items: One a response: texts, rows of embeddings or classes.
        rewards: One a response.
        threshold: Least reward of a good response; 0.5 divides 0/1 rewards.

    Returns:
        The measure of the good items; of none what the measure says of an empty list: 0 of what counts, else NaN.

    Raises:
        DQOError: If there is not one reward an item.

    Source: effective semantic diversity, Shypula et al. 2025.
    """
    if len(items) != len(rewards):
        raise DQOError(f"`rewards` must be one number an item, got {len(rewards)} for {len(items)} items.")
    good = [item for item, passed in zip(items, passes(rewards, threshold), strict=True) if passed]
    return float(measure(good))


def passes(rewards: Sequence[float], threshold: float) -> list[bool]:
    """Which rewards reach the pass threshold, by the rule that the gate of training has: rounding fails nobody.

    Args:
        rewards: One a response.
        threshold: Least reward of a good response.

    Returns:
        One a response.
    """
    return reaches(torch.tensor(rewards, dtype=torch.float64), threshold).tolist()
