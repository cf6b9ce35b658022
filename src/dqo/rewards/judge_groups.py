"""What a judge is shown of a group of responses, how far its answers agree, and what they are worth.

An answer is a list of labels, one per response: a score, a place in a ranking (0 is best) or a class. Classes have no
order.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, permutations
from random import Random
from statistics import fmean

from dqo.rewards.judge_replies import HIGHEST, LOWEST


class ShownGroup:
    """A group as a judge sees it: without blank responses, copies once, in another order at each repeat.

    Args:
        texts: G responses.
        repeats: Orders to show them in.
        seed: Of the orders; None shows them in their own order first.
        salt: What else the orders depend on.

    Attributes:
        distinct: The texts that are shown.
    """

    def __init__(self, texts: Sequence[str], repeats: int, seed: int | None, salt: str):
        self._texts, self.distinct = texts, list(dict.fromkeys(text for text in texts if text.strip()))
        self._orders: list[list[int]] = []
        for repeat in range(repeats):
            order = list(range(len(self.distinct)))
            if repeat % 2:
                # Turned round, so that no place in the list is better than another.
                order = self._orders[-1][::-1]
            elif repeat or seed is not None:
                Random(f"{seed} {repeat} {salt}").shuffle(order)
            self._orders.append(order)

    @property
    def views(self) -> list[list[str]]:
        """The texts in each order."""
        return [[self.distinct[place] for place in order] for order in self._orders]

    def in_order(self, answers: Sequence[Sequence[float] | None]) -> list[list[float]]:
        """Puts the labels that each view got into the order of `distinct`; unread answers (None) are left out."""
        read = [(order, labels) for order, labels in zip(self._orders, answers, strict=True) if labels is not None]
        return [[label for _, label in sorted(zip(order, labels, strict=True))] for order, labels in read]

    def for_all(self, labels: Sequence[float]) -> list[float | None]:
        """Labels of the G responses from those of `distinct`; None for a blank one."""
        of_text = dict(zip(self.distinct, labels, strict=True))
        return [of_text.get(text) for text in self._texts]


def agreement(answers: Sequence[Sequence[float]], ordered: bool) -> tuple[float, float]:
    """Compares answers about one group, pair by pair of responses.

    Args:
        answers: Two or more, of two labels or more.
        ordered: Whether labels make a pair better, worse or equal; else they make it of one class or of two.

    Returns:
        The share of pairs of which two answers say the same, and Cohen's kappa of it, each as the mean over all pairs
        of answers. Kappa is 0 at chance and 1 in full agreement; of classes it is the adjusted Rand index.
    """
    # Each pair from both sides, so that better and worse are equally frequent.
    said = [[_relation(a, b, ordered) for a, b in permutations(labels, 2)] for labels in answers]
    shares, kappas = [], []
    for one, other in combinations(said, 2):
        share = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
        often = Counter(other)
        chance = sum(count * often[relation] for relation, count in Counter(one).items()) / len(one) ** 2
        shares.append(share)
        kappas.append((share - chance) / (1.0 - chance) if chance < 1.0 else 1.0)
    return fmean(shares), fmean(kappas)


def _relation(a: float, b: float, ordered: bool) -> int:
    return (a > b) - (a < b) if ordered else int(a == b)


def typical(answers: Sequence[list[float]]) -> list[float]:
    """The classes that agree best with all the others; the first of equals."""
    if len(answers) == 1:
        return answers[0]
    return max(answers, key=lambda one: sum(agreement([one, other], ordered=False)[0] for other in answers))


def group_rewards(answers: Sequence[Sequence[float | None]], asks: str) -> list[float]:
    """Pays the G responses to one prompt by what a judge said of them.

    Args:
        answers: One or more, each with a label per response, None for a blank one.
        asks: "scores", "ranking" or "partition", as for `JudgeReward`.

    Returns:
        G means over the answers, in [0, 1]; 0 for a blank response.
    """
    paid = [[_worth(labels, label, asks) for label in labels] for labels in answers]
    return [fmean(column) for column in zip(*paid, strict=True)]


def _worth(labels: Sequence[float | None], label: float | None, asks: str) -> float:
    if label is None:
        return 0.0
    if asks == "scores":
        return (label - LOWEST) / (HIGHEST - LOWEST)
    others = len(labels) - 1
    alike = labels.count(label) - 1
    if asks == "partition":
        return (others - alike) / others
    worse = sum(other is None or other > label for other in labels)
    return (worse + alike / 2) / others
