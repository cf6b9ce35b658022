"""What `dqo train` says before a run."""

from pathlib import Path

import pytest

from dqo.rewards.loading import read_entries
from dqo.train.prepare import Prepared, outcome_warning
from dqo.train.recipe import load_recipe

CITIES = Path(__file__).parents[2] / "recipes/cities.yaml"  # scale_rewards: group, combine: spread
FALLING = ["alpha_schedule=linear", "alpha_end=0.1"]


def notes(*overrides: str) -> list[str]:
    return Prepared(load_recipe(CITIES, overrides)).notes


@pytest.mark.parametrize(
    "moving",
    [
        FALLING,
        ["alpha=auto", "quality_floor=0.9"],
        ["alpha_warmup_steps=8"],
        [*FALLING, "alpha=1", "diversity=graph_cut", "combine=add", "quality_threshold=null"],
    ],
    ids=["falling", "auto", "warm-up", "a discount"],
)
def test_an_alpha_that_moves_needs_a_guard_under_group_scaling(moving):
    (said,) = notes(*moving)
    assert "scale_rewards='group'" in said
    assert "trainer.std_floor" in said
    assert "trainer.decouple_credit=true" in said


@pytest.mark.parametrize(
    "settings",
    [
        [],
        [*FALLING, "trainer.std_floor=0.1"],
        [*FALLING, "trainer.decouple_credit=true"],
        [*FALLING, "trainer.scale_rewards=batch"],
        [*FALLING, "skip_tied_groups=true"],
        ["alpha_schedule=linear", "alpha=1", "alpha_end=1"],
        [*FALLING, "diversity=entropy", "alpha=0.1", "alpha_end=0", "combine=add", "quality_threshold=null"],
    ],
    ids=["constant", "floored", "decoupled", "batch", "no tied groups", "linear to itself", "no credit"],
)
def test_nothing_is_said_where_alpha_does_not_move_or_does_something(settings):
    assert notes(*settings) == []


def test_rloo_divides_by_no_group():
    recipe = load_recipe(
        CITIES.parent / "jsonl.yaml", ["algorithm=rloo", "task=cities", "data={}", "task_options={}", *FALLING]
    )
    assert Prepared(recipe).notes == []


class Whole:
    outcome_only, cuts_span = True, False


class Cut:
    outcome_only, cuts_span = True, True


def test_outcome_rewards_are_warned_of_and_the_remedy_is_named():
    quality, math = read_entries([]), read_entries([{"reward": "math"}, {"reward": "length", "max_words": 9}])
    said = outcome_warning(Whole(), quality, 1.0, "add")
    assert "write something unique" in said
    assert "combine: quality_weighted" in said
    assert "unique" not in outcome_warning(Cut(), math, 1.0, "add")
    assert outcome_warning(Cut(), quality, 1.0, "quality_weighted") is None
    assert outcome_warning(Whole(), quality, 0.0, "add") is None
    mixed = read_entries([{"reward": "math"}, {"reward": "rouge", "weight": 0.5}])
    assert outcome_warning(Whole(), mixed, 1.0, "add") is None
