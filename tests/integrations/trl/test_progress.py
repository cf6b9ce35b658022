"""What `dqo train` shows: a bar in a terminal, a line now and then in a log file."""

import io
from types import SimpleNamespace

from rich.console import Console

from dqo.integrations.trl.log import LiveProgress

LOGS = {"quality": 0.7134, "diversity/vendi": 4.25, "kl": None, "alpha": 1.5, "loss": 0.1}


def trained(console, steps=6, seconds=6.0, main=True):
    """A training of six steps of six seconds as TRL calls its callbacks."""
    now = [0.0]
    callback = LiveProgress(console, clock=lambda: now[0])
    state = SimpleNamespace(is_world_process_zero=main, max_steps=steps, global_step=0)
    callback.on_train_begin(None, state, None)
    for step in range(1, steps + 1):
        now[0] += seconds
        state.global_step = step
        callback.on_step_end(None, state, None)
        callback.on_log(None, state, None, logs={**LOGS, "num_tokens": step * 1200})
    callback.on_log(None, state, None, logs={"train_runtime": 36.0, "quality": 99.0})
    callback.close()
    callback.close()


def test_a_log_file_gets_plain_lines_not_too_often_and_the_last_step():
    file = io.StringIO()
    trained(Console(file=file))
    lines = file.getvalue().splitlines()
    assert lines[0] == "step 1/6  Quality 0.713  Vendi score 4.25  Alpha 1.5", "numbers that TRL has"
    assert lines[1].endswith("Alpha 1.5  200 tokens/s  0:00:18 left")
    assert [line.split()[1] for line in lines] == ["1/6", "3/6", "5/6", "6/6"]
    assert lines[-1] == "step 6/6  Quality 0.713  Vendi score 4.25  Alpha 1.5  200 tokens/s"
    assert "\x1b" not in file.getvalue()


def test_a_terminal_gets_a_bar_with_the_same_numbers():
    file = io.StringIO()
    trained(Console(file=file, force_terminal=True, width=110, color_system=None, legacy_windows=False))
    for part in ("step 6/6", "━━━━", "Quality 0.713", "Vendi score 4.25", "200 tokens/s"):
        assert part in file.getvalue()


def test_other_processes_are_silent():
    file = io.StringIO()
    trained(Console(file=file), main=False)
    assert file.getvalue() == ""
