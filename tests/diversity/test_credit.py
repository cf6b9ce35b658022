"""The one composition, embeddings to reward: by hand, against determinants, and the same from every caller.

Run in both environments: TRL's and verl's.
"""

import math

import pytest
import torch
from torch.testing import assert_close

from dqo.diversity.credit import DiversitySpec, Evidence, group_credit, shape_reward
from dqo.embedders import HashedEmbedder
from dqo.errors import DQOError, NonFiniteError
from dqo.evaluation.meaning import group_log_volume, vendi_score
from dqo.rewards.diversity import DiversityReward, prompt_key

F64 = torch.float64
NAN = float("nan")
TWO, COPY = math.log(2.0), math.log(1.5)  # credit at ridge 1 of an orthogonal response, and of one of two copies
E = torch.eye(4, dtype=F64)
GROUPS = torch.stack([E[[0, 0, 1, 2]], E[[0, 1, 2, 3]]])  # (2, 4, 4): a group with two copies, one all different
REWARD = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 1.0, 0.0]], dtype=F64)


def volume_by_determinant(rows, quality=None, ridge=1.0):
    q = torch.ones(len(rows), dtype=F64) if quality is None else quality
    return torch.eye(len(rows), dtype=F64).add(q[:, None] * (rows @ rows.T) * q / ridge).det().log().item()


def test_additive_reward_by_hand():
    shaped, group = shape_reward(REWARD, GROUPS, DiversitySpec(alpha=0.5))
    assert_close(group.credit, torch.tensor([[COPY, COPY, TWO, TWO], [TWO] * 4], dtype=F64))
    assert_close(shaped, REWARD + 0.5 * group.credit)
    assert_close(group.log_volume, torch.tensor([math.log(3) + 2 * TWO, 4 * TWO], dtype=F64))
    assert group.vendi[1] == pytest.approx(4.0)
    assert group.cosine_distance.tolist() == pytest.approx([5 / 6, 1.0])


@pytest.mark.parametrize("combine", ["add", "multiply", "gate", "spread", "quality_weighted"])
def test_alpha_0_is_the_task_reward(combine):
    threshold = 0.5 if combine in ("gate", "spread") else None
    spec = DiversitySpec(alpha=0.0, combine=combine, quality_threshold=threshold)
    assert_close(shape_reward(REWARD, GROUPS, spec)[0], REWARD)


def test_an_unscorable_response_is_as_if_it_were_not_there():
    """Its own reward stays NaN, its credit is 0, and a group padded with it is the smaller group: how verl's ragged
    groups are computed."""
    reward, rows = REWARD[:1].clone(), GROUPS[:1].clone()
    reward[0, 1] = NAN
    shaped, group = shape_reward(reward, rows, DiversitySpec(alpha=1.0))
    keep = [0, 2, 3]
    alone, without = shape_reward(reward[:, keep], rows[:, keep], DiversitySpec(alpha=1.0))
    assert shaped[0, 1].isnan()
    assert group.credit[0, 1] == 0
    assert_close(shaped[:, keep], alone)
    assert_close(group.credit[:, keep], without.credit)
    assert_close(group.log_volume, without.log_volume)
    assert group.credit[0, 0] == pytest.approx(TWO), "its copy is now unlike all others"


def test_behind_a_gate_a_poor_response_neither_earns_nor_crowds_out_a_good_one():
    spec = DiversitySpec(alpha=1.0, combine="gate", quality_threshold=0.5)
    shaped, group = shape_reward(REWARD, GROUPS, spec)
    assert_close(group.credit[0], torch.tensor([TWO, 0.0, TWO, 0.0], dtype=F64))  # row 1 copies row 0, but is poor
    assert_close(shaped[0], torch.tensor([1 + TWO, 0.0, 0.5 + TWO, 0.0], dtype=F64))
    assert group.spans[0].tolist() == [True, False, True, False]


