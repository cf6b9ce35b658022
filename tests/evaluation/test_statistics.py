"""Bootstrap over prompts: coverage, width, pairing; sign flips: p for few prompts and many; fronts by hand."""

import math
from itertools import product

import numpy as np
import pytest

from dqo.errors import DataError, DQOError
from dqo.evaluation import hypervolume, pareto_front
from dqo.evaluation.statistics import bootstrap_differences, bootstrap_intervals, holm, wilson_interval


def interval_of(values, **settings):
    return bootstrap_intervals([values], **settings)[0]


def test_nine_in_ten_intervals_of_level_90_hold_the_truth():
    rng = np.random.default_rng(0)
    trials = 300
    held = 0
    for trial in range(trials):
        interval = interval_of(rng.exponential(2.0, size=80), level=0.9, resamples=300, seed=trial)
        held += interval.low <= 2.0 <= interval.high
    assert 0.84 <= held / trials <= 0.95  # 0.9 less the known shortfall on skewed data; 3 sigma is 0.05


def test_width_is_that_of_the_normal_theory():
    values = np.random.default_rng(1).normal(5.0, 3.0, size=400)
    mean, low, high = interval_of(values)
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (mean - low, high - mean) == (pytest.approx(half, rel=0.08), pytest.approx(half, rel=0.08))


def test_same_seed_same_interval_and_the_global_generator_is_left_alone():
    values = np.random.default_rng(7).random(30)
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    assert interval_of(values, seed=1) == interval_of(values, seed=1)
    assert interval_of(values, seed=1) != interval_of(values, seed=2)
    assert (np.random.get_state()[1] == before).all()


def test_one_prompt_and_constant_values_have_no_width():
    assert interval_of([0.3]) == (0.3, 0.3, 0.3)
    assert interval_of([2.0] * 9) == (2.0, 2.0, 2.0)


def test_pairing_takes_out_what_the_prompts_share():
    rng = np.random.default_rng(2)
    hardness = rng.normal(0, 10, size=60)
    a, b = hardness + rng.normal(0, 0.1, 60), hardness + 1 + rng.normal(0, 0.1, 60)
    mean, low, high, *_ = bootstrap_differences([b - a])[0]
    assert low < 1.0 < high
    assert high - low < 0.2
    alone = interval_of(b)
    assert alone.high - alone.low > 2, "without pairing the difference would drown"
    assert bootstrap_differences([a - b])[0].mean == pytest.approx(-mean)


@pytest.mark.parametrize("values", [[], [1.0, float("inf")]])
def test_bad_input_is_refused(values):
    with pytest.raises(DataError, match="needs one finite value or more per metric"):
        interval_of(values)


def test_many_metrics_at_once_agree_with_one_and_do_not_disturb_each_other():
    rng = np.random.default_rng(5)
    columns = [rng.normal(0.3, 1.0, 80).tolist(), rng.normal(0.0, 5.0, 80).tolist(), [0.0] * 80]
    together = bootstrap_differences(columns)
    for column, found in zip(columns, together, strict=True):
        mean, low, high = interval_of(column)
        assert found.mean == pytest.approx(mean)
        assert (found.low, found.high) == (pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05))
        assert tuple(bootstrap_differences([column])[0]) == pytest.approx(tuple(found), abs=1e-12)
    assert together[2].p == 1.0
    assert bootstrap_differences([]) == []
    mirrored = bootstrap_differences([[-x for x in columns[0]]])[0]
    assert mirrored.p == pytest.approx(together[0].p)


def test_intervals_of_many_metrics_are_those_of_each_alone():
    rng = np.random.default_rng(8)
    columns = [rng.random(700), rng.normal(0, 1e6, 700), np.full(700, 0.1)]
    together = bootstrap_intervals(columns, seed=4)
    for column, found in zip(columns, together, strict=True):
        assert found == pytest.approx(interval_of(column, seed=4), rel=1e-12)
        draws = np.random.default_rng(4).integers(700, size=(5000 * 700,)).reshape(5000, 700)
        assert found.low == pytest.approx(np.quantile(column[draws].mean(axis=1), 0.025), rel=0.02)
    assert together[2].low <= together[2].mean <= together[2].high == pytest.approx(0.1)


def test_p_values_are_uniform_where_nothing_differs_and_small_where_something_does():
    rng = np.random.default_rng(6)
    columns = rng.normal(0.0, 1.0, size=(400, 60))
    ps = np.array([found.p for found in bootstrap_differences(columns.tolist(), resamples=800)])
    for level in (0.05, 0.2, 0.5):
        # draws are shared between the columns, but the columns are independent; 4 sigma, and the known shortfall
        assert (ps < level).mean() == pytest.approx(level, abs=4 * (level * (1 - level) / 400) ** 0.5 + 0.01)
    assert bootstrap_differences([(columns[0] + 2.0).tolist()])[0].p == pytest.approx(1 / 5001)


