"""GAE against a loop written from the definition, hand-worked numbers, and a chain whose values are known."""

import pytest
import torch

from dqo.core import clipped_value_error, explained_variance, gae
from dqo.errors import NonFiniteError


def slow_gae(rewards, values, steps, gamma, lam, last):
    """Sum of discounted temporal differences over the steps of one row, term by term."""
    kept = [t for t, step in enumerate(steps) if step]
    V = [values[t] for t in kept] + [last]
    deltas = [rewards[t] + gamma * V[k + 1] - V[k] for k, t in enumerate(kept)]
    advantages = [0.0] * len(steps)
    for k, t in enumerate(kept):
        advantages[t] = sum((gamma * lam) ** (j - k) * deltas[j] for j in range(k, len(kept)))
    return advantages


@pytest.fixture
def drawn():
    gen = torch.Generator().manual_seed(3)
    mask = torch.rand(6, 9, generator=gen) < 0.7
    mask[0], mask[1] = True, False
    assert mask[2:].any(1).all(), "rows with gaps need steps"
    rewards, values = torch.randn(2, 6, 9, generator=gen, dtype=torch.float64)
    return rewards, values, mask, torch.randn(6, generator=gen, dtype=torch.float64)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.7, 0.0), (0.0, 0.3)])
def test_equals_the_definition_over_the_steps_of_each_row(drawn, gamma, lam):
    rewards, values, mask, last = drawn
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam, bootstrap=last)
    expected = torch.tensor(
        [
            slow_gae(r, v, m, gamma, lam, b)
            for r, v, m, b in zip(*(x.tolist() for x in (rewards, values, mask, last)), strict=True)
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(advantages, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(returns, (expected + values) * mask, atol=1e-12, rtol=0)
    assert (advantages[1] == 0).all(), "a row without steps"


def test_hand_worked():
    rewards = torch.tensor([[0.0, 1.0, 9.0]])
    values = torch.tensor([[0.5, 0.25, 9.0]])
    mask = torch.tensor([[1, 1, 0]])
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    # delta_1 = 1 - 0.25 = 0.75; delta_0 = 0.5*0.25 - 0.5 = -0.375; A_0 = -0.375 + 0.25*0.75
    torch.testing.assert_close(advantages, torch.tensor([[-0.1875, 0.75, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[0.3125, 1.0, 0.0]]))
    later, _ = gae(rewards, values, mask, gamma=0.5, lam=0.5, bootstrap=torch.tensor([2.0]))
    torch.testing.assert_close(later[0, 1], torch.tensor(1.75))


def test_what_stands_outside_the_mask_is_not_read_and_half_precision_becomes_float32(drawn):
    rewards, values, mask, _ = drawn
    clean = gae(rewards, values, mask)
    spoilt = (x.masked_fill(~mask, torch.nan) for x in (rewards, values))
    for a, b in zip(clean, gae(*spoilt, mask), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    assert gae(rewards.bfloat16(), values.bfloat16(), mask)[0].dtype == torch.float32
    assert clean[0].dtype == torch.float64
    assert not gae(rewards, values.requires_grad_(), mask)[1].requires_grad, "targets carry no gradient"


def test_mistakes_are_told(drawn):
    rewards, values, mask, _ = drawn
    values[4, mask[4].nonzero()[0]] = torch.inf
    with pytest.raises(NonFiniteError, match="finite values, row 4 of 6"):
        gae(rewards, values, mask)


def test_clipping_stops_a_value_that_has_gone_far_enough_and_never_one_that_strays():
    old, returns = torch.zeros(1, 4), torch.ones(1, 4)
    values = torch.tensor([[0.1, 0.5, -0.5, 1.5]], requires_grad=True)
    error, clipped = clipped_value_error(values, old, returns, 0.2)
    error.sum().backward()
    assert clipped.tolist() == [[False, True, False, True]]
    torch.testing.assert_close(values.grad, torch.tensor([[-0.9, 0.0, -1.5, 0.0]]))
    torch.testing.assert_close(error.detach(), torch.tensor([[0.405, 0.32, 1.125, 0.32]]))
    near = torch.linspace(-0.1, 0.1, 200)[None]  # inside of the range nothing is clipped, by rounding neither
    _, clipped = clipped_value_error(near, near.roll(1) / 3, near.flip(1), 0.2)
    assert not clipped.any()
    free, none = clipped_value_error(values, old, returns)
    torch.testing.assert_close(free.detach(), (values.detach() - 1).square() / 2)
    assert not none.any()


@pytest.mark.parametrize(("noise", "expected"), [(0.0, 1.0), (0.5, 0.75), (2.0, -3.0)])
def test_explained_variance_of_values_with_known_noise(noise, expected):
    gen = torch.Generator().manual_seed(0)
    returns = torch.randn(200_000, generator=gen, dtype=torch.float64) + 3
    error = noise * torch.randn(200_000, generator=gen, dtype=torch.float64) + 1  # a bias is not variance
    sums = torch.stack([x.sum() for x in (returns, returns**2, error, error**2)])
    found = explained_variance(torch.tensor(200_000.0), sums)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=0.05, rtol=0)


def test_explained_variance_of_constant_returns_is_undefined():
    sums = torch.tensor([8.0, 16.0, 0.0, 0.0], dtype=torch.float64)  # four returns of 2
    assert explained_variance(torch.tensor(4.0), sums).isnan()


def walk(values, gen, rows=256, longest=6):
    """Random walks on states 0..4 from the middle, +1 for leaving on the right; cut off after `longest` steps."""
    states = torch.full((rows, longest + 1), 2)
    mask, rewards = torch.zeros(rows, longest), torch.zeros(rows, longest)
    alive = torch.ones(rows, dtype=torch.bool)
    for t in range(longest):
        mask[:, t] = alive.float()
        moved = states[:, t] + torch.randint(0, 2, (rows,), generator=gen) * 2 - 1
        rewards[:, t] = (alive & (moved == 5)).float()
        alive &= (moved >= 0) & (moved <= 4)
        states[:, t + 1] = moved.clamp(0, 4)
    return states[:, :-1], rewards, mask, values[states[:, -1]].detach() * alive


@pytest.mark.parametrize("bootstraps", [True, False])
def test_values_of_a_random_walk_are_learned_though_most_walks_are_cut_off(bootstraps):
    gen = torch.Generator().manual_seed(1)
    values = torch.zeros(5, requires_grad=True)
    known = torch.arange(1, 6) / 6  # probability of leaving on the right (Sutton and Barto, example 6.2)
    adam = torch.optim.Adam([values], lr=0.03)
    for step in range(300):
        adam.param_groups[0]["lr"] = 0.03 * (1 - step / 300)
        states, rewards, mask, last = walk(values, gen)
        old = values.detach()[states]
        _, returns = gae(rewards, old, mask, lam=0.9, bootstrap=last if bootstraps else None)
        error, _ = clipped_value_error(values[states], old, returns, 0.2)
        adam.zero_grad()
        ((error * mask).sum() / mask.sum()).backward()
        adam.step()
    furthest = (values - known).abs().max()
    assert furthest < 0.03 if bootstraps else furthest > 0.1, "ending what is only cut off gives other values"
