import math

import pytest
import torch
from torch.testing import assert_close

from dqo.core import (
    COMBINE_RULES,
    combine_reward,
    cosine_kernel,
    leave_one_out,
    log_volume,
    quality_weights,
    weight_kernel,
)
from dqo.errors import DQOError

F64 = torch.float64
NAN = float("nan")


def test_gate_passes_at_the_threshold_and_stops_nan():
    q = quality_weights(torch.tensor([0.4, 0.5, 0.9, NAN]), "gate", threshold=0.5)
    assert q.dtype == F64
    assert q.tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("reward", [0.7, 0.9, 0.95, 0.1, 1.0, -0.3, 70.1])
def test_a_reward_at_the_threshold_passes_though_the_host_kept_it_in_float32(reward):
    kept = torch.tensor([reward]).double()
    for rule in ("gate", "spread"):
        assert quality_weights(kept, rule, threshold=reward).item() == 1
        assert quality_weights(kept, rule, threshold=reward + 1e-3).item() == 0


def test_a_weighted_sum_of_float32_may_round_above_one():
    assert quality_weights(torch.tensor([1.0 + 2e-7, -2e-7, 0.5]), "quality_weighted").tolist() == [1, 0, 0.5]


def test_quality_weights_are_the_reward_or_a_fixed_sigmoid():
    assert quality_weights(torch.tensor([0.0, 0.25, 1.0, NAN]), "quality_weighted").tolist() == [0.0, 0.25, 1.0, 0.0]
    q = quality_weights(torch.tensor([-3.0, -1.0, 1.0, NAN]), "quality_weighted", center=-1.0, scale=2.0)
    assert q.tolist() == pytest.approx([1 / (1 + math.e), 0.5, 1 / (1 + math.exp(-1)), 0.0], abs=1e-12)


@pytest.mark.parametrize("rule", ["add", "multiply"])
def test_rules_without_weights_let_every_response_in(rule):
    assert quality_weights(torch.tensor([-5.0, 7.0]), rule) is None


@pytest.mark.parametrize("reward", [1.5, -0.1, float("inf")])
def test_weight_outside_zero_to_one_names_the_row(reward):
    with pytest.raises(DQOError, match=r"rewards in \[0, 1\] as weights, row 3 has .*; rescale it"):
        quality_weights(torch.tensor([[0.5, NAN], [1.0, reward]]), "quality_weighted")


def test_unknown_rule_is_refused_in_both_places():
    for call in (lambda: quality_weights(torch.ones(1), "max"), lambda: combine_reward(*torch.ones(2, 1), "max", 1.0)):
        with pytest.raises(DQOError, match=f"`combine` must be one of {', '.join(COMBINE_RULES)}, got 'max'"):
            call()


@pytest.mark.parametrize("ridge", [0.1, 1.0, 10.0])
def test_weighted_volume_of_identical_responses_is_log_one_plus_sum_of_squares(ridge):
    q = torch.tensor([1.0, 0.5, 0.25, 0.0], dtype=F64)
    L = weight_kernel(cosine_kernel(torch.ones(4, 3)), q)
    assert log_volume(L, ridge).item() == pytest.approx(math.log1p(1.3125 / ridge), abs=1e-13)


def test_response_of_no_quality_earns_nothing_and_pushes_nobody_away(embeddings):
    L = cosine_kernel(embeddings("random", 0))
    q = torch.ones(3, 6, dtype=F64)
    q[:, 2] = 0.0
    credit = leave_one_out(weight_kernel(L, q))
    keep = [0, 1, 3, 4, 5]
    assert (credit[:, 2] == 0).all()
    assert_close(credit[:, keep], leave_one_out(L[:, keep][:, :, keep]), rtol=0, atol=1e-13)
    assert (leave_one_out(L)[:, keep] < credit[:, keep] - 1e-4).any(), "at full weight it does push others away"


def test_credit_of_weighted_volume_grows_with_own_quality(embeddings):
    L = cosine_kernel(embeddings("random", 1))[0]
    q = torch.full((6,), 0.5, dtype=F64)
    credits = []
    for own in (0.0, 0.2, 0.6, 1.0):
        q[3] = own
        credits.append(leave_one_out(weight_kernel(L, q))[3].item())
    assert credits == sorted(credits)
    assert credits[0] == 0.0
    assert credits[-1] > 0.1


@pytest.mark.parametrize("rule", ["add", "gate", "quality_weighted"])
def test_additive_rules_add_by_hand(rule):
    got = combine_reward(torch.tensor([1.0, -1.0, NAN]), torch.tensor([0.2, 0.4, 0.6]), rule, alpha=0.5)
    assert_close(got, torch.tensor([1.1, -0.8, NAN], dtype=F64), equal_nan=True)


def test_multiply_by_hand_and_its_refusal_of_negative_rewards():
    credit = torch.tensor([[0.2, 0.4], [0.6, 0.8]], dtype=F64)
    got = combine_reward(torch.tensor([[2.0, 0.0], [NAN, 1.0]]), credit, "multiply", alpha=0.5)
    assert_close(got, torch.tensor([[2.2, 0.0], [NAN, 1.4]], dtype=F64), equal_nan=True)
    with pytest.raises(
        DQOError, match=r"needs rewards >= 0, row 2 has -0\.5, for which more diversity would mean less"
    ):
        combine_reward(torch.tensor([[2.0, 0.0], [-0.5, 1.0]]), credit, "multiply", alpha=0.5)


@pytest.mark.parametrize("rule", COMBINE_RULES)
def test_alpha_zero_is_the_task_reward(rule):
    reward = torch.tensor([0.3, 0.9], dtype=F64)
    assert torch.equal(combine_reward(reward, torch.tensor([5.0, 7.0], dtype=F64), rule, alpha=0.0), reward)
