"""What the policy gradient with leave-one-out credit really ascends, over all groups of a listed response set.

The expected update is summed over every group of a tabular softmax policy; the claimed objective is differentiated by
autograd, with volumes from explicit determinants. Nothing is sampled, so equal means equal to 1e-9.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dqo.core import (
    centre_among,
    cosine_kernel,
    credit_range,
    gaussian_kernel,
    leave_one_out,
    quality_weights,
    scale_credit,
    weight_kernel,
)

F64 = torch.float64
ALPHA = 0.7
SIZES = [(4, 3), (3, 4), (5, 2), (6, 3), (2, 5)]
GOOD = {"rtol": 0, "atol": 1e-9}


class World:
    """M responses with embeddings, rewards and a policy; kernel, gate or quality weights by name."""

    def __init__(self, M: int, volume: str, ridge: float = 1.0, empty: bool = False) -> None:
        gen = torch.Generator().manual_seed(100 * M + len(volume))
        E = torch.randn(M, 3, generator=gen, dtype=F64)  # (M, D)
        if empty:
            E[-1] = 0.0
        self.M, self.ridge = M, ridge
        self.logits = torch.randn(M, generator=gen, dtype=F64)  # (M,)
        self.reward = torch.rand(M, generator=gen, dtype=F64)  # (M,)
        L = gaussian_kernel(E, 0.7) if volume == "gaussian" else cosine_kernel(E)  # (M, M)
        if volume in ("gate", "quality_weighted"):
            threshold = self.reward.median().item() if volume == "gate" else None
            L = weight_kernel(L, quality_weights(self.reward, volume, threshold=threshold))
        self.L = L

    def groups(self, G: int) -> Tensor:
        return torch.cartesian_prod(*[torch.arange(self.M)] * G).reshape(-1, G)  # (K, G)

    def kernels(self, groups: Tensor) -> Tensor:
        return self.L[groups.unsqueeze(-1), groups.unsqueeze(-2)]  # (K, G, G)

    def credit(self, G: int) -> Tensor:
        return leave_one_out(self.kernels(self.groups(G)), self.ridge)  # (K, G)

    def gradient(self, value_of_group: Tensor, G: int) -> Tensor:
        """(M,) autograd gradient of the expected (K,) value over groups of G draws."""
        logits = self.logits.clone().requires_grad_()
        log_p = logits.log_softmax(-1)[self.groups(G)].sum(-1)  # (K,)
        return torch.autograd.grad((log_p.exp() * value_of_group).sum(), logits)[0]

    def volume_gradient(self, G: int) -> Tensor:
        A = torch.eye(G, dtype=F64) + self.kernels(self.groups(G)) / self.ridge
        return self.gradient(torch.linalg.slogdet(A).logabsdet, G)

    def reward_gradient(self) -> Tensor:
        return self.gradient(self.reward, 1)

    def expected_update(self, advantage: Tensor, G: int) -> Tensor:
        """(M,) E[sum_i grad log pi(y_i) a_i] for advantages (K, G), with the score written out: onehot - pi."""
        groups, pi = self.groups(G), self.logits.softmax(-1)
        score = torch.nn.functional.one_hot(groups, self.M).to(F64) - pi  # (K, G, M)
        return torch.einsum("k,kg,kgm->m", pi[groups].prod(-1), advantage, score)


def centred(values: Tensor) -> Tensor:
    return values - values.mean(-1, keepdim=True)


VOLUMES = pytest.mark.parametrize("volume", ["cosine", "gaussian", "gate", "quality_weighted"])
MG = pytest.mark.parametrize(("M", "G"), SIZES)


@MG
@VOLUMES
@pytest.mark.parametrize("ridge", [0.05, 1.0])
def test_raw_credit_is_an_unbiased_gradient_of_the_expected_volume(M, G, volume, ridge):
    world = World(M, volume, ridge)
    truth = world.volume_gradient(G)
    assert truth.abs().max() > 1e-3, "a vanishing gradient would prove nothing"
    assert_close(world.expected_update(world.credit(G), G), truth, **GOOD)


@pytest.mark.parametrize("G", [2, 3])
def test_raw_credit_is_unbiased_with_an_empty_response_too(G):
    world = World(4, "cosine", empty=True)
    assert_close(world.expected_update(world.credit(G), G), world.volume_gradient(G), **GOOD)


@pytest.mark.parametrize("G", [2, 3])
def test_unit_scale_divides_the_gradient_by_the_width_of_the_range(G):
    world = World(5, "cosine", ridge=0.5)
    credit = world.credit(G)
    share = scale_credit(credit, "unit", filled=torch.ones_like(credit, dtype=torch.bool), ridge=0.5)
    low, high = credit_range(G, 0.5)
    assert_close(world.expected_update(share, G), world.volume_gradient(G) / (high - low), **GOOD)


@MG
@VOLUMES
def test_group_centred_sum_ascends_the_objective_of_one_response_fewer(M, G, volume):
    """E[sum_i grad log pi_i (r_i + a c_i - mean)] = grad {(G-1) E[r] + a E[V_(G-1)]}."""
    world = World(M, volume)
    combined = world.reward[world.groups(G)] + ALPHA * world.credit(G)
    expected = (G - 1) * world.reward_gradient() + ALPHA * world.volume_gradient(G - 1)
    assert_close(world.expected_update(centred(combined), G), expected, **GOOD)


@MG
@VOLUMES
def test_rloo_mean_over_rows_gives_reward_plus_volume_over_g_minus_one(M, G, volume):
    """Baseline: mean of the others. Mean over the G rows: grad {E[r] + a/(G-1) E[V_(G-1)]}."""
    world = World(M, volume)
    combined = world.reward[world.groups(G)] + ALPHA * world.credit(G)
    others = (combined.sum(-1, keepdim=True) - combined) / (G - 1)
    expected = world.reward_gradient() + ALPHA / (G - 1) * world.volume_gradient(G - 1)
    assert_close(world.expected_update(combined - others, G) / G, expected, **GOOD)


@MG
def test_grpo_without_std_mean_over_rows(M, G):
    """Baseline: mean of all. Mean over the G rows: grad {(G-1)/G E[r] + a/G E[V_(G-1)]}."""
    world = World(M, "cosine")
    combined = world.reward[world.groups(G)] + ALPHA * world.credit(G)
    expected = (G - 1) / G * world.reward_gradient() + ALPHA / G * world.volume_gradient(G - 1)
    assert_close(world.expected_update(centred(combined), G) / G, expected, **GOOD)


@MG
def test_centring_the_task_reward_alone_keeps_the_volume_of_the_whole_group(M, G):
    world = World(M, "cosine")
    advantage = centred(world.reward[world.groups(G)]) + ALPHA * world.credit(G)
    expected = (G - 1) * world.reward_gradient() + ALPHA * world.volume_gradient(G)
    assert_close(world.expected_update(advantage, G), expected, **GOOD)


def test_shared_volume_is_unbiased_raw_and_vanishes_under_centring():
    """log det given equally to the whole group: same expectation, more variance, and nothing left of it in GRPO."""
    world = World(4, "cosine")
    credit = world.credit(3)
    A = torch.eye(3, dtype=F64) + world.kernels(world.groups(3))
    shared = torch.linalg.slogdet(A).logabsdet.unsqueeze(-1).expand_as(credit)
    assert_close(world.expected_update(shared, 3), world.volume_gradient(3), **GOOD)
    assert centred(shared).abs().max() < 1e-12
    assert second_moment(world, shared) > 2 * second_moment(world, credit)


def second_moment(world: World, advantage: Tensor) -> float:
    groups, pi = world.groups(advantage.shape[-1]), world.logits.softmax(-1)
    score = torch.nn.functional.one_hot(groups, world.M).to(F64) - pi
    update = torch.einsum("kg,kgm->km", advantage, score)
    return (pi[groups].prod(-1) * update.square().sum(-1)).sum().item()


@pytest.mark.parametrize("volume", ["cosine", "gaussian"])
def test_at_group_size_two_the_centred_diversity_term_vanishes(volume):
    assert centred(World(5, volume).credit(2)).abs().max() < 1e-14
    assert centred(World(5, volume).credit(3)).abs().max() > 0.01, "at three it must not"


def test_at_group_size_two_weighted_credit_only_pays_quality():
    """What is left is grad E[log(1 + q^2)]: own quality, no difference between responses."""
    world = World(5, "quality_weighted")
    left = world.expected_update(centred(world.credit(2)), 2)
    assert left.abs().max() > 1e-3
    assert_close(left, world.gradient(world.reward.square().log1p(), 1), **GOOD)


@pytest.mark.parametrize(("M", "G"), [(4, 3), (3, 4), (6, 3)])
def test_group_std_destroys_the_identity(M, G):
    """Negative control: with group std the update is not even parallel to either objective's gradient."""
    world = World(M, "cosine")
    combined = world.reward[world.groups(G)] + ALPHA * world.credit(G)
    update = world.expected_update(centred(combined) / (combined.std(-1, keepdim=True) + 1e-4), G)
    for size in (G - 1, G):
        objective = (G - 1) * world.reward_gradient() + ALPHA * world.volume_gradient(size)
        assert torch.cosine_similarity(update, objective, dim=0) < 0.999
    plain = world.expected_update(centred(combined), G)
    parallel = (G - 1) * world.reward_gradient() + ALPHA * world.volume_gradient(G - 1)
    assert torch.cosine_similarity(plain, parallel, dim=0) > 1 - 1e-12, "the control must be able to pass"


