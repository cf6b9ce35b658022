"""What a signal may read, and what the rest of the package knows of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Evidence:
    """What a signal may read; None where nobody gathered it.

    Attributes:
        kernel: (P, G, G) kernel that earns the credit, weighted by quality where `combine` says so.
        spans: (P, G) bool, True where a response is not empty and takes part.
        logp: (P, G) log-probability of each response under its policy, in nats; NaN where it takes no part.
        same: (P, G, G) bool, pairs that a classifier holds for the same answer.
        correct: bool, True where the task reward reaches `quality_threshold`: (P, G), or (N,) for a loss.
        scored: (P, G) bool, False where nothing could score the response.
        marginal: (P, G), what the set function loses without the response.
        logps: (N, T) log-probabilities of the sampled tokens in nats, differentiable.
        old_logps: (N, T) the same under the policy that sampled them.
        entropies: (N, T) nats, differentiable.
        mask: (N, T), 1 on tokens that count.
    """

    kernel: Tensor | None = None
    spans: Tensor | None = None
    logp: Tensor | None = None
    same: Tensor | None = None
    correct: Tensor | None = None
    scored: Tensor | None = None
    marginal: Tensor | None = None
    logps: Tensor | None = None
    old_logps: Tensor | None = None
    entropies: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Signal:
    """Everything that the rest of the package knows of a signal.

    Attributes:
        place: "none", "credit", "discount", "advantage" or "loss".
        rewards: one clause that says what it pays for.
        source: where it was published.
        function: (Evidence, DiversitySpec) -> (P, G) credits, shares or advantages, or the () term of a loss.
        usual_alpha: a usual value to start from; None where there is none.
        highest_alpha: largest alpha that means anything; 1 for a share and a mixture.
        takes_quality_weights: whether it is defined for vectors of any length, and so for a kernel weighted by quality
            and for the linear kernel.
        needs: fields of Evidence that the trainer must gather beside embeddings.
        settings: fields of DiversitySpec that belong to this signal alone. Of those without a default exactly one must
            be given.
    """

    place: str
    rewards: str
    source: str
    function: Callable[[Evidence, Any], Tensor] | None = None
    usual_alpha: float | None = None
    highest_alpha: float = 1e9
    takes_quality_weights: bool = False
    needs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    @property
    def acts_on_reward(self) -> bool:
        """Whether the reward that is optimised differs from the task reward."""
        return self.place in ("credit", "discount")
