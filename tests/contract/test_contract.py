"""Nothing that users rely on goes without a reason: contract.yaml against the tree."""

import sys
from pathlib import Path

import forking
import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_nothing_goes_without_a_reason():
    done = forking.run([sys.executable, HERE / "snapshot.py"], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


BEFORE = {"settings": {"alpha": 1.0, "ridge": 1.0, "old": {"a": 1, "b": 2}}, "log": ["kl", "loss"]}


@pytest.mark.parametrize(
    ("after", "deleted", "wrong"),
    [
        (BEFORE | {"more": 1}, {}, []),
        (BEFORE | {"log": ["loss"]}, {}, ["went without a reason in deleted.yaml: log > kl"]),
        (BEFORE | {"log": ["loss"]}, {"log > kl": "TRL logs it"}, []),
        (BEFORE | {"log": ["loss"]}, {"log > k*": ""}, ["deleted.yaml gives no reason: log > k*"]),
        (BEFORE | {"settings": {"alpha": 2.0, "ridge": 1.0}}, {"settings > old": "why", "* > alpha": "why"}, []),
        (BEFORE, {"log > kl": "why"}, ["deleted.yaml names what has not gone: log > kl"]),
        (
            BEFORE | {"settings": BEFORE["settings"] | {"ridge": True}},
            {},
            ["went without a reason in deleted.yaml: settings > ridge"],
        ),
    ],
)
def test_what_goes_or_changes_needs_a_reason_and_only_that(monkeypatch, after, deleted, wrong):
    monkeypatch.syspath_prepend(HERE)
    from snapshot import compare

    assert compare(BEFORE, after, deleted)[2] == wrong
