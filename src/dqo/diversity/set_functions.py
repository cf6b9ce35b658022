"""Set functions for `diversity: set`: what a group of answers is worth to whoever deploys the policy.

Each answer is paid what the group would lose without it, f(Y) - f(Y without i), so the policy is trained for f itself.
A set function takes the prompt, the answers and their task rewards, and returns a number. It must not depend on the
order of the answers, must give the same number each time, and must be defined for no answers at all.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from math import comb, isfinite

import torch
from torch import Tensor

from dqo.errors import RewardError

SetFunction = Callable[[str, list[str], list[float]], float]


def distinct(prompt: str, answers: Sequence[str], rewards: Sequence[float]) -> float:
    """Counts different answers, but for case and white space; with a gate only right answers are counted."""
    return float(len({_fold(answer) for answer in answers}))


def majority(prompt: str, answers: Sequence[str], rewards: Sequence[float]) -> float:
    """Computes the reward of the answer that most responses give; ties share theirs, and no answer is worth 0."""
    votes = Counter(map(_fold, answers))
    most = max(votes.values(), default=0)
    won = [reward for answer, reward in zip(answers, rewards, strict=True) if votes[_fold(answer)] == most]
    return sum(won) / len(won) if won else 0.0


def best_of(prompt: str, answers: Sequence[str], rewards: Sequence[float], *, k: int = 4) -> float:
    """Computes the expected highest reward of k of the answers drawn without replacement; no answer is worth 0.

    Of fewer than k answers it is the highest reward. A credit needs k < G: with k = G all but the best are paid 0.
    """
    ordered = sorted(rewards)
    draws = min(k, len(ordered))
    if not draws:
        return 0.0
    # The j-th lowest is the best of the draws where the others come from the j - 1 below it.
    weighted = sum(reward * comb(below, draws - 1) for below, reward in enumerate(ordered))
    return weighted / comb(len(ordered), draws)


best_of_2, best_of_4, best_of_8 = (partial(best_of, k=k) for k in (2, 4, 8))


def set_credit(
    function: SetFunction,
    name: str,
    prompts: Sequence[str],
    answers: Sequence[Sequence[str]],
    rewards: Tensor,
    takes_part: Tensor,
) -> Tensor:
    """Computes f(Y) - f(Y without i) for every answer of every group, with G + 1 calls per group.

    Args:
        function: the set function f.
        name: its name, for errors.
        prompts: P prompts.
        answers: P lists of G answers.
        rewards: (P, G) task rewards.
        takes_part: (P, G) bool; answers that take no part are not seen by f and earn 0.

    Returns:
        (P, G) float64, in the unit of f; negative where the group is better without the answer.

    Raises:
        RewardError: f returned no finite number, or another one for the same answers in another order.

    Source: docs/guides/set_functions.md; docs/math.md eq. 5.1 and 5.2 for what it optimises.
    """
    credit = torch.zeros(rewards.shape, dtype=torch.float64)  # (P, G)
    for p, prompt in enumerate(prompts):
        row = [i for i, part in enumerate(takes_part[p].tolist()) if part]
        if not row:
            continue

        def worth(places: list[int], p: int = p, prompt: str = prompt) -> float:
            found = function(prompt, [answers[p][i] for i in places], [float(rewards[p, i]) for i in places])
            if not isinstance(found, int | float) or not isfinite(found):
                raise RewardError(
                    f"set function {name!r}: expected a finite number for {len(places)} answers of the prompt "
                    f"{prompt[:80]!r}, got {found!r}; return a number for any list of answers, the empty one too."
                )
            return float(found)

        whole = worth(row)
        if p == 0 and abs(worth(row[::-1]) - whole) > 1e-9 * max(1.0, abs(whole)):
            raise RewardError(
                f"set function {name!r}: expected the same number in any order, got {whole!r} for the answers of the "
                f"prompt {prompt[:80]!r} and {worth(row[::-1])!r} for them reversed; make it ignore their order."
            )
        for i in row:
            credit[p, i] = whole - worth([j for j in row if j != i])
    return credit


def _fold(answer: str) -> str:
    return " ".join(answer.casefold().split())
