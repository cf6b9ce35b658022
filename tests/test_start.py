"""The tutorial and the notebook, followed as they stand: files are written, commands run, a tiny policy trained."""

import json
import re
import shlex
from pathlib import Path

import pytest

from dqo.cli.main import main

START = Path(__file__).parents[1] / "docs" / "start"


def run(script):
    """Runs a script's `dqo` commands, each of which must succeed."""
    values, done = {}, []
    for line in script.splitlines():
        words = shlex.split(re.sub(r"\$(\w+)", lambda found: values[found[1]], line), comments=True)
        if "=" in words[0]:
            name, _, values[name] = words[0].partition("=")
        elif words[0] == "dqo":
            assert main(words[1:]) == 0, line
            done.append(words[1])
    return done


@pytest.mark.slow
def test_the_tutorial_trains_measures_and_reports(tmp_path, monkeypatch, tiny_policy_folder):
    monkeypatch.chdir(tmp_path)
    page = (START / "tutorial.md").read_text()
    for real, small in {
        "HuggingFaceTB/SmolLM2-135M-Instruct": str(tiny_policy_folder),
        "encoder: all-MiniLM-L6-v2": "encoder: hashed:64",
        "paraphrase-MiniLM-L3-v2": "hashed:32",
        "max_steps: 20": "max_steps: 1\n  use_cpu: true\n  bf16: false",
        'JUDGED="': 'JUDGED="--encoder hashed:64 --n 3 ',
    }.items():
        assert real in page, "the tutorial no longer says what this test replaces"
        page = page.replace(real, small)
    done = []
    for language, file, code in re.findall(r"^```(\w+)(?: title=\"(.+?)\")?\n(.*?)^```", page, re.S | re.M):
        if file:
            Path(file).write_text(code)
        elif language == "python":
            exec(code, {})
        else:
            done += run(code)
    assert done == ["train"] * 3 + ["eval"] * 3 + ["compare", "report"]
    metrics = json.loads(Path("out/dqo/eval/metrics.json").read_text())
    assert len(Path("out/dqo/eval/groups.jsonl").read_text().splitlines()) == 4
    assert metrics["metrics"]["quality"]["mean"] is not None
    assert Path("report.html").stat().st_size > 100_000


def test_the_notebook_measures_and_draws(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names, done = {}, []
    for cell in json.loads((START / "evaluate.ipynb").read_text())["cells"]:
        code = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if code.startswith("%%writefile"):
            first, _, content = code.partition("\n")
            Path(first.split()[1]).write_text(content)
        elif code.startswith("!"):
            done += run(code.replace("!", ""))
        else:
            exec(code, names)
    assert done == ["eval", "eval", "compare", "report"]
    assert names["found"]["narrow"]["quality"]["mean"] == 1
    assert names["found"]["wide"]["quality"]["mean"] == pytest.approx((9 + 9 + 9) / 30)
    narrow, wide = (names["found"][model]["heldout/vendi_1"]["mean"] for model in ("narrow", "wide"))
    assert wide > 2 * narrow
    assert names["places"].shape == (20, 2)
