import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from dqo.core import cosine_kernel, gaussian_kernel, leave_one_out, linear_kernel, log_volume
from dqo.errors import DQOError, NonFiniteError, NotPSDError

KERNELS = {"cosine": cosine_kernel, "gaussian": lambda E: gaussian_kernel(E, 0.7)}
RIDGE = st.floats(0.01, 10.0)
check = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def groups(draw, least=2):
    """One group (G, D) and the generator that made it; some rows copied, negated, nearly copied or emptied."""
    gen = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    G, D = draw(st.integers(least, 9)), draw(st.integers(2, 12))
    E = torch.randn(G, D, generator=gen, dtype=torch.float64)  # (G, D)
    factors = draw(st.lists(st.sampled_from([None, None, 1.0, -1.0, 1.0 + 1e-7, 0.0]), min_size=G, max_size=G))
    for row, factor in enumerate(factors[1:], start=1):
        if factor is not None:
            E[row] = factor * E[row - 1]
    return E, gen


def test_two_responses_by_hand():
    """Cosine 0.6 at ridge 1: det [[2, .6], [.6, 2]] = 3.64, and one response alone has volume log 2."""
    L = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    assert log_volume(L).item() == pytest.approx(math.log(3.64), abs=1e-14)
    assert leave_one_out(L).tolist() == pytest.approx([math.log(1.82)] * 2, abs=1e-14)


