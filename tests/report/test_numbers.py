"""What the page computes: bootstrap, sign flips and Holm, curves, the plane of the maps, definitions."""

import math
from itertools import product

import numpy as np
import pytest

from dqo.evaluation.definitions import explain
from dqo.evaluation.statistics import bootstrap_differences
from dqo.report.charts import POINTS, columns, principal_plane, semantic_maps
from dqo.report.overview import all_differences, bases, by_kind
from dqo.report.page import number
from dqo.report.sources import read_runs


def rows(**metrics):
    """{"q": [..]} -> {prompt id: {"q": value}}."""
    return {
        f"p{i}": dict(zip(metrics, values, strict=True)) for i, values in enumerate(zip(*metrics.values(), strict=True))
    }


def compared(first, other, metrics):
    return all_differences([[first], [other]], metrics)[0][1]


def test_three_prompts_agree_with_all_27_resamples_and_all_8_flips():
    d = [0.0, 3.0, 6.0]
    means = [sum(draw) / 3 for draw in product(d, repeat=3)]
    found = compared(rows(q=[1.0, 1.0, 1.0]), rows(q=[1.0, 4.0, 7.0]), ["q"])["q"]
    assert found.mean == pytest.approx(3.0)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975], method="inverted_cdf")))
    flipped = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in product((1, -1), repeat=3)]
    assert found.p == sum(total >= 9 for total in flipped) / 8 == 0.5


def test_two_prompts_show_no_difference_though_their_interval_excludes_0():
    found = compared(rows(q=[0.0] * 2), rows(q=[1.0] * 2), ["q"])["q"]
    assert (found.low, found.high, found.p, found.verdict) == (1.0, 1.0, 0.5, "same")
    several = compared(rows(q=[0.0] * 6), rows(q=[1.0] * 6), ["q"])["q"]
    assert (several.p, several.verdict, several.mirrored().verdict) == (2 / 64, "up", "down")


def test_interval_is_that_of_the_evaluation():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=60), rng.normal(0.3, 1, size=60)
    ours = compared(rows(q=a), rows(q=b), ["q"])["q"]
    theirs = bootstrap_differences([b - a])[0]
    assert (ours.mean, ours.low, ours.high) == pytest.approx(tuple(theirs[:3]), abs=1e-12)


def test_equal_runs_differ_in_nothing_and_a_shift_is_found():
    values = list(np.random.default_rng(1).normal(size=40))
    same = compared(rows(q=values), rows(q=values), ["q"])["q"]
    assert (same.mean, same.p, same.p_holm) == (0.0, 1.0, 1.0)
    shifted = compared(rows(q=values), rows(q=[v + 0.1 for v in values]), ["q"])["q"]
    assert shifted.p < 0.001
    assert shifted.low == pytest.approx(0.1) == shifted.high


def test_false_alarms_keep_to_the_level():
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(60):
        found = compared(rows(q=rng.normal(size=30)), rows(q=rng.normal(size=30)), ["q"])
        alarms += found["q"].p < 0.05
    assert alarms <= 9  # 3 expected; more than 9 of 60 has a chance of 1 in 1000


def test_prompts_without_a_value_are_left_out_of_that_metric_alone():
    first = {
        "a": {"q": None, "v": 1.0},
        "b": {"q": 1.0, "v": 1.0},
        "c": {"q": 1.0, "v": 1.0},
        "only here": {"q": 9, "v": 9},
    }
    other = {"a": {"q": 5.0, "v": 2.0}, "b": {"q": 2.0, "v": 2.0}, "c": {"q": 4.0, "v": 2.0}}
    found = compared(first, other, ["q", "v", "unknown"])
    assert found["q"].mean == pytest.approx(2.0)
    assert (found["q"].prompts, found["v"].prompts) == (2, 3)
    assert "unknown" not in found


