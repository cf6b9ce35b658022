"""The controller on simulated policies: it finds the floor, stays in bounds, does not wind up, resumes exactly."""

import json
import math
import random

import pytest
import torch

from dqo.core import mean_error
from dqo.diversity.alpha import (
    AlphaControl,
    AlphaSchedule,
    FlooredAlpha,
    StepwiseAlpha,
    TargetedAlpha,
    ramped_floor,
)
from dqo.errors import DQOError

FLOOR = 0.8


class Policy:
    """Quality follows alpha with a lag of tau steps; an e-fold of alpha costs `price` of quality in the end."""

    def __init__(self, tau, price, noise, quality=0.9, seed=0):
        self.tau, self.price, self.noise, self.quality = tau, price, noise, quality
        self.random = random.Random(seed)

    def step(self, alpha):
        aim = min(1.0, max(0.0, 0.85 - self.price * math.log(alpha)))
        self.quality += (aim - self.quality) / self.tau
        return self.quality + self.random.gauss(0.0, self.noise)


class Eroded(Policy):
    """A policy that drifts: above a balance alpha quality falls a little every step, below it rises."""

    def step(self, alpha):
        self.quality = min(1.0, max(0.0, self.quality - 0.02 * math.log(alpha / 2.0)))
        return self.quality + self.random.gauss(0.0, self.noise)


def drive(policy, control, steps, floor=FLOOR):
    history = []
    for _ in range(steps):
        control.observe(policy.step(control.alpha) - floor)
        history.append((policy.quality, control.alpha))
    return history


def test_batches_of_one_step_teach_their_mean_once():
    once, often = (StepwiseAlpha(FlooredAlpha(AlphaControl(), FLOOR)) for _ in range(2))
    for step, qualities in enumerate([(0.9, 0.5, 1.0), (0.7, 0.9, math.nan), (0.2, 0.3, 0.4)]):
        held = often.now(step, 10)
        for quality in qualities:
            assert often.now(step, 10) == held
            often.observe(quality, 2.0, step, 10)
        known = [quality for quality in qualities if quality == quality]
        assert once.now(step, 10) == held
        once.observe(sum(known) / len(known), 2.0, step, 10)
        assert often.logs() == pytest.approx(once.logs())
    resumed = StepwiseAlpha(FlooredAlpha(AlphaControl(), FLOOR))
    resumed.load(json.loads(json.dumps(often.state())))
    assert resumed.now(3, 10) == often.now(3, 10) == pytest.approx(once.now(3, 10))


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("price", [0.05, 0.2])
@pytest.mark.parametrize("tau", [3, 10, 30])
@pytest.mark.parametrize("start", [0.1, 1.0, 8.0])
def test_quality_settles_at_the_floor(tau, price, noise, start):
    control = AlphaControl(start=start)
    tail = drive(Policy(tau, price, noise), control, 300)[-60:]
    assert sum(q for q, _ in tail) / 60 == pytest.approx(FLOOR, abs=0.01)
    assert max(abs(q - FLOOR) for q, _ in tail) < (0.03 if noise else 0.005)


def test_a_drifting_policy_is_held_at_its_balance():
    tail = drive(Eroded(1, 0, 0.02), AlphaControl(start=1.0), 400)[-100:]
    assert sum(q for q, _ in tail) / 100 == pytest.approx(FLOOR, abs=0.02)
    assert math.exp(sum(math.log(a) for _, a in tail) / 100) == pytest.approx(2.0, rel=0.15)


def test_a_fixed_alpha_does_not_hold_the_floor():
    """Negative control: the plants do leave the floor when nothing holds them there."""
    fixed = AlphaControl(start=8.0, low=8.0, high=8.0)
    assert drive(Policy(10, 0.2, 0.0), fixed, 300)[-1][0] < 0.5
    fixed = AlphaControl(start=8.0, low=8.0, high=8.0)
    assert drive(Eroded(1, 0, 0.0), fixed, 300)[-1][0] == 0.0


def test_alpha_stays_in_its_bounds_and_moves_no_faster_than_promised():
    control = AlphaControl(start=1.0, low=0.2, high=5.0)
    wild, before = random.Random(1), control.alpha
    for _ in range(500):
        control.observe(wild.choice([-1e6, -3.0, 0.0, 3.0, 1e6]))
        assert 0.2 - 1e-12 <= control.alpha <= 5.0 + 1e-12
    control = AlphaControl(start=1.0)
    control.observe(1e9)
    assert control.alpha <= before * math.exp(1.5) + 1e-9


def test_no_wind_up_after_a_long_time_at_a_bound():
    control = AlphaControl()
    for _ in range(1000):
        control.observe(0.3)
    assert control.alpha == pytest.approx(10.0)
    steps = 0
    while control.alpha > 5.0:
        control.observe(-0.1)
        steps += 1
    assert steps <= 15, "an unbounded memory would take three thousand steps to unwind"


