"""The front as a picture: no two arms look alike, and wide intervals leave the points in sight."""

import pytest

from dqo.sweep.results import draw_front


def document(arms, quality=0.9, spread=0.05):
    def interval(mean):
        return {"mean": mean, "low": mean - spread, "high": mean + spread}

    points = [
        {"arm": f"arm{n}", "alpha": alpha, "metrics": {"quality": interval(quality), "vendi_1": interval(1 + n)}}
        for n in range(arms)
        for alpha in (0.3, 1.0)
    ]
    return {"axes": ("vendi_1", "quality"), "n_samples": 40, "points": points}


@pytest.mark.parametrize("arms", [9, 30])
def test_no_two_arms_look_alike(arms):
    figure = draw_front(document(arms))
    [plot] = figure.axes
    looks = {(bars[0].get_color(), bars[0].get_marker()) for bars in plot.containers}
    assert len(looks) == arms
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"arm{n}" for n in range(arms)]


@pytest.mark.parametrize("arms", [2, 12])
def test_the_axes_show_what_can_be_and_no_more(arms):
    [plot] = draw_front(document(arms, spread=5)).axes  # intervals far wider than the plane
    (left, right), (bottom, top) = plot.get_xlim(), plot.get_ylim()
    assert left < 1 <= left + 3
    assert right > arms
    assert bottom >= -0.06
    assert 0.9 < top <= 1.06


def test_a_reward_of_another_range_keeps_its_own_axis():
    [plot] = draw_front(document(2, quality=7.0)).axes
    assert plot.get_ylim()[0] < 7 < plot.get_ylim()[1]