def test_p_values_of_few_prompts_count_every_sign_vector():
    rng = np.random.default_rng(9)
    for P in range(1, 9):
        columns = [
            rng.normal(0.5, 1.0, P).tolist(),
            rng.integers(-2, 3, P).astype(float).tolist(),
            [0.1] * P,
            [0.0] * P,
        ]
        for column, found in zip(columns, bootstrap_differences(columns), strict=True):
            totals = [
                abs(sum(s * d for s, d in zip(signs, column, strict=True))) for signs in product((1, -1), repeat=P)
            ]
            assert found.p == sum(total >= totals[0] - 1e-9 for total in totals) / 2**P
        assert bootstrap_differences(columns)[2].p == 2 / 2**P, (
            "all alike and none 0: only all or none flipped is as far"
        )


def test_drawn_signs_agree_with_all_of_them():
    rng = np.random.default_rng(10)
    columns = rng.normal(0.2, 1.0, size=(12, 12))
    exact = [found.p for found in bootstrap_differences(columns.tolist())]  # 4,096 sign vectors
    drawn = [found.p for found in bootstrap_differences(columns.tolist(), flips=4000)]
    assert drawn == pytest.approx(exact, abs=4 * 0.5 / 4000**0.5)
    assert drawn != exact


@pytest.mark.parametrize("P", [2, 4, 8, 16])
def test_few_prompts_raise_no_more_alarms_than_holm_promises(P):
    rng = np.random.default_rng(11)
    families = 60
    alarms = 0
    for _ in range(families):
        found = bootstrap_differences(rng.normal(size=(20, P)).tolist(), resamples=2000)
        alarms += min(holm([difference.p for difference in found])) < 0.05
    assert alarms <= 9  # 3 expected at most; more than 9 of 60 has a chance of 1 in 1000


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979's step-down
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_front_by_hand():
    points = [(0.9, 1.0), (0.5, 4.0), (0.5, 3.0), (0.9, 1.0), (0.2, 3.9), (0.1, 5.0)]
    assert pareto_front(points) == [0, 1, 3, 5]
    assert pareto_front([]) == []
    assert pareto_front([(1.0, 1.0)]) == [0]


def test_volume_by_hand():
    assert hypervolume([(2.0, 3.0)], (0.0, 1.0)) == pytest.approx(4.0)
    assert hypervolume([(2.0, 1.0), (1.0, 2.0)], (0.0, 0.0)) == pytest.approx(3.0)
    assert hypervolume([(-1.0, 9.0)], (0.0, 0.0)) == 0.0, "worse than the reference in one coordinate"
    assert hypervolume([], (0.0, 0.0)) == 0.0


def test_volume_counts_the_cells_under_the_front():
    points = [(7, 2), (5, 5), (2, 8), (6, 3), (1, 1), (5, 4)]
    cells = sum(any(x < a and y < b for a, b in points) for x in range(1, 10) for y in range(1, 10))
    assert hypervolume(points, (1, 1)) == pytest.approx(cells)
    cells = sum(
        any(x < a and y < b and z < c for a, b, c in [(3, 2, 1), (1, 3, 3), (2, 2, 2)])
        for x in range(4) for y in range(4) for z in range(4)
    )  # fmt: skip
    assert hypervolume([(3, 2, 1), (1, 3, 3), (2, 2, 2)], (0, 0, 0)) == pytest.approx(cells)


@pytest.mark.parametrize("points", [[(1.0, 2.0), (1.0,)], [(1.0, float("nan"))], [(float("inf"), 1.0)]])
def test_bad_points_are_refused(points):
    with pytest.raises(DQOError, match="finite coordinates each, got"):
        hypervolume(points, (0.0, 0.0))


@pytest.mark.parametrize(("count", "n"), [(0, 8), (8, 8), (3, 8), (1, 1), (50, 200)])
def test_a_share_at_the_end_of_wilson_s_interval_is_just_as_far_as_chance_goes(count, n):
    share, low, high = wilson_interval(count, n)
    assert share == count / n
    assert 0 <= low <= share <= high <= 1
    assert low < high
    for end in {low, high} - {0.0, 1.0}:
        # its definition: the share lies 1.96 standard errors of a draw at that end away
        assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-5)
