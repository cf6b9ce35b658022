"""Ties and thresholds hold in any unit: a tolerance is a share of the numbers, not a number."""

import math

import pytest
import torch

from dqo.core import cosine_kernel, explained_variance, leave_one_out, log_volume, reaches, slack
from dqo.diversity.signals import unlikeliness_share
from dqo.diversity.tricks import encoder_disagreement, low_quality_credit
from dqo.errors import NotPSDError

F64 = torch.float64


def test_slack_by_hand():
    values = torch.tensor([[1.0, -2000.0, float("nan")], [0.0, 0.0, float("nan")], [3e-9, 1e-9, 0.0]])
    assert slack(values).squeeze(1).tolist() == pytest.approx([2e-3, 0.0, 3e-15], rel=1e-6)


@pytest.mark.parametrize("threshold", [1e-8, 1e-3, 0.7, 100.1, -100.1])
def test_a_reward_reaches_its_threshold_in_any_unit(threshold):
    near = torch.tensor([threshold, threshold - 1e-4 * abs(threshold), threshold + 1e-4 * abs(threshold)])
    assert reaches(near, threshold).tolist() == [True, False, True]
    assert reaches(torch.tensor([0.0]), threshold).tolist() == [threshold < 0]


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1000.1])
def test_the_poorer_half_has_no_member_by_rounding(unit):
    up = torch.nextafter(torch.tensor(unit), torch.tensor(torch.inf))
    tied = torch.stack([torch.tensor(unit), up, torch.tensor(unit), up]).unsqueeze(0)
    credit = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert low_quality_credit(credit, tied) == 0.5, "equal rewards take equal parts"
    assert low_quality_credit(credit, unit * torch.tensor([[1.0, 2.0, 1.0, 2.0]])) == 1.0


@pytest.mark.parametrize("length", [1.0, 300.0])
def test_copies_share_their_rank_although_their_log_probabilities_were_rounded(length):
    logp = -length * torch.tensor([[1.0, 1.0 + 2e-7, 2.0, 0.5]])
    scored = torch.tensor([[True] * 4])
    assert unlikeliness_share(logp, scored).tolist() == [[1 - 1.5 / 4, 1 - 1.5 / 4, 1.0, 1 - 3 / 4]]


def test_log_probabilities_of_responses_without_a_score_set_no_tolerance():
    logp = torch.tensor([[-1.0, -1.001, -float("inf"), float("nan")]])
    scored = torch.tensor([[True, True, False, False]])
    assert unlikeliness_share(logp, scored).tolist() == [[0.5, 1.0, 1.0, 1.0]]


@pytest.mark.parametrize("unit", [1e-10, 1.0, 1e6])
def test_an_asymmetric_matrix_is_refused_in_any_unit(unit):
    L = unit * torch.tensor([[1.0, 0.3], [0.2, 1.0]], dtype=F64)
    with pytest.raises(NotPSDError, match="is not symmetric"):
        log_volume(L, ridge=unit)
    volume = log_volume(unit * torch.eye(2, dtype=F64), ridge=unit)
    assert volume.item() == pytest.approx(2 * math.log(2))


def test_a_product_in_float32_is_symmetric_enough():
    E = torch.nn.functional.normalize(torch.randn(50, 8, 384, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert (leave_one_out(E @ E.mT) > 0).all()


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e6])
def test_returns_vary_in_any_unit(unit):
    returns, values = unit * torch.tensor([1.0, 2.0, 3.0], dtype=F64), unit * torch.tensor([1.0, 2.0, 4.0], dtype=F64)

    def share(R, V):
        columns = (R, R.square(), R - V, (R - V).square())
        return explained_variance(torch.tensor(3.0), torch.stack([column.sum() for column in columns])).item()

    assert share(returns, values) == pytest.approx(1 - (2 / 9) / (2 / 3))
    assert share(torch.full((3,), unit, dtype=F64), values) != share(returns, values)
    assert torch.tensor(share(torch.full((3,), unit, dtype=F64), values)).isnan()


def test_two_encoders_that_agree_in_any_unit_of_their_embeddings():
    E = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1), dtype=F64)
    assert encoder_disagreement(E, 1e-6 * E).tolist() == pytest.approx([0.0] * 3, abs=1e-12)
    assert torch.equal(cosine_kernel(E).argmax(-1), torch.arange(6).expand(3, 6))
