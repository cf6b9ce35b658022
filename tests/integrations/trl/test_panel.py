"""What `dqo train` shows: a panel in a terminal, a line now and then in a log file."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from dqo.integrations.trl.progress import CompactProgress, Numbers, Pace, duration, short, sparkline

LOGS = {"quality": 0.7134, "diversity/vendi": 4.25, "kl": 0.0123, "alpha": 1.5, "loss": 0.1}


def test_pace_by_hand():
    pace = Pace()
    assert pace.seconds_left(10) is None
    for second, step in ((100.0, 4), (110.0, 5), (130.0, 6)):
        pace.step(second, step)
        pace.tokens(second, 1000 + step * 600)
    assert pace.seconds_left(10) == pytest.approx(4 * 15)  # 2 steps in 30 s
    assert pace.tokens_per_second() == pytest.approx(1200 / 30)


def test_pace_forgets_a_slow_start():
    pace = Pace()
    pace.step(0.0, 0)
    for step in range(1, 31):
        pace.step(1000.0 + step, step)
    assert pace.seconds_left(40) == pytest.approx(10)


@pytest.mark.parametrize(
    ("seconds", "text"), [(40, "40 s"), (89, "89 s"), (720, "12 min"), (11_100, "3 h 05 min"), (7200, "2 h 00 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_short_numbers_and_courses():
    assert [short(v) for v in (0.71349, 12.04, 123456.0, 0.0)] == ["0.713", "12", "123,456", "0"]
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([2.0, 2.0]) == "▁▁"


def trained(console, steps=6, seconds=6.0, main=True):
    """A training of six steps of six seconds as the host calls its callbacks."""
    now = [0.0]
    callback = CompactProgress(console, clock=lambda: now[0])
    state = SimpleNamespace(is_world_process_zero=main, max_steps=steps, global_step=0)
    callback.on_train_begin(None, state, None)
    for step in range(1, steps + 1):
        now[0] += seconds
        state.global_step = step
        callback.on_step_end(None, state, None)
        callback.on_log(None, state, None, logs={**LOGS, "num_tokens": step * 1200})
    callback.on_log(None, state, None, logs={"train_runtime": 36.0, "quality": 99.0})
    callback.on_train_end(None, state, None)
    callback.close()


def test_a_log_file_gets_plain_lines_not_too_often_and_the_last_step():
    file = io.StringIO()
    trained(Console(file=file))
    lines = file.getvalue().splitlines()
    assert lines[0] == "step 1/6  quality 0.713  Vendi 4.25  KL 0.0123  alpha 1.5  30 s left"
    assert [line.split()[1] for line in lines] == ["1/6", "3/6", "5/6", "6/6"]
    assert "200 tokens/s" in lines[-1]
    assert "\x1b" not in file.getvalue()


def test_a_terminal_gets_a_panel_with_the_same_numbers():
    file = io.StringIO()
    trained(Console(file=file, force_terminal=True, width=90, color_system=None, legacy_windows=False))
    last = file.getvalue().split("╭")[-1]
    for part in ("dqo train", "step 6/6", "200 tokens/s", "quality", "0.713", "Vendi", "4.25", "▁▁▁▁▁▁", "KL 0.0123"):
        assert part in last
    assert max(len(line) for line in last.splitlines()) <= 90


def test_other_processes_are_silent():
    file = io.StringIO()
    trained(Console(file=file), main=False)
    assert file.getvalue() == ""


def test_a_number_the_host_does_not_have_is_left_out():
    numbers = Numbers(5)
    numbers.log(0.0, {"quality": 0.5, "kl": None})
    assert numbers.line() == "step 0/5  quality 0.5"