@pytest.mark.parametrize("ridge", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("name", KERNELS)
def test_leave_one_out_equals_deleted_row_determinants(name, ridge, kind, embeddings, oracle_credit):
    L = KERNELS[name](embeddings(kind, 11))  # (P, G, G)
    expected = torch.stack([oracle_credit(group, ridge) for group in L])  # (P, G)
    assert expected.abs().max() > 0.01, "a comparison of zeros would prove nothing"
    assert_close(leave_one_out(L, ridge), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", KERNELS)
@given(drawn=groups(), ridge=RIDGE)
@check
def test_leave_one_out_equals_deleted_row_determinants_of_any_group(name, oracle_credit, drawn, ridge):
    L = KERNELS[name](drawn[0])
    assert_close(leave_one_out(L, ridge), oracle_credit(L, ridge), rtol=0, atol=1e-10)


@pytest.mark.parametrize("ridge", [0.01, 1.0, 10.0])
def test_volume_equals_slogdet(ridge, kind, embeddings):
    L = cosine_kernel(embeddings(kind, 12))
    A = torch.eye(6, dtype=torch.float64) + L / ridge
    assert_close(log_volume(L, ridge), torch.linalg.slogdet(A).logabsdet, rtol=0, atol=1e-10)


def test_ridge_divides_the_kernel_rather_than_adding_to_it():
    """log det(I + L/4) of one response is log 1.25; log det(L + 4I) would be log 5."""
    L = torch.ones(1, 1, dtype=torch.float64)
    assert log_volume(L, 4.0).item() == pytest.approx(math.log(1.25), abs=1e-15)
    assert leave_one_out(L, 4.0).item() == pytest.approx(math.log(1.25), abs=1e-15)


@pytest.mark.filterwarnings("ignore:linear_kernel got rows")
@pytest.mark.parametrize("ridge", [0.5, 1.0])
def test_unnormalised_row_is_paid_for_its_norm(ridge):
    """Orthogonal rows of squared norm 9 and 1 earn log(1 + 9/ridge) and log(1 + 1/ridge)."""
    credit = leave_one_out(linear_kernel(torch.tensor([[3.0, 0.0], [0.0, 1.0]])), ridge)
    assert credit.tolist() == pytest.approx([math.log1p(9 / ridge), math.log1p(1 / ridge)], abs=1e-14)


@given(drawn=groups(), ridge=RIDGE)
@check
def test_credit_equals_leverage_score_and_residual_distance(drawn, ridge):
    """-log(1 - leverage), and log(1 + s/ridge) with s the ridge-regression residual on the other rows."""
    L = cosine_kernel(drawn[0])
    G = len(L)
    leverage = torch.linalg.solve(L + ridge * torch.eye(G, dtype=L.dtype), L).diagonal()
    credit = leave_one_out(L, ridge)
    assert_close(credit, -torch.log1p(-leverage), rtol=0, atol=1e-10)
    for i in range(G):
        rest = [j for j in range(G) if j != i]
        K = L[rest][:, rest] + ridge * torch.eye(G - 1, dtype=L.dtype)
        residual = L[i, i] - L[i, rest] @ torch.linalg.solve(K, L[rest, i])
        assert credit[i].item() == pytest.approx(math.log1p(max(residual.item(), 0.0) / ridge), abs=1e-10)


@given(drawn=groups(), ridge=RIDGE)
@check
def test_sum_of_credits_never_exceeds_the_volume(drawn, ridge):
    L = cosine_kernel(drawn[0])
    assert leave_one_out(L, ridge).sum() <= log_volume(L, ridge) + 1e-10


def test_sum_of_credits_reaches_the_volume_only_when_orthogonal():
    eye = torch.eye(5, dtype=torch.float64)
    assert_close(leave_one_out(eye, 0.3).sum(), log_volume(eye, 0.3), rtol=0, atol=1e-13)
    eye[0, 1] = eye[1, 0] = 0.5
    assert leave_one_out(eye, 0.3).sum() < log_volume(eye, 0.3) - 0.05


@given(drawn=groups(least=3), ridge=RIDGE)
@check
def test_adding_a_response_never_raises_anothers_credit_nor_lowers_the_volume(drawn, ridge):
    L = cosine_kernel(drawn[0])
    assert (leave_one_out(L, ridge)[:-1] <= leave_one_out(L[:-1, :-1], ridge) + 1e-10).all()
    assert log_volume(L, ridge) >= log_volume(L[:-1, :-1], ridge) - 1e-12


@given(drawn=groups(least=4), ridge=RIDGE)
@check
def test_permutation_permutes_the_credits(drawn, ridge):
    E, gen = drawn
    perm = torch.randperm(len(E), generator=gen)
    perm = perm.roll(1) if torch.equal(perm, torch.arange(len(E))) else perm
    assert not torch.equal(perm, torch.arange(len(E))), "the identity would make the next lines vacuous"
    L = cosine_kernel(E)
    assert_close(leave_one_out(cosine_kernel(E[perm]), ridge), leave_one_out(L, ridge)[perm], rtol=0, atol=1e-10)
    assert_close(log_volume(L[perm][:, perm], ridge), log_volume(L, ridge), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", KERNELS)
@given(drawn=groups(), ridge=RIDGE)
@check
def test_rotation_and_length_change_nothing(name, drawn, ridge):
    E, gen = drawn
    Q = torch.linalg.qr(torch.randn(E.shape[1], E.shape[1], generator=gen, dtype=E.dtype)).Q
    lengths = 10 ** (4 * torch.rand(len(E), 1, generator=gen, dtype=E.dtype) - 2)
    assert not torch.allclose(E @ Q, E, atol=1e-3), "the identity would make the next line vacuous"
    kernel = KERNELS[name]
    assert_close(leave_one_out(kernel(E @ Q * lengths), ridge), leave_one_out(kernel(E), ridge), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", KERNELS)
def test_zero_rows_earn_nothing_and_touch_nobody(name):
    E = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with_empty = torch.cat([E[:2], torch.zeros(2, 4, dtype=E.dtype), E[2:]])
    credit = leave_one_out(KERNELS[name](with_empty))
    assert (credit[2:4] == 0).all()
    assert_close(credit[[0, 1, 4, 5, 6]], leave_one_out(KERNELS[name](E)), rtol=0, atol=1e-13)
    assert (leave_one_out(KERNELS[name](torch.zeros(2, 3, 4))) == 0).all()


def test_group_of_none_has_volume_zero():
    assert log_volume(torch.zeros(3, 0, 0)).tolist() == [0.0, 0.0, 0.0]
    assert leave_one_out(torch.zeros(3, 0, 0)).shape == (3, 0)


def test_batching_equals_looping(kind, embeddings):
    L = cosine_kernel(embeddings(kind, 13))
    assert_close(leave_one_out(L), torch.stack([leave_one_out(group) for group in L]), rtol=0, atol=1e-13)
    assert_close(log_volume(L), torch.stack([log_volume(group) for group in L]), rtol=0, atol=1e-13)
    assert_close(leave_one_out(L[None])[0], leave_one_out(L), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_kernel_of_low_precision_is_taken_though_its_product_is_not_exactly_symmetric(dtype):
    E = torch.randn(4, 7, 37, generator=torch.Generator().manual_seed(0))
    E = (E / E.norm(dim=-1, keepdim=True)).to(dtype)
    credit = leave_one_out(E @ E.mT)
    assert credit.dtype == torch.float64
    assert_close(credit, leave_one_out(cosine_kernel(E)), rtol=0, atol=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("function", [log_volume, leave_one_out])
class TestErrors:
    @pytest.mark.parametrize("ridge", [0, -1.0, float("nan"), float("inf")])
    def test_ridge(self, function, ridge):
        with pytest.raises(DQOError, match=r"`ridge` must be a finite number above 0, got .*; the paper uses 1\.0"):
            function(torch.eye(2), ridge)

    @pytest.mark.parametrize("L", [torch.ones(3), torch.ones(2, 3)])
    def test_shape(self, function, L):
        with pytest.raises(DQOError, match=r"must have shape \(\.\.\., G, G\), got \("):
            function(L)

    def test_asymmetric_group_is_named(self, function):
        L = torch.eye(3, dtype=torch.float64).repeat(4, 1, 1)
        L[2, 0, 1] = 0.1
        with pytest.raises(NotPSDError, match="that of group \\[2\\] is not symmetric; pass a kernel matrix"):
            function(L)

    def test_indefinite_group_is_named_with_the_ridge(self, function):
        L = torch.eye(2, dtype=torch.float64).repeat(2, 3, 1, 1)
        L[1, 2] = torch.tensor([[1.0, 3.0], [3.0, 1.0]])
        with pytest.raises(NotPSDError, match=r"group \[1, 2\] gives an I \+ L/0\.5 that is not positive definite"):
            function(L, 0.5)

    def test_nan_group_is_named(self, function):
        L = torch.eye(2).repeat(3, 1, 1)
        L[1, 1, 1] = float("nan")
        with pytest.raises(NonFiniteError, match="that of group \\[1\\] holds NaN or infinity"):
            function(L)

    def test_single_matrix_needs_no_number(self, function):
        with pytest.raises(NotPSDError, match="but this one is not symmetric"):
            function(torch.tensor([[1.0, 0.2], [0.0, 1.0]]))