def test_nothing_scored_teaches_nothing():
    control = AlphaControl()
    control.observe(0.1)
    before = control.state()
    control.observe(math.nan)
    assert control.state() == before


@pytest.mark.parametrize(
    "build",
    [
        lambda: FlooredAlpha(AlphaControl(), FLOOR, ramp=0.5),
        lambda: FlooredAlpha(AlphaControl(), {1: 0.7, 30: 0.8}, slack=0.02),
        lambda: TargetedAlpha(AlphaControl(), 4.0),
    ],
    ids=["floor", "baseline", "target"],
)
def test_resumed_in_the_middle_it_goes_on_exactly(build):
    def run(source, steps, seed):
        noise = random.Random(seed)
        out = []
        for step in steps:
            out.append(source.now(step, 60))
            source.observe(0.6 + noise.random() * 0.3, 3.0 + noise.random(), step, 60)
        return out

    straight, first, second = build(), build(), build()
    expected = run(straight, range(30), 0) + run(straight, range(30, 60), 1)
    got = run(first, range(30), 0)
    second.load(json.loads(json.dumps(first.state())))
    assert got + run(second, range(30, 60), 1) == expected
    assert run(build(), range(30, 60), 1) != expected[30:], "a fresh start must differ, or resuming proves nothing"


def test_ramp_by_hand():
    assert ramped_floor(0.8, first=0.4, progress=0.0, ramp=0.5) == 0.4
    assert ramped_floor(0.8, first=0.4, progress=0.25, ramp=0.5) == pytest.approx(0.5)  # a quarter of the way
    assert ramped_floor(0.8, first=0.4, progress=0.5, ramp=0.5) == 0.8
    assert ramped_floor(0.8, first=0.9, progress=0.0, ramp=0.5) == 0.8
    assert ramped_floor(0.8, first=0.4, progress=0.0, ramp=0.0) == 0.8


def test_a_slow_start_of_learning_does_not_lower_alpha():
    source = FlooredAlpha(AlphaControl(), FLOOR, ramp=0.5)
    for step, quality in enumerate((0.0, 0.02, 0.03, 0.13, 0.42)):  # of 28 steps; a straight line has .11 for the .03
        source.observe(quality, 3.0, step, 28)
    assert source.now(5, 28) == 1.0


def test_error_under_a_rising_floor_by_hand():
    """Held at .4 of .8, a batch's standard error .03: rest from .37 to .8."""
    for quality, error in ((0.3, -0.07), (0.38, 0.0), (0.4, 0.0), (0.6, 0.0), (0.8, 0.0), (0.9, 0.1)):
        control = AlphaControl()
        control.observe(quality - 0.4, room=0.4, noise=0.03)
        assert control.error == pytest.approx(error), quality
    for error, rest in ((-0.03, -0.02), (-0.01, 0.0), (0.01, 0.0), (0.03, 0.02)):  # no wider below than the room above
        control = AlphaControl()
        control.observe(error, room=0.01, noise=0.03)
        assert control.error == pytest.approx(rest), error
    control = AlphaControl()
    control.observe(-0.01, room=0.0, noise=0.03)
    assert control.error == pytest.approx(-0.01), "under the whole floor nothing rests"


NOISE = 0.08  # of a batch's mean, in reward units


def drift(quality, seeds=200, steps=80, said=NOISE, ramp=1.0, until=1.0):
    """Mean e-folds of alpha per step and their standard error, over runs whose batches are noise around a curve."""
    ends = []
    for seed in range(seeds):
        noise = random.Random(seed)
        source = FlooredAlpha(AlphaControl(start=1.0, low=1e-9, high=1e9), FLOOR, ramp=ramp)
        for step in range(int(steps * until)):
            source.observe(quality(step / steps) + noise.gauss(0.0, NOISE), 3.0, step, steps, said)
        ends.append(math.log(source.now(steps, steps)) / (steps * until))
    mean = sum(ends) / seeds
    return mean, math.sqrt(sum((end - mean) ** 2 for end in ends) / (seeds - 1) / seeds)


def on_the_ramp(progress):
    return 0.4 + (FLOOR - 0.4) * progress**2


@pytest.mark.parametrize("until", [0.5, 0.9, 1.0], ids=["half-way", "almost-there", "arrived"])
def test_noise_of_a_batch_does_not_move_alpha_while_the_floor_rises(until):
    """Quality that keeps to the rising floor exactly: alpha has no reason to move, and does not drift."""
    mean, error = drift(on_the_ramp, until=until)
    assert abs(mean) < 0.02 * 0.5 * NOISE + 3 * error, "a one-sided error per batch drifts by .4 of rate times noise"


def test_a_controller_without_the_standard_error_drifts():
    """Negative control: without the standard error noise alone lowers alpha."""
    assert drift(on_the_ramp, said=0.0, until=0.9)[0] < -0.15 * 0.5 * NOISE


