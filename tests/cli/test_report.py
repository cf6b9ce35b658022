"""`dqo report` as a command, once and with --watch."""

import json

from dqo.cli.main import main


def run_folder(path):
    path.mkdir()
    (path / "metrics.jsonl").write_text(json.dumps({"step": 3, "quality": 0.5}) + "\n")
    return path


def test_report_writes_the_page_and_says_where(tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    assert main(["report", str(run_folder(tmp_path / "run")), "-o", str(out)]) == 0
    assert f"written: {out} (0 prompts, 0." in capsys.readouterr().out
    assert out.read_text().startswith("<!doctype html>")


def test_mistakes_are_one_line_with_status_2(tmp_path, capsys):
    run_folder(tmp_path / "run")
    for words, sentence in (
        ([tmp_path / "nothing", "-o", tmp_path / "r.html"], "expected a run folder"),
        ([tmp_path / "run", "-o", tmp_path], "expected the name of an HTML file"),
        ([tmp_path / "run", "-o", tmp_path / "run" / "metrics.jsonl"], "expected the name of an HTML file"),
    ):
        assert main(["report", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    assert (tmp_path / "run" / "metrics.jsonl").read_text().startswith("{")


def test_watching_a_finished_run_writes_once_and_ends(tmp_path, capsys):
    run = run_folder(tmp_path / "run")
    (run / "checkpoints" / "final").mkdir(parents=True)
    assert main(["report", str(run), "-o", str(tmp_path / "r.html"), "--watch", "--every", "1"]) == 0
    assert capsys.readouterr().out == f"finished: {tmp_path / 'r.html'}\n"
