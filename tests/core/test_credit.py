import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from dqo.core import cosine_kernel, credit_range, gaussian_kernel, leave_one_out, scale_credit, weight_kernel
from dqo.errors import DQOError

check = settings(max_examples=40, deadline=None, derandomize=True)
F64 = torch.float64


def everyone(credit):
    return torch.ones_like(credit, dtype=torch.bool)


def test_range_of_the_paper_settings_by_hand():
    """Ridge 1, four responses: log(5/4) to log 2."""
    assert credit_range(4) == pytest.approx((math.log(1.25), math.log(2.0)), abs=1e-15)
    assert credit_range(1, 0.5) == pytest.approx((math.log(3.0), math.log(3.0)), abs=1e-15)


@pytest.mark.parametrize("ridge", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("G", [1, 2, 8, 64])
def test_copies_reach_the_low_end_and_orthogonal_the_high_end(G, ridge):
    low, high = credit_range(G, ridge)
    copies = cosine_kernel(torch.ones(G, 3, dtype=F64))
    signs = torch.ones(G, 1, dtype=F64)
    signs[::2] = -1.0
    opposite = cosine_kernel(signs * torch.ones(G, 3, dtype=F64))
    assert_close(leave_one_out(copies, ridge), torch.full((G,), low, dtype=F64), rtol=0, atol=1e-11)
    assert_close(leave_one_out(opposite, ridge), torch.full((G,), low, dtype=F64), rtol=0, atol=1e-11)
    assert_close(leave_one_out(torch.eye(G, dtype=F64), ridge), torch.full((G,), high, dtype=F64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kernel", [cosine_kernel, lambda E: gaussian_kernel(E, 0.7)], ids=["cosine", "gaussian"])
@given(seed=st.integers(0, 10_000), G=st.integers(1, 9), D=st.integers(1, 12), ridge=st.floats(0.01, 10.0))
@check
def test_every_credit_lies_in_the_range_and_its_share_in_zero_to_one(kernel, seed, G, D, ridge):
    E = torch.randn(G, D, generator=torch.Generator().manual_seed(seed), dtype=F64)
    credit = leave_one_out(kernel(E), ridge)
    low, high = credit_range(G, ridge)
    assert credit.min() >= low - 1e-10
    assert credit.max() <= high + 1e-10
    share = scale_credit(credit, "unit", filled=everyone(credit), ridge=ridge)
    assert share.min() >= 0.0
    assert share.max() <= 1.0 + 1e-8


def test_the_papers_upper_bound_is_loose():
    """No group of 8 comes near log(1 + 8): the tight bound does not grow with G."""
    assert credit_range(8)[1] == credit_range(800)[1] < math.log(9) / 3


@pytest.mark.parametrize("ridge", [0.1, 1.0])
@pytest.mark.parametrize("G", [2, 4, 16])
def test_unit_scale_maps_the_ends_to_zero_and_one(G, ridge):
    for L, share in ((torch.ones(G, G, dtype=F64), 0.0), (torch.eye(G, dtype=F64), 1.0)):
        credit = leave_one_out(L, ridge)
        got = scale_credit(credit, "unit", filled=everyone(credit), ridge=ridge)
        assert_close(got, torch.full((G,), share, dtype=F64), rtol=0, atol=1e-12)


def test_unit_scale_counts_non_empty_rows_of_each_group():
    """Three copies and an empty row: the low end is that of a group of three, not of four."""
    E = torch.tensor([[[1.0, 0.0]] * 3 + [[0.0, 0.0]], [[1.0, 0.0]] + [[0.0, 0.0]] * 3, [[0.0, 0.0]] * 4])
    L = cosine_kernel(E)
    filled = L.diagonal(dim1=-2, dim2=-1) > 0
    share = scale_credit(leave_one_out(L), "unit", filled=filled)
    expected = torch.tensor([[0.0] * 4, [1.0, 0.0, 0.0, 0.0], [0.0] * 4], dtype=F64)
    assert_close(share, expected, rtol=0, atol=1e-12)


def test_unit_scale_of_weighted_volume_is_a_share_of_the_high_end():
    """An orthogonal response of weight 0.5 at ridge 1 earns log 1.25, a share log 1.25 / log 2."""
    credit = leave_one_out(weight_kernel(torch.eye(3), torch.tensor([1.0, 0.5, 0.0])))
    share = scale_credit(credit, "unit", filled=everyone(credit), weighted=True)
    assert share.tolist() == pytest.approx([1.0, math.log(1.25) / math.log(2.0), 0.0], abs=1e-14)


def test_unit_scale_keeps_the_order(embeddings):
    credit = leave_one_out(cosine_kernel(embeddings("random", 0)))
    share = scale_credit(credit, "unit", filled=everyone(credit))
    assert torch.equal(credit.argsort(dim=-1), share.argsort(dim=-1))
    assert not torch.equal(credit[0].argsort(), torch.arange(6)), "sorted already would prove nothing"


def test_nats_are_left_alone(embeddings):
    credit = leave_one_out(cosine_kernel(embeddings("random", 0)))
    assert torch.equal(scale_credit(credit, "nats", filled=everyone(credit)), credit)


def test_errors():
    with pytest.raises(DQOError, match="`credit_scale` must be one of nats, unit, got 'bits'; choose one"):
        scale_credit(torch.ones(2), "bits", filled=torch.ones(2, dtype=torch.bool))
    with pytest.raises(DQOError, match="`ridge` must be a finite number above 0, got -1"):
        credit_range(3, -1)
    with pytest.raises(DQOError, match="`ridge` must be a finite number above 0, got 0"):
        scale_credit(torch.ones(2), "unit", filled=torch.ones(2, dtype=torch.bool), ridge=0)
