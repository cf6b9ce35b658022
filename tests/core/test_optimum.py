import importlib.util
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from dqo.core import cosine_kernel, leave_one_out
from dqo.errors import DQOError, NonFiniteError

F64 = torch.float64
_spec = importlib.util.spec_from_file_location("exact_groups", Path(__file__).parents[2] / "runs" / "exact_groups.py")
exact_groups = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(exact_groups)
ascend, enumerate_groups, exact_objective = (
    exact_groups.ascend,
    exact_groups.enumerate_groups,
    exact_groups.exact_objective,
)
group_payoff, joint_optimum, product_log_prob = (
    exact_groups.group_payoff,
    exact_groups.joint_optimum,
    exact_groups.product_log_prob,
)


def world(M, G, alpha=0.8, ridge=0.5, D=2):
    gen = torch.Generator().manual_seed(10 * M + G)
    L = cosine_kernel(torch.randn(M, D, generator=gen, dtype=F64))
    reward, logits, ref = torch.rand(3, M, generator=gen, dtype=F64)
    groups = enumerate_groups(M, G)
    return {
        "L": L,
        "reward": reward,
        "logits": logits,
        "ref": ref,
        "groups": groups,
        "payoff": group_payoff(groups, reward, L, alpha, ridge),
        "log_ref": product_log_prob(ref, groups),
    }


def test_groups_are_all_tuples_once_and_too_many_are_refused():
    assert [tuple(g) for g in enumerate_groups(3, 2).tolist()] == list(itertools.product(range(3), repeat=2))
    assert enumerate_groups(5, 1).tolist() == [[0], [1], [2], [3], [4]]
    with pytest.raises(DQOError, match=r"at most 1048576, got M=11 and G=6, which make 1771561; use fewer"):
        enumerate_groups(11, 6)
    with pytest.raises(DQOError, match="got M=3 and G=0; raise them"):
        enumerate_groups(3, 0)


def test_exact_objective_equals_a_plain_loop_with_the_kl_of_one_response():
    """The KL over the group must come out as G times the KL of a single response."""
    M, G, alpha, beta, ridge = 3, 3, 0.8, 0.3, 0.5
    w = world(M, G, alpha, ridge)
    pi, ref = w["logits"].softmax(-1), w["ref"].softmax(-1)
    value = -beta * G * sum(pi[y] * math.log(pi[y] / ref[y]) for y in range(M))
    for group in itertools.product(range(M), repeat=G):
        A = torch.eye(G, dtype=F64) + w["L"][list(group)][:, list(group)] / ridge
        worth = sum(w["reward"][y] for y in group) + alpha * torch.linalg.slogdet(A).logabsdet
        value += math.prod(pi[y] for y in group) * worth
    got = exact_objective(product_log_prob(w["logits"], w["groups"]), w["payoff"], w["log_ref"], beta)
    assert got.item() == pytest.approx(value.item(), abs=1e-12)


def test_joint_optimum_by_hand():
    """Two orthogonal responses, no rewards: copies are worth log 3, a pair log 4, so p* is 3, 4, 4, 3 of 14."""
    groups = enumerate_groups(2, 2)
    payoff = group_payoff(groups, torch.zeros(2), torch.eye(2), alpha=1.0)
    log_p, value = joint_optimum(payoff, product_log_prob(torch.zeros(2), groups), beta=1.0)
    assert log_p.exp().tolist() == pytest.approx([3 / 14, 4 / 14, 4 / 14, 3 / 14], abs=1e-14)
    assert value.item() == pytest.approx(math.log(3.5), abs=1e-14)


@pytest.mark.parametrize(("M", "G"), [(4, 2), (3, 3), (5, 2)])
@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_ascent_over_joint_policies_reaches_the_formula(M, G, beta):
    w = world(M, G)
    log_p, value = joint_optimum(w["payoff"], w["log_ref"], beta)
    assert log_p.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    assert exact_objective(log_p, w["payoff"], w["log_ref"], beta).item() == pytest.approx(value.item(), abs=1e-12)
    found, reached = ascend(
        lambda x: exact_objective(x.log_softmax(-1), w["payoff"], w["log_ref"], beta), torch.zeros(M**G)
    )
    assert_close(found.softmax(-1), log_p.exp(), rtol=0, atol=1e-6)
    assert reached.item() == pytest.approx(value.item(), abs=1e-10)


@pytest.mark.parametrize(("M", "G"), [(4, 2), (3, 3)])
def test_best_product_policy_is_stationary_and_worth_less_than_the_joint_optimum(M, G):
    w, beta = world(M, G), 0.2

    def objective(logits):
        return exact_objective(product_log_prob(logits, w["groups"]), w["payoff"], w["log_ref"], beta)

    found, reached = ascend(objective, w["logits"])
    assert reached > objective(w["logits"]) + 0.01
    x = found.clone().requires_grad_()
    assert torch.autograd.grad(objective(x), x)[0].abs().max() < 1e-8
    assert joint_optimum(w["payoff"], w["log_ref"], beta)[1] > reached + 1e-3


