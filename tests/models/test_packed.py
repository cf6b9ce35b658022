"""Packed weights: the same products, the model as it was afterwards, and only where they are meant to be used."""

import pytest
import torch
from torch import nn

from dqo.models.numerics import packed_weights

STEPS = 16


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 80), nn.Tanh(), nn.Linear(80, 40, bias=False)).to(dtype)


def packed_in(layers):
    return ["forward" in layer.__dict__ for layer in layers if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize("shape", [(1, 48), (5, 1, 48), (2, 7, 48), (0, 1, 48)])
@torch.no_grad()
def test_products_are_those_of_the_layers(shape):
    layers, x = model(), torch.randn(shape)
    expected = layers(x)
    with packed_weights(layers, rows=5, steps=STEPS):
        assert packed_in(layers) == [True, True]
        torch.testing.assert_close(layers(x), expected, rtol=1e-5, atol=1e-6)
    assert packed_in(layers) == [False, False]
    assert torch.equal(layers(x), expected)


@torch.no_grad()
def test_a_later_rollout_sees_the_weights_of_its_time():
    layers, x = model(), torch.randn(3, 48)
    with packed_weights(layers, rows=3, steps=STEPS):
        before = layers(x)
    layers[0].weight.mul_(2)
    with packed_weights(layers, rows=3, steps=STEPS):
        assert not torch.allclose(layers(x), before)
        torch.testing.assert_close(layers(x), layers[2](torch.tanh(nn.functional.linear(x, *layers[0].parameters()))))


def test_a_failure_inside_leaves_the_model_as_it_was():
    layers = model()
    with pytest.raises(KeyError), packed_weights(layers, rows=3, steps=STEPS):
        raise KeyError
    assert packed_in(layers) == [False, False]


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@torch.no_grad()
def test_subclasses_keep_their_own_product():
    layers, x = nn.Sequential(Doubled(48, 48), nn.Linear(48, 8)), torch.randn(3, 48)
    expected = layers(x)
    with packed_weights(layers, rows=3, steps=STEPS):
        assert packed_in(layers) == [False, True]
        torch.testing.assert_close(layers(x), expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_packed_where_it_does_not_pay(monkeypatch):
    def packs(layers, steps=STEPS):
        with packed_weights(layers, rows=3, steps=steps):
            return any(packed_in(layers))

    assert packs(model())
    assert not packs(model(), steps=STEPS - 1)
    assert not packs(model(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert not packs(model())
    monkeypatch.setattr("dqo.models.numerics._MOST_BYTES", 4 * (48 * 80 + 80 * 40) - 1)
    assert not packs(model())
    monkeypatch.undo()
    torch.set_num_threads(1)
    assert not packs(model())
