"""Signs of tricks, by hand."""

import math

import pytest
import torch

from dqo.diversity.tricks import (
    DriftOfRun,
    encoder_disagreement,
    language_mixing,
    low_quality_credit,
    post_answer_share,
    repetition,
)


def test_drift_compares_with_the_first_three_batches():
    drift, norm = DriftOfRun(), torch.ones(1)
    seen = [
        drift.observe(torch.tensor([length]), norm)["hack/length_drift"] for length in (10.0, 20.0, 30.0, 30.0, 10.0)
    ]
    assert seen == pytest.approx([0.0, 1 / 3, 0.5, 0.5, -0.5])
    assert math.isnan(drift.observe(torch.tensor([10.0]), 0 * norm)["hack/norm_drift"]), "nobody said anything"


def test_drift_goes_on_after_a_resume():
    first, second = DriftOfRun(), DriftOfRun()
    for _ in range(3):
        first.observe(torch.tensor([10, 30]), torch.tensor([1.0, 0.0, 1.0]))
    second.load(first.state())
    got = second.observe(torch.tensor([30, 30]), torch.tensor([2.0, 2.0, 0.0]))
    assert got == pytest.approx({"hack/length_drift": 0.5, "hack/norm_drift": 1.0})


def test_text_after_the_answer():
    assert post_answer_share(" Paris. And then some ", "Paris") == pytest.approx(15 / 20)
    assert post_answer_share("I say Paris", "Paris") == 0.0
    assert math.isnan(post_answer_share("  ", ""))
    assert math.isnan(post_answer_share("2 * 3", "3 × 2"))


def test_repetition_counts_three_grams_of_one_response():
    assert repetition("a b c d e") == 0.0
    assert repetition("a b c a b c") == pytest.approx(1 / 4)
    assert repetition("ha " * 12) == pytest.approx(0.9)
    assert math.isnan(repetition("two words"))
    assert repetition("just three words") == 0.0
    assert math.isnan(repetition("猫很好。猫很好。猫很好。猫很好。")), "no spaces, no words"
    assert math.isnan(repetition("猫很好。 猫很好。 猫很好。 猫很好。"))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("The dog runs after the ball.", 0.0),
        ("El perro corre por la calle.", 0.0),  # the same script
        ("Собака бежит за мячом.", 1.0),
        ("The dog 狗在跑步.", 1 / 3),
        ("42 + 1", math.nan),
    ],
)
def test_share_of_words_in_another_script(text, share):
    assert language_mixing(text, "Write one sentence with: ball, dog.") == pytest.approx(share, nan_ok=True)


def test_the_scripts_of_the_prompt_are_no_mixing():
    assert language_mixing("Собака бежит.", "Напиши предложение.") == 0.0
    assert language_mixing("いぬがはしる", "犬について一文を書いてください。") == 0.0, (
        "kana and Chinese characters are one"
    )
    assert math.isnan(language_mixing("The dog.", "2 + 2 = ?"))


def test_share_of_credit_of_the_poorer_half():
    reward = torch.tensor([[0.0, 0.1, 0.9, 1.0], [1.0, 1.0, 1.0, 1.0]])
    credit = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.5, 0.5, 0.5, 0.5]])
    assert low_quality_credit(credit[:1], reward[:1]) == pytest.approx(0.6)
    assert low_quality_credit(credit, reward) == pytest.approx((0.6 + 2 * 0.5) / 3), "of equals a half is the poorer"
    most_fail = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    assert low_quality_credit(torch.tensor([[0.2, 0.2, 0.2, 0.0]]), most_fail) == pytest.approx(2 / 3)
    assert low_quality_credit(torch.tensor([[0.5, 0.5, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])) == 1.0
    assert math.isnan(low_quality_credit(0 * credit, reward))
    signed = torch.tensor([[-9.0, 0.0, 0.5, 0.5]])
    assert low_quality_credit(signed, reward[:1]) == 0.0
    unscored = torch.tensor([[0.0, math.nan, 0.9, 1.0]])
    assert low_quality_credit(torch.tensor([[0.5, 9.0, 0.25, 0.25]]), unscored) == pytest.approx(0.625)


def test_disagreement_of_encoders():
    generator = torch.Generator().manual_seed(0)
    E = torch.randn(200, 6, 8, generator=generator, dtype=torch.float64)
    other = torch.randn(200, 6, 8, generator=generator, dtype=torch.float64)
    assert encoder_disagreement(E, E).abs().max() < 1e-12
    assert encoder_disagreement(E, other).mean() == pytest.approx(0.5, abs=0.03)
    assert 0.0 < encoder_disagreement(E, E + 0.3 * other).mean() < 0.3
    assert encoder_disagreement(torch.ones(1, 4, 2), E[:1, :4]).isnan().tolist() == [True]


def test_blank_responses_make_no_two_encoders_agree():
    generator = torch.Generator().manual_seed(0)
    E, other = (torch.randn(300, 10, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    E[:, 6:], other[:, 6:] = 0.0, 0.0
    assert encoder_disagreement(E, other).mean() == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(encoder_disagreement(E, other), encoder_disagreement(E[:, :6], other[:, :6]))
    assert encoder_disagreement(E[:1, 4:8], other[:1, 4:8]).isnan().all(), "two that say something have equal credits"


def test_reversed_order_is_full_disagreement():
    # the outlier of one encoder is the copy of the other
    a = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    b = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    assert encoder_disagreement(a, b).tolist() == pytest.approx(
        [0.75]
    )  # ranks (0,0,1) against (0,1,0): correlation -1/2