def test_any_two_runs_are_compared_and_the_way_back_is_the_mirror():
    rng = np.random.default_rng(4)
    runs = [rows(q=rng.normal(size=25), v=rng.normal(i, 1, size=25)) for i in range(3)] + [{}]
    found = all_differences([[run] for run in runs], ["q", "v"])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        there, back = found[a][b]["v"], found[b][a]["v"]
        assert there.mean == pytest.approx(np.mean([runs[b][p]["v"] - runs[a][p]["v"] for p in runs[a]]))
        assert (back.mean, back.low, back.high, back.p) == (-there.mean, -there.high, -there.low, there.p)
        alone = compared(runs[a], runs[b], ["q", "v"])["v"]
        assert there._replace(p_holm=0) == pytest.approx(alone._replace(p_holm=0)), "whatever else is on the page"
        assert there.p_holm >= alone.p_holm, "and the more is there, the less sure is each"
    tests = sorted((found[a][b][m] for a, b in ((0, 1), (0, 2), (1, 2)) for m in ("q", "v")), key=lambda d: d.p)
    worst = 0.0  # Holm over the six by hand: the least p times 6, the next times 5, none below the one before
    for rank, test in enumerate(tests):
        worst = max(worst, min(1.0, (6 - rank) * test.p))
        assert test.p_holm == pytest.approx(worst)
    assert found[0][3] == found[3][1] == {}
    assert bases(found) == {0: [1, 2], 1: [0, 2], 2: [0, 1]}
    assert bases(all_differences([[run] for run in runs[:2]], ["q"])) == {0: [1]}


def test_of_many_runs_only_the_first_is_the_base():
    found = all_differences([[rows(q=[1.0, 2.0 + i])] for i in range(9)], ["q"])
    assert bases(found) == {0: list(range(1, 9))}
    assert found[1][2] == {}
    assert found[4][0]["q"].mean == pytest.approx(-2.0)


def test_metrics_are_sorted_by_what_they_are_about():
    assert by_kind(["vendi_1", "quality", "heldout/vendi_1", "distinct_2", "of their own"]) == {
        "quality": ["quality"], "diversity of meaning": ["vendi_1", "heldout/vendi_1"],
        "diversity of words": ["distinct_2"], "other": ["of their own"],
    }  # fmt: skip


def test_short_logs_stay_as_they_are_and_long_ones_keep_their_mean():
    assert columns([{"step": 1, "a": 0.5, "b": None}, {"step": 2, "c": 3}]) == {
        "step": [1, 2], "a": [0.5, None], "c": [None, 3.0]
    }  # fmt: skip
    long = columns([{"step": i, "a": float(i)} for i in range(1, 2501)])
    assert len(long["step"]) == math.ceil(2500 / 3) <= POINTS
    assert long["step"][:2] == [3, 6]
    assert long["a"][:2] == [2.0, 5.0]


def test_the_plane_keeps_the_distances_of_flat_points_and_explains_them():
    rng = np.random.default_rng(3)
    flat = rng.normal(size=(12, 2)) @ np.linalg.qr(rng.normal(size=(40, 2)))[0].T  # in a plane of 40 dimensions
    xy, share = principal_plane(flat)
    for i, j in product(range(12), repeat=2):
        assert np.linalg.norm(xy[i] - xy[j]) == pytest.approx(np.linalg.norm(flat[i] - flat[j]), abs=1e-9)
    assert sum(share) == pytest.approx(1.0)
    assert share[0] >= share[1]


@pytest.mark.parametrize("E", [np.ones((1, 5)), np.ones((4, 5)), np.zeros((3, 1))])
def test_points_that_do_not_differ_lie_together(E):
    xy, share = principal_plane(E)
    assert np.abs(xy).max() < 1e-9
    assert share == [0.0, 0.0]


def test_maps_are_drawn_of_prompts_all_over_the_file_and_of_all_runs(run_folders):
    def encoder(texts):
        return np.array([[len(text), text.count("e"), 1.0] for text in texts])

    found = semantic_maps(read_runs(run_folders), encoder, maps=5)
    assert len(found) == 5
    assert [len(places) for places in found["test-0"]["runs"]] == [10, 10, 10]
    assert "test-23" in found


def test_every_number_has_a_definition(run_folders):
    runs = read_runs(run_folders)
    evaluated = {name for run in runs for name in run.document["metrics"]}
    logged = {name for run in runs for row in run.steps for name in row} - {"step"}
    assert len(evaluated) > 20
    assert len(logged) > 20
    assert [name for name in evaluated | logged if "no definition" in explain(name).text] == []
    assert "no definition" in explain("something_new").text


@pytest.mark.parametrize(
    ("value", "text"), [(0.71349, "0.713"), (-0.05, "−0.050"), (12.408, "12.41"), (123.44, "123.4"), (1203.9, "1,204")]
)
def test_numbers_are_written_as_tables_show_them(value, text):
    assert number(value) == text


def test_signed_numbers_show_their_plus():
    assert number(0.05, sign=True) == "+0.050"
