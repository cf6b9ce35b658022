"""How many different things a group of responses says: classes of equal meaning, and the spread of embeddings.

One convention everywhere: a blank response, or a zero row, says nothing. It has no class and adds no diversity; at
similarity 0 to everything it would otherwise count as the most different response of all.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dqo.core import cosine_distance, cosine_kernel, log_volume, vendi
from dqo.core.volume import effective_number, spectrum
from dqo.errors import DQOError

SamePairs = Callable[[list[tuple[str, str]]], Iterable[bool]]
# Class of a blank response.
NOTHING = -1
# Probability that a reader goes on to the next response.
_PATIENCE = 0.8
# Least cosine of equal meaning, by encoder: each has its own. docs/guides/evaluation.md says what it was measured on.
SAME_MEANING = {"all-MiniLM-L6-v2": 0.75}
# Thresholds of NoveltyBench's code.
_SKYWORK = (-7.71875, -6.28125, -6.0, -5.71875, -5.5, -5.0, -4.375, -3.4375, -2.046875)


@runtime_checkable
class Partitioner(Protocol):
    """Sorts the responses of whole groups by what they say, as `JudgeReward` does."""

    def partition(self, prompts: Sequence[str], groups: Sequence[Sequence[str]]) -> list[list[int] | None]:
        """Classes of each group, as of `meaning_classes`; None where they could not be decided."""


def meaning_classes(groups: Sequence[Sequence[str]], same: SamePairs) -> list[list[int]]:
    """Sorts responses into classes: each joins the first class whose first member means the same (NoveltyBench).

    Args:
        groups: The responses to each of P prompts.
        same: Pairs (first member of a class, response) -> whether they mean the same, one answer per pair.

    Returns:
        For each group the classes of its responses, 0, 1, ... in order of appearance; -1 for a blank one.

    Raises:
        DQOError: If `groups` is a list of strings, or `same` returns another count.
    """
    if any(isinstance(texts, str) for texts in groups):
        raise DQOError("`groups` must hold one list of responses per prompt, got strings; wrap them in a list.")
    classes = [[NOTHING] * len(texts) for texts in groups]
    waiting = [[i for i, text in enumerate(texts) if text.strip()] for texts in groups]
    number = 0
    # All groups advance together, so that `same` sees large batches.
    while any(waiting):
        firsts = {p: rows[0] for p, rows in enumerate(waiting) if rows}
        asked = [(p, i) for p in firsts for i in waiting[p][1:]]
        pairs = [(groups[p][firsts[p]], groups[p][i]) for p, i in asked]
        answers = [bool(answer) for answer in same(pairs)] if pairs else []
        if len(answers) != len(pairs):
            raise DQOError(f"`same` must return one answer per pair, got {len(answers)} for {len(pairs)} pairs.")
        joined = [row for row, answer in zip(asked, answers, strict=True) if answer]
        for p, i in [*firsts.items(), *joined]:
            classes[p][i] = number
            waiting[p].remove(i)
        number += 1
    return classes


def same_meaning(encoder: str) -> float | None:
    """Least cosine of equal meaning by an encoder of that name; None where none has been measured for it."""
    from dqo.embedders.naming import canonical

    name = encoder.removeprefix("sentence-transformers/")
    # With options it is another encoder, and so is a folder of that name.
    return SAME_MEANING[name] if name in SAME_MEANING and canonical(encoder) == name else None


def embedding_classes(E: Tensor | Sequence, threshold: float) -> list[int]:
    """Sorts one group into classes; two responses mean the same if their cosine reaches the threshold.

    Args:
        E: (G, D) embeddings as tensor, array or list of rows, a zero row for a blank response.
        threshold: Least cosine of equal meaning, in (0, 1]. It belongs to an encoder: see `SAME_MEANING`.

    Returns:
        G classes, numbered in order of appearance; -1 for a zero row.

    Raises:
        DQOError: If the threshold is out of range, E is no matrix, or a row of it is not finite.
    """
    if not 0.0 < threshold <= 1.0:
        raise DQOError(f"`threshold` must be a cosine above 0 and at most 1, got {threshold}; measure it.")
    kernel = cosine_kernel(as_matrix(E))  # (G, G)
    # Rounding must not part copies at threshold 1.
    equal = (kernel >= threshold - 1e-9).tolist()
    classes, firsts = [], []
    for i, filled in enumerate((torch.diagonal(kernel) > 0).tolist()):
        found = next((number for number, first in enumerate(firsts) if equal[first][i]), len(firsts))
        if filled and found == len(firsts):
            firsts.append(i)
        classes.append(found if filled else NOTHING)
    return classes


def distinct_k(classes: Sequence[int]) -> int:
    """Number of classes among the k responses to a prompt, -1 left out; NoveltyBench's distinct_k."""
    return len(set(classes) - {NOTHING})


def semantic_entropy(classes: Sequence[int]) -> float:
    """Entropy -Σ p(c) log p(c) of the shares of responses in each class (the discrete variant of Farquhar et al. 2024).

    Args:
        classes: Class of each response, -1 for a blank one, which is left out.

    Returns:
        Nats in [0, log k]; 0 where all mean the same, NaN where nothing was said.
    """
    counts = Counter(label for label in classes if label != NOTHING)
    if not counts:
        return math.nan
    shares = [count / counts.total() for count in counts.values()]
    return max(0.0, -sum(share * math.log(share) for share in shares))