def test_spread_pays_nothing_for_passing():
    reward = torch.tensor([[1.0, 1.0, 1.0, 0.0]], dtype=F64)
    shaped, _ = shape_reward(reward, GROUPS[:1], DiversitySpec(combine="spread", quality_threshold=0.5))
    gain = (shaped - reward)[0]
    mean = (2 * COPY + TWO) / 3
    assert_close(gain, torch.tensor([COPY - mean, COPY - mean, TWO - mean, 0.0], dtype=F64))
    assert gain.sum().item() == pytest.approx(0.0, abs=1e-12)


def test_the_quality_weighted_volume_is_that_of_deleted_determinants():
    gen = torch.Generator().manual_seed(3)
    rows = torch.nn.functional.normalize(torch.randn(5, 4, generator=gen, dtype=F64), dim=1)
    q = torch.tensor([0.9, 0.0, 0.4, 1.0, 0.7], dtype=F64)
    spec = DiversitySpec(alpha=0.3, combine="quality_weighted", ridge=0.5)
    shaped, group = shape_reward(q[None], rows[None], spec)
    whole = volume_by_determinant(rows, q, 0.5)
    credits = [whole - volume_by_determinant(rows[k], q[k], 0.5) for k in (torch.arange(5) != i for i in range(5))]
    assert group.credit[0].tolist() == pytest.approx(credits, abs=1e-10)
    assert credits[1] == pytest.approx(0.0, abs=1e-12)
    assert_close(shaped[0], q + 0.3 * group.credit[0])
    assert group.log_volume.item() == pytest.approx(whole)
    assert group.quality_volume.item() == pytest.approx(math.log1p(2 * float((q**2).sum())))
    copies = group_credit(rows[:1].expand(5, -1)[None], spec, q[None])
    assert_close(copies.log_volume, copies.quality_volume)


def test_the_unit_scale_is_a_share_of_the_range_among_those_that_say_something():
    rows = torch.stack([E[[0, 0, 0, 0]], E[[0, 1, 2, 3]]])
    rows[1, 3] = 0.0  # an empty response
    group = group_credit(rows, DiversitySpec(credit_scale="unit"))
    assert group.credit[0].tolist() == pytest.approx([0.0] * 4, abs=1e-9)
    assert group.credit[1].tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0], abs=1e-9)
    assert group.spans[1].tolist() == [True, True, True, False]


def test_groups_do_not_touch_each_other_and_order_does_not_matter():
    gen = torch.Generator().manual_seed(1)
    rows, reward = torch.randn(3, 6, 8, generator=gen, dtype=F64), torch.rand(3, 6, generator=gen, dtype=F64)
    spec = DiversitySpec(combine="quality_weighted", kernel="gaussian", sigma=0.8, alpha=0.7)
    shaped, _ = shape_reward(reward, rows, spec)
    for p in range(3):
        assert_close(shape_reward(reward[p : p + 1], rows[p : p + 1], spec)[0][0], shaped[p])
    order = torch.randperm(6, generator=gen)
    assert not torch.equal(order, torch.arange(6))
    assert_close(shape_reward(reward[:, order], rows[:, order], spec)[0], shaped[:, order])


def test_signals_elsewhere_leave_the_reward_and_a_discount_keeps_a_share():
    for name in ("none", "entropy"):
        shaped, group = shape_reward(REWARD, GROUPS, DiversitySpec(diversity=name, alpha=0.5))
        assert torch.equal(shaped, REWARD)
        assert not group.credit.any()
    same = torch.eye(4, dtype=torch.bool).expand(2, 4, 4).clone()
    same[0, 0, 1] = same[0, 1, 0] = True
    spec = DiversitySpec(diversity="partition", same_answer="judge.py:same")
    shaped, group = shape_reward(REWARD, GROUPS, spec, Evidence(same=same))
    assert_close(shaped, REWARD * group.credit)
    assert group.credit[0, 0] == group.credit[0, 1] < group.credit[0, 2], "two same answers keep less"


def test_an_unscorable_response_joins_no_two_clusters():
    spec = DiversitySpec(diversity="partition", same_answer="judge.py:same")
    reward = torch.tensor([[1.0, NAN, 1.0, 1.0]], dtype=F64)
    same = torch.zeros(1, 4, 4, dtype=torch.bool)
    same[0, 0, 1] = same[0, 1, 2] = True  # through the one that nothing could score
    shaped, _ = shape_reward(reward, E.unsqueeze(0), spec, Evidence(same=same))
    assert_close(shaped, reward, equal_nan=True)


