"""What a sweep says of metrics that are undefined, and of runs that were not sampled alike."""

import numpy as np
import pandas as pd
import pytest

from dqo.sweep.plan import Run
from dqo.sweep.results import Evaluated, markdown, plane, summarise

SAMPLING = {"temperature": 1.0, "max_new_tokens": 8, "system_prompt": None, "chat_template": "3f", "form": "plain"}


def evaluated(tmp_path, alpha, columns, sampling=SAMPLING):
    """A run whose metrics have these values for prompts 0, 1, ...; None where undefined."""
    values = pd.DataFrame(columns, dtype=float)
    means = {}
    for name, column in columns.items():
        known = [value for value in column if value is not None]
        means[name] = dict.fromkeys(("mean", "low", "high"), sum(known) / len(known)) if known else None
    document = {"metrics": means, "n_samples": 4, "sampling": sampling, "task": "cities"}
    return Evaluated(Run("dqo", alpha, 0, tmp_path / f"dqo-alpha{alpha}-seed0", {}), document, values)


def test_an_axis_that_is_undefined_for_a_prompt_leaves_that_prompt_out(tmp_path):
    runs = [
        evaluated(tmp_path, 0.0, {"quality": [1.0, 0.5, 0.0], "vendi_1": [1.0, None, 2.0]}),
        evaluated(tmp_path, 1.0, {"quality": [0.5, 0.5, None], "vendi_1": [4.0, 4.0, 4.0]}),
    ]
    document = summarise(runs)
    assert document["notes"] == []
    # on prompt 0 alone: quality 1 at Vendi 1 covers nothing, quality 0.5 at the most covers half
    assert document["hypervolume"]["dqo"]["mean"] == pytest.approx(0.5)


def test_a_run_without_one_axis_leaves_no_front_and_says_so(tmp_path):
    runs = [
        evaluated(tmp_path, 0.0, {"quality": [1.0, 0.5], "vendi_1": [None, None]}),
        evaluated(tmp_path, 1.0, {"quality": [0.5, 0.5], "vendi_1": [4.0, 4.0]}),
    ]
    document = summarise(runs)
    assert document["axes"] is None
    assert "No front and no hypervolume" in document["notes"][0]


def test_the_table_says_why_a_column_is_empty(tmp_path):
    rows = {"quality": [1.0], "vendi_1": [1.0]}
    runs = [evaluated(tmp_path, 0.0, rows | {"attractors": [None], "words": [None]}),
            evaluated(tmp_path, 1.0, rows | {"attractors": [0.5], "words": [None]})]  # fmt: skip
    text = markdown(summarise(runs))
    assert "Attractors is – where there are fewer than three prompts, or white space does not separate" in text
    assert "Length has no column: white space does not separate the words of some response." in text


@pytest.mark.parametrize("change", [{"temperature": 0.7}, {"max_new_tokens": 4}, {"system_prompt": "Brief."},
                                    {"chat_template": "b1"}])  # fmt: skip
def test_runs_that_were_sampled_in_other_ways_are_cautioned(tmp_path, change):
    rows = {"quality": [1.0], "vendi_1": [1.0]}
    runs = [evaluated(tmp_path, 0.0, rows), evaluated(tmp_path, 1.0, rows, SAMPLING | change)]
    ((fact, value),) = change.items()
    said = f"The evaluations differ in {fact} (dqo-alpha0.0-seed0: {SAMPLING[fact]}, dqo-alpha1.0-seed0: {value})"
    assert summarise(runs)["notes"][0].startswith(said)
    assert said in markdown(summarise(runs))


def test_what_an_arm_covers_by_hand(tmp_path):
    """On the plane: (1, 0.25) and (0.5, 0.5) together."""
    runs = [
        evaluated(tmp_path, 0.0, {"quality": [1.0], "vendi_1": [1.75]}),
        evaluated(tmp_path, 1.0, {"quality": [0.5], "vendi_1": [2.5]}),
    ]
    covered = summarise(runs)["hypervolume"]["dqo"]
    assert covered == {"points": 2} | dict.fromkeys(("mean", "low", "high"), pytest.approx(0.25 + 0.125))


@pytest.mark.parametrize(("quality", "vendi", "n"), [(1.5, 2.0, 4), (-0.1, 2.0, 4), (0.5, 1.0, 1)])
def test_what_is_on_no_plane_has_no_front(tmp_path, quality, vendi, n):
    one = evaluated(tmp_path, 1.0, {"quality": [quality], "vendi_1": [vendi]})
    one.document["n_samples"] = n
    document = summarise([one])
    assert document["hypervolume"] == {}
    assert document["notes"][0].startswith("No front and no hypervolume: they need quality in [0, 1]")
    assert markdown(document)


def test_axes_are_divided_by_their_ranges():
    placed = plane(np.array([0.25, 1.0, 0.5]), np.array([1.0, 10.0, 0.0]), 10)
    np.testing.assert_allclose(placed, [[0.25, 0.0], [1.0, 1.0], [0.5, 0.0]])