def test_group_std_makes_alpha_meaningless_when_rewards_tie():
    credit = World(6, "cosine").credit(4)
    credit = credit[credit.std(-1) > 0.01]
    largest = []
    for alpha in (1.0, 0.1, 0.01):
        combined = 1.0 + alpha * credit
        largest.append((centred(combined) / (combined.std(-1, keepdim=True) + 1e-4)).abs().max().item())
    assert largest[0] == pytest.approx(1.5, abs=0.01), "three against one: 3/2 of a standard deviation"
    assert largest[2] > 0.9 * largest[0], "a hundred times less alpha, nearly the same advantage"
    plain = [centred(1.0 + alpha * credit).abs().max().item() for alpha in (1.0, 0.01)]
    assert math.isclose(plain[1], plain[0] / 100, rel_tol=1e-9), "without std alpha scales the term"


def spread_gradient(world: World, passes: Tensor, G: int) -> Tensor:
    """(M,) gradient of sum_k P(K = k) E[V_(k-1)] over draws that pass, the chance of passing held fixed."""
    logits = world.logits.clone().requires_grad_()
    good = passes.nonzero().flatten()
    chance = world.logits.softmax(-1)[good].sum().item()
    log_pi = logits[good].log_softmax(-1)  # (M+,) among those that pass
    value = torch.zeros((), dtype=F64)
    for k in range(2, G + 1):
        groups = torch.cartesian_prod(*[torch.arange(len(good))] * (k - 1)).reshape(-1, k - 1)  # (K, k-1)
        L = world.L[good[groups].unsqueeze(-1), good[groups].unsqueeze(-2)]
        volume = torch.linalg.slogdet(torch.eye(k - 1, dtype=F64) + L / world.ridge).logabsdet  # (K,)
        weight = math.comb(G, k) * chance**k * (1 - chance) ** (G - k)
        value = value + weight * (log_pi[groups].sum(-1).exp() * volume).sum()
    return torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize(("M", "G"), [(4, 3), (5, 3), (6, 3), (4, 5)])
def test_spread_is_an_unbiased_gradient_of_the_volume_among_those_that_pass(M, G):
    world = World(M, "gate")
    passes = world.L.diagonal() > 0  # (M,)
    assert 1 < passes.sum() < M, "all or one passing would prove nothing"
    paid = centre_among(world.credit(G), passes[world.groups(G)])
    truth = spread_gradient(world, passes, G)
    assert truth.abs().max() > 1e-3
    assert_close(world.expected_update(paid, G), truth, **GOOD)
    assert_close(world.expected_update(centred(paid), G), truth, **GOOD)  # a host's group mean changes nothing


def test_passing_earns_nothing_under_spread_and_something_under_the_gate():
    """All that pass are copies of one answer: nothing to spread, and the plain gate pays it all the same."""
    world = World(5, "cosine")
    passes = torch.tensor([True, True, False, False, True])
    world.L = (passes.unsqueeze(0) & passes.unsqueeze(1)).to(F64)  # copies
    credit = world.credit(4)
    spread = world.expected_update(centre_among(credit, passes[world.groups(4)]), 4)
    assert spread.abs().max() < 1e-14
    gate = world.expected_update(centred(credit), 4)
    assert gate[passes].min() > 0.005, "the gate raises the probability of passing by itself"