@pytest.mark.parametrize(("M", "G"), [(4, 2), (3, 3), (5, 3)])
def test_best_product_policy_tilts_the_reference_by_its_expected_credit(M, G):
    """pi(y) proportional to pi_ref(y) exp((r + alpha E[credit of y]) / beta), the credit from leave_one_out."""
    alpha, beta, ridge = 0.8, 0.2, 0.5
    w = world(M, G, alpha, ridge)
    found, _ = ascend(
        lambda x: exact_objective(product_log_prob(x, w["groups"]), w["payoff"], w["log_ref"], beta), w["logits"]
    )
    rest = enumerate_groups(M, G - 1)
    chance = product_log_prob(found, rest).exp()  # (M^(G-1),)
    expected_credit = []
    for y in range(M):
        group = torch.cat([torch.full((len(rest), 1), y), rest], dim=-1)
        credit = leave_one_out(w["L"][group.unsqueeze(-1), group.unsqueeze(-2)], ridge)[:, 0]
        expected_credit.append((chance * credit).sum())
    tilted = w["ref"].log_softmax(-1) + (w["reward"] + alpha * torch.stack(expected_credit)) / beta
    assert_close(found.softmax(-1), tilted.softmax(-1), rtol=0, atol=1e-6)
    assert (tilted.softmax(-1) - w["ref"].softmax(-1)).abs().max() > 0.05


def test_without_diversity_product_and_joint_optimum_are_the_tilted_reference():
    """alpha = 0: both are independent draws from pi_ref exp(r / beta), known in closed form."""
    beta = 0.5
    w = world(4, 3, alpha=0.0)
    tilted = w["ref"].log_softmax(-1) + w["reward"] / beta
    log_p, value = joint_optimum(w["payoff"], w["log_ref"], beta)
    assert_close(log_p, product_log_prob(tilted, w["groups"]), rtol=0, atol=1e-12)
    assert value.item() == pytest.approx(3 * beta * tilted.logsumexp(-1).item(), abs=1e-12)
    found, _ = ascend(
        lambda x: exact_objective(product_log_prob(x, w["groups"]), w["payoff"], w["log_ref"], beta), torch.zeros(4)
    )
    assert_close(found.softmax(-1), tilted.softmax(-1), rtol=0, atol=1e-7)


def test_diversity_spreads_the_best_product_policy():
    """Two copies of a good answer and one different good answer: alpha moves mass to the odd one out."""
    L = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=F64)
    groups = enumerate_groups(3, 3)
    log_ref = product_log_prob(torch.zeros(3), groups)
    mass = []
    for alpha in (0.0, 0.5, 50.0):
        payoff = group_payoff(groups, torch.ones(3), L, alpha)
        found, _ = ascend(
            lambda x, payoff=payoff: exact_objective(product_log_prob(x, groups), payoff, log_ref, 0.1), torch.zeros(3)
        )
        mass.append(found.softmax(-1)[2].item())
    assert mass[0] == pytest.approx(1 / 3, abs=1e-6)
    assert mass[0] + 0.05 < mass[1] <= mass[2] + 1e-6
    assert mass[2] == pytest.approx(0.5, abs=0.01)


def test_raw_determinant_with_alpha_equal_beta_is_a_k_dpp():
    """Probabilities and normaliser of det(L_psi), the latter from its eigenvalues: e_2 of a k-DPP with k = 2."""
    M, G, alpha = 5, 2, 0.4
    w = world(M, G, D=4)
    ref = w["ref"].softmax(-1)
    a, b = w["groups"].unbind(-1)
    raw = (1.0 - w["L"][a, b].square()).clamp_min(0.0).log().masked_fill(a == b, -torch.inf)  # log det of 2 x 2
    log_p, value = joint_optimum(w["reward"][w["groups"]].sum(-1) + alpha * raw, w["log_ref"], beta=alpha)

    psi = (w["reward"] / alpha).exp().mul(ref).sqrt()
    lam = torch.linalg.eigvalsh(psi.unsqueeze(-1) * w["L"] * psi)
    e_2 = sum(x * y for x, y in itertools.combinations(lam.tolist(), 2))
    assert value.item() == pytest.approx(alpha * math.log(2 * e_2), abs=1e-10)  # every set in 2! orders
    for y, z in itertools.combinations(range(M), 2):
        pair = [y, z]
        dpp = torch.linalg.det((psi.unsqueeze(-1) * w["L"] * psi)[pair][:, pair]) / e_2
        assert 2 * log_p[y * M + z].exp().item() == pytest.approx(dpp.item(), abs=1e-12)
    assert (log_p[a == b] == -torch.inf).all()


def test_errors():
    w = world(3, 2)
    with pytest.raises(DQOError, match="`beta` above 0, got 0; without a KL it is not unique"):
        joint_optimum(w["payoff"], w["log_ref"], 0)
    payoff = w["payoff"].clone()
    payoff[4] = -torch.inf
    with pytest.raises(NonFiniteError, match="`payoff` of group 4 is -inf; give every group"):
        exact_objective(w["log_ref"], payoff, w["log_ref"], 0.1)
