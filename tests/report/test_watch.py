"""Following a run: a page at once, a new one after a change, a last one that stands still."""

import re

import pytest

from dqo.errors import DataError
from dqo.report.page import watch


def refresh(page):
    import base64
    import gzip
    import json

    packed = re.search(r'id="data">([^<]*)<', page.read_text())[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))["refresh"]


def test_a_run_is_followed_from_before_its_first_step_to_its_end(tmp_path):
    run, out, told, moments = tmp_path / "run", tmp_path / "r.html", [], []
    log = run / "metrics.jsonl"

    run.mkdir()  # as `dqo train` does before it loads the policy

    def first_step():
        log.write_text('{"step": 1, "quality": 0.5}\n')

    def second_step():
        assert refresh(out) == 7
        log.write_text(log.read_text() + '{"step": 2, "quality": 0.6}\n')

    def end():
        (run / "checkpoints" / "final").mkdir(parents=True)

    events = iter([first_step, second_step, lambda: None, end])

    def sleep(seconds):
        moments.append(seconds)
        next(events)()

    watch([run], out, every=7, tell=told.append, sleep=sleep)
    assert moments == [7] * 4
    assert [text.split(":")[0] for text in told] == [
        f"waiting for the first step of {run}",
        "step 1",
        "step 2",
        "finished",
    ]
    assert refresh(out) == 0
    assert "still training" not in out.read_text()


def test_an_interruption_leaves_a_page_that_stands_still(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "quality": 0.5}\n')
    out = tmp_path / "r.html"

    def interrupted(seconds):
        assert refresh(out) == 5
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch([tmp_path], out, every=5, tell=print, sleep=interrupted)
    assert refresh(out) == 0


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("outputs/mine/", "nothing of that name"),
        ("absent/run", "nothing of that name"),
        ("outputs", "mines"),
        ("outputs/notes.txt", "nothing of that name"),
    ],
)
def test_a_folder_in_which_no_run_has_begun_is_not_waited_for(tmp_path, name, there):
    (tmp_path / "outputs" / "mines").mkdir(parents=True)
    (tmp_path / "outputs" / "notes.txt").write_text("")

    def never(seconds):
        raise AssertionError("it waits")

    with pytest.raises(DataError, match=f"expected the folder of a run to watch, got '{there}' and no run; correct"):
        watch([tmp_path / name], tmp_path / "r.html", every=1, tell=print, sleep=never)


@pytest.mark.parametrize("file", [None, "config.yaml", "train.log", "recipe.yaml", ".lock"])
def test_a_run_that_has_begun_is_waited_for(tmp_path, file):
    (tmp_path / "run").mkdir()
    if file:
        (tmp_path / "run" / file).write_text("")

    def waits(seconds):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        watch([tmp_path / "run"], tmp_path / "r.html", every=1, tell=print, sleep=waits)
