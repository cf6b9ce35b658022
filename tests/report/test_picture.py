"""The README's picture: the trade-off of a report page, taken by the script that refreshes it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from dqo.report import write_report

SCRIPT = Path(__file__).parents[2] / "runs" / "picture.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no chromium with chromedriver on PATH"
)
def test_the_trade_off_is_taken_in_the_colours_of_the_runs(run_folders, tmp_path):
    pytest.importorskip("selenium")
    write_report(run_folders, tmp_path / "r.html", maps=0)
    done = run(tmp_path / "r.html", tmp_path / "effect.png", "--width", "800")
    assert done.returncode == 0, done.stderr[-2000:]
    picture = (imread(tmp_path / "effect.png")[..., :3] * 255).round()  # (height, width, 3)
    assert 1400 < picture.shape[1] <= 1600, "two pixels for each of the page's, the page's margins left out"
    for colour in ("5a5a5a", "0072b2", "d0560a"):
        rgb = [int(colour[i : i + 2], 16) for i in (0, 2, 4)]
        assert (abs(picture - rgb).max(axis=2) <= 2).sum() > 50, f"a point of run colour #{colour} must be there"
    assert (picture[3, 3] > 250).all(), "light, and without a frame"
    wrong = run(tmp_path / "r.html", tmp_path / "none.png", "--figure", "#no-such")
    assert "expected '#no-such' on the page, got none" in wrong.stderr
    assert not (tmp_path / "none.png").exists()


def test_a_page_that_is_not_there_is_said():
    done = run("no-such.html", "out.png")
    assert done.returncode == 1
    assert "no-such.html: expected a page of `dqo report`, got no such file." in done.stderr