def test_quality_that_falls_behind_the_rising_floor_lowers_alpha():
    mean, _ = drift(lambda progress: 0.4, until=0.9)
    assert mean < -0.02
    mean, _ = drift(lambda progress: on_the_ramp(progress) - 2 * NOISE * (progress > 0.3), until=0.9)
    assert mean < -0.01


def test_quality_above_the_whole_floor_raises_alpha():
    assert drift(lambda progress: FLOOR + 0.1)[0] > 0.03


def test_noise_is_that_of_the_mean_over_a_step_s_batches():
    seen = []

    class Source(AlphaSchedule):
        def observe(self, quality, vendi, step, total_steps, noise=0.0):
            seen.append((quality, noise))

    stepwise = StepwiseAlpha(Source(1.0))
    for quality, noise in ((1.0, 0.3), (math.nan, 0.0), (3.0, 0.4)):
        stepwise.observe(quality, 2.0, 0, 10, noise)
    assert seen[0] == (1.0, 0.3)
    assert seen[-1] == pytest.approx((2.0, math.sqrt(0.3**2 + 0.4**2) / 2))


def test_standard_error_of_a_batch_by_hand():
    nan = math.nan
    # means .5 and .8: spread .2121, over the root of two prompts .15
    assert mean_error(torch.tensor([[0.0, 1.0, nan], [0.8, 0.8, 0.8]])) == pytest.approx(0.15)
    assert mean_error(torch.tensor([[0.0, 1.0]])) == pytest.approx(0.5), "one prompt: its responses"
    assert mean_error(torch.tensor([[0.0, 1.0], [nan, nan]])) == pytest.approx(0.5)
    assert mean_error(torch.tensor([[nan, nan]])) == mean_error(torch.tensor([[0.4, nan]])) == 0.0


def test_quality_on_its_way_up_does_not_raise_alpha():
    source = FlooredAlpha(AlphaControl(), FLOOR, ramp=0.5)
    alphas = []
    for step in range(40):
        source.observe(min(FLOOR, 0.1 + 0.05 * step), 3.0, step, 60)  # far above the floor that rises over 30 steps
        alphas.append(source.now(step, 60))
    assert alphas == [1.0] * 40
    source.observe(FLOOR + 0.1, 3.0, 40, 60)
    assert source.now(41, 60) > 1.0


def test_a_baseline_s_floor_is_that_of_the_same_step():
    source = FlooredAlpha(AlphaControl(), {2: 0.5, 4: 0.7}, slack=0.1)
    floors = []
    for step in (0, 1, 2, 3, 9):
        source.observe(0.9, 3.0, step, 10)
        floors.append(source.logs()["alpha/floor"])
    assert floors == pytest.approx([0.4, 0.4, 0.4, 0.6, 0.6])


def test_a_target_raises_alpha_while_diversity_is_missing():
    source = TargetedAlpha(AlphaControl(), 4.0)
    source.observe(0.5, 2.0, 0, 10)
    low = source.now(1, 10)
    assert source.logs()["alpha/error"] == pytest.approx(math.log(2))
    for step in range(1, 20):
        source.observe(0.5, 7.0, step, 20)
    assert source.now(20, 20) < 1.0 < low


def test_schedules_by_hand():
    assert [AlphaSchedule(2.0, "linear", 1.0).now(s, 5) for s in range(6)] == [2.0, 1.75, 1.5, 1.25, 1.0, 1.0]
    cosine = AlphaSchedule(2.0, "cosine", 0.0)
    assert [cosine.now(s, 5) for s in (0, 2, 4)] == pytest.approx([2.0, 1.0, 0.0])
    assert cosine.now(1, 5) == pytest.approx(1 + math.sqrt(0.5))
    warm = AlphaSchedule(1.0, "linear", 0.0, warmup_steps=4)
    assert [warm.now(s, 7) for s in range(7)] == [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.0]
    assert AlphaSchedule(0.7).now(3, 10) == 0.7


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: AlphaControl(start=20.0), "needs 0 < alpha_min <= alpha_start <= alpha_max, got 0.01, 20.0 and 10.0"),
        (lambda: AlphaControl(low=0.0), "needs 0 < alpha_min"),
    ],
)
def test_refusals(build, told):
    with pytest.raises(DQOError) as caught:
        build()
    assert told in str(caught.value)


@pytest.mark.parametrize("high", [0.05, 0.1, 0.5, 10.0])
def test_the_bounds_are_kept_to_the_last_bit(high):
    control = AlphaControl(start=high, low=high / 10, high=high)
    control.observe(5.0)
    assert high * 0.999 < control.alpha <= high
    for _ in range(100):
        control.observe(-5.0)
    assert high / 10 <= control.alpha < high / 9.99
