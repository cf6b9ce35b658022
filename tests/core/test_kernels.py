import math
import warnings

import pytest
import torch
from torch.testing import assert_close

from dqo.core import cosine_kernel, gaussian_kernel, kernel_matrix, linear_kernel
from dqo.errors import DQOError, NonFiniteError

ALL = {"cosine": cosine_kernel, "gaussian": lambda E: gaussian_kernel(E, 0.7), "linear": linear_kernel}


@pytest.fixture(params=ALL)
def kernel(request):
    return ALL[request.param]


def test_cosine_by_hand():
    E = torch.tensor([[3.0, 4.0], [5.0, 0.0], [-8.0, 6.0]])
    expected = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, -0.8], [0.0, -0.8, 1.0]], dtype=torch.float64)
    assert_close(cosine_kernel(E), expected)


def test_gaussian_by_hand():
    """Orthogonal unit vectors are sqrt 2 apart, opposite ones 2."""
    L = gaussian_kernel(torch.tensor([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]]), sigma=1.0)
    assert_close(L[0], torch.tensor([1.0, math.exp(-1.0), math.exp(-2.0)], dtype=torch.float64))


def test_linear_by_hand_keeps_the_norms():
    with pytest.warns(UserWarning, match=r"rows of norm 1 to 2: longer vectors earn more credit"):
        L = linear_kernel(torch.tensor([[2.0, 0.0], [0.6, 0.8]]))
    assert_close(L, torch.tensor([[4.0, 1.2], [1.2, 1.0]], dtype=torch.float64))


def test_linear_is_silent_and_equals_cosine_on_unit_rows(embeddings):
    E = embeddings("random", 0)
    E = E / E.norm(dim=-1, keepdim=True)
    E[:, 3] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(linear_kernel(E), cosine_kernel(E))


@pytest.mark.filterwarnings("ignore:linear_kernel got rows")
class TestEveryKernel:
    def test_zero_row_has_zero_row_column_and_diagonal(self, kernel):
        E = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
        E[1, 2] = 0.0
        L = kernel(E)
        assert (L[1, 2] == 0).all()
        assert (L[1, :, 2] == 0).all()
        assert (L[0].diagonal() > 0).all(), "only the empty response may lose its diagonal"
        assert_close(L[1][[0, 1, 3]][:, [0, 1, 3]], kernel(E[1, [0, 1, 3]]))

    def test_positive_semidefinite_symmetric_float64(self, kernel, embeddings, kind):
        L = kernel(embeddings(kind, 1))
        assert L.dtype == torch.float64
        assert torch.equal(L, L.mT)
        assert torch.linalg.eigvalsh(L).min() > -1e-12

    def test_batching_equals_looping(self, kernel, embeddings, kind):
        E = embeddings(kind, 2)
        assert_close(kernel(E), torch.stack([kernel(group) for group in E]), rtol=0, atol=1e-14)
        assert_close(kernel(E.unsqueeze(1)).squeeze(1), kernel(E), rtol=0, atol=1e-14)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_low_precision_rows_give_the_kernel_of_the_same_numbers_in_float64(self, kernel, dtype):
        E = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(3)).to(dtype)
        assert kernel(E).dtype == torch.float64
        assert_close(kernel(E), kernel(E.double()), rtol=0, atol=0)

    def test_nan_names_group_and_row(self, kernel):
        E = torch.ones(3, 4, 2)
        E[2, 1, 0] = float("nan")
        with pytest.raises(NonFiniteError, match=r"row \[2, 1\] of shape \(3, 4, 2\) holds NaN or infinity"):
            kernel(E)
        with pytest.raises(NonFiniteError, match=r"row \[1\] of shape \(4, 2\)"):
            kernel(E[2])
        E[2, 1, 0] = float("inf")
        with pytest.raises(NonFiniteError, match="check the encoder's dtype"):
            kernel(E)

    @pytest.mark.parametrize("E", [torch.ones(3), torch.ones(4, 0)])
    def test_other_shapes_are_refused(self, kernel, E):
        with pytest.raises(DQOError, match=r"must have shape \(\.\.\., G, D\) with D >= 1, got \("):
            kernel(E)

    def test_no_rows_give_an_empty_kernel(self, kernel):
        assert kernel(torch.zeros(3, 0, 4)).shape == (3, 0, 0)


@pytest.mark.parametrize("kernel", [cosine_kernel, ALL["gaussian"]], ids=["cosine", "gaussian"])
def test_unit_kernels_ignore_length_even_at_the_ends_of_float64(kernel):
    E = torch.tensor([[1.0, 2.0], [3.0, -1.0], [1.0, 2.0]], dtype=torch.float64)
    L = kernel(E)
    assert_close(L.diagonal(), torch.ones(3, dtype=torch.float64))
    lengths = torch.tensor([1e300, 1e-300, 1e-3], dtype=torch.float64)
    assert_close(kernel(E * lengths.unsqueeze(-1)), L)


def test_gaussian_bandwidth_runs_from_orthogonal_to_alike(embeddings):
    E = embeddings("random", 4)
    eye, ones = torch.eye(6, dtype=torch.float64).expand(3, 6, 6), torch.ones(3, 6, 6, dtype=torch.float64)
    assert torch.equal(gaussian_kernel(E, 1e-3), eye)
    assert_close(gaussian_kernel(E, 1e7), ones, rtol=0, atol=1e-12)


def test_gaussian_copies_are_alike_at_any_bandwidth():
    E = torch.randn(1, 7, generator=torch.Generator().manual_seed(0)).expand(3, 7)
    for sigma in (1.0, 1e-4, 1e-9):
        assert torch.equal(gaussian_kernel(E, sigma), torch.ones(3, 3, dtype=torch.float64))


def test_kernel_by_name_is_the_function(embeddings):
    E = embeddings("random", 5)
    assert torch.equal(kernel_matrix(E), cosine_kernel(E))
    assert torch.equal(kernel_matrix(E, "gaussian", 0.3), gaussian_kernel(E, 0.3))
    with pytest.warns(UserWarning, match="longer vectors"):
        assert torch.equal(kernel_matrix(E, "linear"), E @ E.mT)


@pytest.mark.parametrize("sigma", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_gaussian_needs_a_bandwidth(sigma):
    with pytest.raises(
        DQOError, match=r"kernel='gaussian' needs a finite bandwidth `sigma` above 0, 0.5 to start, and no other"
    ):
        kernel_matrix(torch.ones(2, 2), "gaussian", sigma)


def test_unknown_kernel_and_useless_bandwidth_are_refused():
    with pytest.raises(DQOError, match="`kernel` must be one of cosine, gaussian, linear, got 'rbf'"):
        kernel_matrix(torch.ones(2, 2), "rbf")
    with pytest.raises(DQOError, match=r"got sigma=0\.5 with kernel='cosine'; change one"):
        kernel_matrix(torch.ones(2, 2), "cosine", 0.5)
