"""Rewards that a notebook hands over may be any kind of number."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from dqo.errors import DataError
from dqo.evaluation import measure

RESPONSES = {"p": ["red", "blue"]}


@pytest.mark.parametrize(
    "half", [Decimal("0.5"), Fraction(1, 2), np.float32(0.5), np.array(0.5), torch.tensor(0.5)], ids=str
)
def test_every_kind_of_number_is_a_reward(half):
    assert measure(RESPONSES, {"p": [half, True]}, encoder="hashed")["quality"]["mean"] == 0.75


@pytest.mark.parametrize("wrong", [float("nan"), Decimal("NaN"), Fraction(10**400), "1", np.ones(1), 1j])
def test_what_is_no_number_is_refused(wrong):
    with pytest.raises(DataError, match="Expected 2 rewards for prompt 'p', one number or None per response"):
        measure(RESPONSES, {"p": [wrong, 1.0]}, encoder="hashed")
