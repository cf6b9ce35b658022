"""metrics.jsonl: promised names, numbers that JSON has, each step once."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from dqo.evaluation.definitions import DEFINITIONS
from dqo.integrations.trl.log import RunLog


def state(step, main=True):
    return SimpleNamespace(global_step=step, is_world_process_zero=main)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_step_promised_names_and_the_host_s_numbers(path):
    logs = {"quality": 0.5, "loss": math.nan, "grad_norm": math.inf, "time/step": 2.0, "note": "text", "tools": None}
    RunLog(path).on_log(None, state(3), None, logs=logs)
    assert lines(path) == [
        {"step": 3, "quality": 0.5, "diversity/credit": None, "diversity/vendi": None, "alpha": None, "kl": None,
         "loss": None, "grad_norm": None, "time/step": 2.0, "tools": None}
    ]  # fmt: skip


def test_other_processes_and_the_host_s_summary_write_nothing(path):
    RunLog(path).on_log(None, state(3, main=False), None, logs={"quality": 0.5})
    RunLog(path).on_log(None, state(3), None, logs={"train_runtime": 1.0, "train_loss": 0.1})
    assert not path.exists()


@pytest.mark.parametrize(("resumed", "kept"), [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_resuming_drops_lines_beyond_the_resumed_step_and_half_a_line(path, resumed, kept):
    log = RunLog(path)
    for step in (1, 2, 3):
        log.on_log(None, state(step), None, logs={"quality": step / 10})
    with path.open("a") as file:
        file.write('{"step": 4, "qual')
    log.on_train_begin(None, state(resumed), None)
    assert [line["step"] for line in lines(path)] == kept
    assert path.read_text().endswith("\n") or not kept


def test_every_number_of_a_training_has_a_group_that_the_guide_names():
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "trackers.md").read_text()
    rows = re.findall(r"^\| (?:quality|diversity|health|time) \| (.*) \|$", guide, flags=re.M)
    assert len(rows) == 4
    grouped = [name.removesuffix("…") for row in rows for name in re.findall(r"`([^`]+)`", row)]
    prefixes = tuple(name for name in grouped if name.endswith("/"))
    ours = ("TRL", "integrations/trl", "diversity")
    logged = [name for name, found in DEFINITIONS.items() if any(file.startswith(ours) for file in found.logged_by)]
    assert len(logged) > 50
    counters = {"step", "loss", "epoch", "num_tokens", "learning_rate", "reward_std", "frac_reward_zero_std"}
    assert {name for name in logged if not name.startswith(prefixes) and name not in grouped} <= counters
    assert all(any(name.startswith(prefix) for name in DEFINITIONS) for prefix in prefixes), "each has a number"
