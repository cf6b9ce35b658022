"""Diversity signals by name: what DQO is compared with, on the same host and under the same settings.

A signal acts in one of four places: a *credit* of each response joins its reward by `combine`; a *discount* takes a
share of the reward; an *advantage* replaces the host's; a *loss* term is added. docs/signals.md has a section each.
"""

from dataclasses import dataclass

from dqo.signals.discount import discount
from dqo.signals.elliptical import elliptical_bonus
from dqo.signals.entropy import correct_entropy, mean_entropy
from dqo.signals.graph_cut import graph_cut_share
from dqo.signals.pairwise import pairwise_distance
from dqo.signals.partition import clusters_by_pairs, clusters_by_threshold, partition_share
from dqo.signals.pass_at_k import pass_at_k_advantage
from dqo.signals.unlikeliness import unlikeliness_share
from dqo.signals.vendi_gain import vendi_gain


@dataclass(frozen=True)
class Signal:
    """Where a signal acts and what it takes.

    Attributes:
        place: "none", "credit", "discount", "advantage" or "loss".
        highest_alpha: largest alpha that means anything; 1 for a share and a mixture.
        usual_alpha: a usual value to start from, told in errors; None where there is none.
        takes_quality_weights: whether it is defined for a kernel weighted by quality in [0, 1].
    """

    place: str
    highest_alpha: float = 1e9
    usual_alpha: float | None = None
    takes_quality_weights: bool = False


SIGNALS = {
    "none": Signal("none"),
    "dqo": Signal("credit", usual_alpha=1.0, takes_quality_weights=True),
    "pairwise": Signal("credit", usual_alpha=0.3),
    "vendi": Signal("credit", usual_alpha=0.1),
    "elliptical": Signal("credit", usual_alpha=1.0, takes_quality_weights=True),
    "partition": Signal("discount", 1.0, 1.0),
    "graph_cut": Signal("discount", 1.0, 1.0),
    "unlikeliness": Signal("discount", 1.0, 0.25),
    "pass_at_k": Signal("advantage", 1.0, 1.0),
    "entropy": Signal("loss", 0.5, 0.001),
    "entropy_correct": Signal("loss", 0.5, 0.01),
}

__all__ = [
    "SIGNALS",
    "Signal",
    "clusters_by_pairs",
    "clusters_by_threshold",
    "correct_entropy",
    "discount",
    "elliptical_bonus",
    "graph_cut_share",
    "mean_entropy",
    "pairwise_distance",
    "partition_share",
    "pass_at_k_advantage",
    "unlikeliness_share",
    "vendi_gain",
]
