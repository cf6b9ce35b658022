"""Scaling of advantages: the host's numbers without guards, and what the guards do to tied groups."""

import pytest
import torch
from torch.testing import assert_close

from dqo.core import REWARD_SCALES, effective_alpha, scaled_advantage, tied_groups
from dqo.errors import DQOError

F64 = torch.float64
NAN = float("nan")
TASK = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]], dtype=F64)
PAID = torch.tensor([[0.01, 0.02, 0.03, 0.02], [0.4, 0.0, 0.0, 0.4]], dtype=F64)


def test_without_guards_by_hand():
    # group 2: rewards .4 0 1 1.4, mean .7, variance (.09+.49+.09+.49)/3 = .386667, std .621825
    none = scaled_advantage(TASK, TASK + PAID, "none")
    assert_close(none[1], torch.tensor([-0.3, -0.7, 0.3, 0.7], dtype=F64))
    group = scaled_advantage(TASK, TASK + PAID, "group")
    assert_close(group[1], none[1] / (0.6218253 + 1e-4), atol=1e-6, rtol=0)
    assert group[0].abs().max() > 1.2, "a hundredth of credit becomes a whole advantage in a tied group"


def test_floor_keeps_a_tied_group_small_and_leaves_others_alone():
    guarded = scaled_advantage(TASK, TASK + PAID, "group", std_floor=0.5)
    assert_close(guarded[0], torch.tensor([-0.01, 0.0, 0.01, 0.0], dtype=F64) / 0.5001)
    assert_close(guarded[1], scaled_advantage(TASK, TASK + PAID, "group")[1])


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_decoupled_credit_is_worth_the_same_in_every_group(scale):
    advantage = scaled_advantage(TASK, TASK + PAID, scale, decoupled=True)
    assert_close(advantage[0], torch.tensor([-0.01, 0.0, 0.01, 0.0], dtype=F64))
    task_only = scaled_advantage(TASK, TASK, scale)
    assert_close(advantage[1] - task_only[1], torch.tensor([0.2, -0.2, -0.2, 0.2], dtype=F64))


@pytest.mark.parametrize("scale", REWARD_SCALES)
@pytest.mark.parametrize("decoupled", [True, False])
def test_an_unscorable_response_gets_nothing_and_changes_nobody(scale, decoupled):
    task = torch.cat([TASK, torch.full((2, 1), NAN, dtype=F64)], dim=1)
    shaped = torch.cat([TASK + PAID, torch.full((2, 1), NAN, dtype=F64)], dim=1)
    advantage = scaled_advantage(task, shaped, scale, decoupled=decoupled)
    assert (advantage[:, 4] == 0).all()
    assert_close(advantage[:, :4], scaled_advantage(TASK, TASK + PAID, scale, decoupled=decoupled))


def test_ties_are_those_of_the_task_reward():
    assert tied_groups(TASK).tolist() == [True, False]
    assert tied_groups(TASK + PAID).tolist() == [False, False], "why the shaped reward must not be asked"
    assert tied_groups(torch.tensor([[NAN, 1.0, 1.0], [NAN, NAN, 0.0], [NAN, NAN, NAN], [NAN, 0.0, 1.0]])).tolist() == [
        True, True, True, False,
    ]  # fmt: skip


def test_refusals():
    with pytest.raises(DQOError, match=r"one of none, batch, group \(did you mean 'group'\?\), got 'groups'"):
        scaled_advantage(TASK, TASK, "groups")


def float32_tie(reward, below=3):
    """Eight equal rewards whose last float32 digits differ, as sums of columns in another order do."""
    step = torch.tensor(reward, dtype=torch.float32)
    values = [step]
    for _ in range(below):
        values.append(torch.nextafter(values[-1], torch.tensor(-float("inf"))))
    return torch.stack([*values, *values])[:8].unsqueeze(0)


@pytest.mark.parametrize("reward", [10.1, 100.1, 1000.1, -1000.1, 1e6 + 0.1, 0.7, 1e-3, 1e-9])
def test_float32_rewards_that_tie_are_tied_at_every_magnitude(reward):
    task = float32_tie(reward)
    assert task.unique().numel() == 4
    assert tied_groups(task).tolist() == [True]
    assert tied_groups(task.double() * (1 + 1e-4 * torch.arange(8))).tolist() == [False]
    for scale in REWARD_SCALES:
        for decoupled in (True, False):
            advantage = scaled_advantage(task, task, scale, decoupled=decoupled)
            assert advantage.abs().max() < 1e-9, (scale, decoupled)
    for scaling in ("group", "batch", "centred"):
        assert torch.tensor(effective_alpha(1.0, task.double(), scaling)).isnan(), scaling


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1.0, 1e6])
def test_rewards_that_differ_count_in_any_unit(unit):
    task = torch.tensor([[0.1, 0.2, 0.1, 0.4]], dtype=F64) * unit
    assert tied_groups(task).tolist() == [False]
    assert torch.isfinite(torch.tensor(effective_alpha(1.0, task, "group")))
    assert_close(
        scaled_advantage(task, task, "none"), unit * torch.tensor([[-0.1, 0.0, -0.1, 0.2]], dtype=F64),
        atol=1e-12 * unit, rtol=0,
    )  # fmt: skip


def test_a_tied_group_of_large_rewards_gets_the_credit_and_nothing_else():
    task = float32_tie(1000.1)
    credit = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.1, 0.2, 0.3, 0.4]], dtype=F64)
    advantage = scaled_advantage(task, task.double() + credit, "none")
    assert_close(advantage, credit - 0.25, atol=1e-12, rtol=0)
