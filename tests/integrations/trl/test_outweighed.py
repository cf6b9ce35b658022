"""The warning comes where quality halves under a diversity term, once, and nowhere else."""

from types import SimpleNamespace

import pytest

from dqo.integrations.trl.faults import OutweighedWarning


def log(qualities, alpha=1.0, main=True):
    callback = OutweighedWarning()
    for step, quality in enumerate(qualities, 1):
        logs = {"loss": 0.1} if quality is None else {"quality": quality, "alpha": alpha}
        callback.on_log(None, SimpleNamespace(global_step=step, is_world_process_zero=main), None, logs)


# Quality of the first steps of a real run at alpha 4.5 (seed 14) that never recovered, and of one at alpha 3 that did.
LOST = [0.33, 0.22, 0.12, 0.06, 0.08, 0.06, 0.01, 0.07, 0.01, 0.07, 0.0, 0.0]
LEARNT = [0.15, 0.23, 0.26, 0.54, 0.56, 0.55, 0.76, 0.84, 0.68, 0.8, 0.8, 0.97, 0.69, 0.7, 0.75, 0.74, 0.93]


def test_a_lost_run_is_told_of_once_and_early(capsys):
    log(LOST)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "step 7: quality is 0.066" in told  # (.12 + .06 + .08 + .06 + .01) / 5
    assert "was 0.16, with alpha 1:" in told  # (.33 + .22 + .12 + .06 + .08) / 5
    assert "lower alpha" in told


@pytest.mark.parametrize(
    "case",
    [
        {"qualities": LEARNT},
        {"qualities": LOST, "alpha": 0.0},
        {"qualities": LOST, "main": False},
        {"qualities": [0.0] * 12},
        {"qualities": LOST[:4]},
        {"qualities": [None] * 12},
        {"qualities": [0.8, 0.8, 0.8, 0.8, 0.8, 0.5, 0.4, 0.45, 0.5, 0.5]},
    ],
    ids=["learns", "no diversity", "another process", "never any", "too few", "other logs", "not halved"],
)
def test_silence_otherwise(case, capsys):
    log(**case)
    assert capsys.readouterr().err == ""