def utility_k(classes: Sequence[int], utilities: Sequence[float]) -> float:
    """What a user gets who reads responses in order and goes on to the next with probability p = 0.8 (NoveltyBench).

    (1-p)/(1-p^k) Σ_i p^i [y_i opens a new class] u_i, i from 0: a mean with weights p^i, in the unit of the utilities.

    Args:
        classes: Class of each response in the order they were sampled, -1 for a blank one.
        utilities: Worth of each response; NoveltyBench's are whole numbers from 1 to 10.

    Returns:
        A number between 0 and the largest utility where none is negative; NaN for no response.

    Raises:
        DQOError: If the lengths differ.
    """
    if len(utilities) != len(classes):
        raise DQOError(f"`utilities` must be one number per response, got {len(utilities)} for {len(classes)}.")
    seen, total, worth = {NOTHING}, 0.0, 0.0
    for i, (label, utility) in enumerate(zip(classes, utilities, strict=True)):
        total += _PATIENCE**i
        worth += _PATIENCE**i * utility if label not in seen else 0.0
        seen.add(label)
    return worth / total if classes else math.nan


def noveltybench_rating(reward: float) -> int:
    """NoveltyBench's utility of a response, 1 to 10, from the raw reward of Skywork-Reward-Gemma-2-27B-v0.2."""
    return bisect_left(_SKYWORK, reward) + 1


def vendi_score(E: Tensor | Sequence, q: float = 1.0) -> float:
    """Vendi score of order q: the effective number of different responses, exp of the Rényi entropy of spec(K/n).

    With eigenvalues l_i of K/n, K the cosine kernel of the n non-zero rows: exp(-Σ l log l) at q = 1,
    exp(log(Σ l^q) / (1 - q)) otherwise, the rank of K at q = 0 and 1/max(l) at q = inf (docs/math.md eq. 6.1).

    Args:
        E: (G, D) embeddings as tensor, array or list of rows; rows are normalised here.
        q: Order, from 0 to infinity; small q counts rare modes, large q the dominant ones.

    Returns:
        Effective number of responses in [1, G]; 0.0 where there is no non-zero row.

    Raises:
        DQOError: If q is negative or NaN, E is not a matrix, or a row of it is not finite.
    """
    # The unmaintained package Vendi-Score 0.0.3 ignores q for embeddings.
    return float(vendi(cosine_kernel(as_matrix(E)), q))


def mean_cosine_distance(E: Tensor | Sequence) -> float:
    """Averages 1 - cosine over all pairs of responses (docs/math.md eq. 6.2).

    Args:
        E: (G, D) embeddings as for `vendi_score`.

    Returns:
        Mean distance in [0, 2]; NaN where no row is non-zero.
    """
    # Blind to clusters: two tight ones reach two thirds of an orthogonal group's distance at G = 4.
    # Copies differ in the last bit, hence the clamp.
    return float(cosine_distance(cosine_kernel(as_matrix(E))).clamp_min(0.0))


def group_log_volume(E: Tensor | Sequence, ridge: float = 1.0) -> float:
    """Measures the trained quantity, the log-volume of one group under the cosine kernel (docs/math.md eq. 3.1).

    Args:
        E: (G, D) embeddings as for `vendi_score`.
        ridge: Regularisation strength above 0; 1 in the paper.

    Returns:
        Nats: of G non-zero rows in [log(1 + G/ridge), G log(1 + 1/ridge)], of none 0.
    """
    return float(log_volume(cosine_kernel(as_matrix(E)), ridge))


def effective_rank(E: Tensor | Sequence) -> float:
    """Counts directions by the entropy of the unit rows' singular values (Roy and Vetterli 2007).

    Args:
        E: (G, D) embeddings as for `vendi_score`, which at q = 1 is the same with *squared* singular values.

    Returns:
        Number in [1, min(G, D)]; 0 where no row is non-zero.
    """
    return float(_rank(spectrum(cosine_kernel(as_matrix(E)))))


def geometry(L: Tensor) -> dict[str, Tensor]:
    """The measures above of the cosine kernels of P groups, (P, G, G) -> name -> (P,)."""
    shares = spectrum(L)  # (P, G): once for all that need it
    return {
        "cosine_distance": cosine_distance(L).clamp_min(0.0),
        "vendi_1": effective_number(shares, 1.0),
        "vendi_2": effective_number(shares, 2.0),
        "vendi_inf": effective_number(shares, math.inf),
        "effective_rank": _rank(shares),
        "log_volume": log_volume(L),
    }


def _rank(shares: Tensor) -> Tensor:
    """Effective rank, from the shares of the eigenvalues of the kernel, (..., G) -> (...,)."""
    # Those are the squares of the unit rows' singular values.
    values = shares.sqrt()  # (..., G)
    total = values.sum(-1, keepdim=True)  # (..., 1)
    return effective_number(values / total.masked_fill(total <= 0, 1.0), 1.0)


def as_matrix(E: Tensor | Sequence) -> Tensor:
    """Embeddings as a (G, D) float64 tensor, from whatever holds G rows of D numbers; DQOError for anything else."""
    try:
        if not isinstance(E, Tensor):
            rows = [torch.as_tensor(row, dtype=torch.float64) for row in E]  # G x (D,)
            E = torch.stack(rows) if rows else torch.zeros(0, 1)  # (G, D)
        E = E.detach().to(torch.float64)  # (G, D)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DQOError(f"Embeddings must be G rows of D numbers each, got what torch cannot stack: {error}.") from error
    if E.dim() != 2:
        raise DQOError(f"Embeddings of one group must have shape (G, D), got {tuple(E.shape)}; pass one group.")
    return E