def test_images_in_a_prompt_are_told_apart_by_their_pixels():
    image = torch.zeros(64, 64).numpy()  # of which a text shows the corners only
    changed = image.copy()
    changed[32, 32] = 1
    prompt = [{"role": "user", "content": [{"type": "image", "image": image}]}]
    again = [{"role": "user", "content": [{"type": "image", "image": image.copy()}]}]
    other = [{"role": "user", "content": [{"type": "image", "image": changed}]}]
    assert prompt_key(prompt) == prompt_key(again) != prompt_key(other)


def test_what_is_missing_or_not_a_number_is_named():
    with pytest.raises(DQOError, match=r"combine='gate' weighs responses by their task reward, got none"):
        group_credit(GROUPS, DiversitySpec(combine="gate", quality_threshold=0.5))
    with pytest.raises(DQOError, match=r"diversity='unlikeliness' reads logp of the responses, got none"):
        group_credit(GROUPS, DiversitySpec(diversity="unlikeliness"))
    spoiled = GROUPS.clone()
    spoiled[1, 2, 0] = NAN
    with pytest.raises(NonFiniteError, match=r"1.*2"):
        group_credit(spoiled, DiversitySpec())


def test_every_caller_gives_the_same_numbers():
    """Training's credit, the drop-in reward and evaluation's geometry, from the same four texts."""
    texts, embed = ["the old dog", "the old dog", "a red bird sings", "rain over the river"], HashedEmbedder(64)
    group = group_credit(embed(texts)[None], DiversitySpec())
    paid = DiversityReward(4, encoder=embed)(prompts=["p"] * 4, completions=texts)
    assert paid == pytest.approx(group.credit[0].tolist(), abs=1e-12)
    rows = embed(texts).double()
    by_hand = [volume_by_determinant(rows) - volume_by_determinant(rows[torch.arange(4) != i]) for i in range(4)]
    assert paid == pytest.approx(by_hand, abs=1e-6)
    assert group_log_volume(rows) == pytest.approx(group.log_volume.item(), abs=1e-6)
    assert vendi_score(rows) == pytest.approx(group.vendi.item(), abs=1e-6)


@pytest.mark.parametrize(("signal", "paid"), [("vendi", "lowest"), ("graph_cut", "of a copy of all")])
def test_saying_nothing_is_no_better_than_a_copy(signal, paid):
    rows = torch.stack([torch.stack([E[0], E[0], E[0], E[1], torch.zeros(4, dtype=F64)])])  # (1, 5, 4)
    reward = torch.ones(1, 5, dtype=F64)
    shaped, _ = shape_reward(reward, rows, DiversitySpec(alpha=0.5, diversity=signal))
    assert shaped[0, 4] <= shaped[0, :4].min() + 1e-12, f"expected what is {paid}"
    padded, _ = shape_reward(
        torch.cat([reward, torch.full((1, 3), NAN)], 1),
        torch.cat([rows, 0 * rows[:, :3]], 1),
        DiversitySpec(alpha=0.5, diversity=signal),
    )
    assert_close(padded[:, :5], shaped)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"diversity": "partition", "same_threshold": 80.0}, "`same_threshold` must be at most 1, got 80"),
        ({"diversity": "partition", "same_threshold": math.nan}, "`same_threshold` must be a finite number, got nan"),
        ({"diversity": "pass_at_k", "pass_k": 0, "quality_threshold": 1.0}, r"`pass_k` must be at least 1, got 0"),
        (
            {"combine": "quality_weighted", "quality_center": math.inf, "quality_scale": 1.0},
            r"`quality_center` must be a finite number, got inf",
        ),
        (
            {"combine": "quality_weighted", "quality_center": 0.0, "quality_scale": math.inf},
            r"`quality_scale` must be a finite number, got inf",
        ),
    ],
)
def test_a_setting_that_is_no_number_in_range_is_told_when_it_is_made(settings, message):
    with pytest.raises(DQOError, match=message):
        DiversitySpec(**settings)
