"""Reading folders: what is missing is left out, what is broken is one sentence."""

import json
import time

import pytest

from dqo.cli.main import main
from dqo.errors import DataError, DQOError
from dqo.report.sources import read_runs
from dqo.settings.yaml import to_yaml


def test_a_run_folder_and_an_evaluation_folder_are_both_read(run_folders):
    base, reward_only, _ = read_runs(run_folders)
    assert (base.name, base.steps, base.config, base.finished) == ("base", [], {}, True)
    assert reward_only.steps[-1]["step"] == 60
    assert reward_only.config["trainer"]["max_steps"] == 60
    assert len(reward_only.groups) == len(reward_only.values) == reward_only.document["n_prompts"] == 24


def test_a_log_that_is_being_written_is_read_up_to_its_last_whole_line(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "quality": 0.5}\n{"step": 2, "quality": 0.6}\n{"step": 3, "qua')
    (run,) = read_runs([tmp_path])
    assert [row["step"] for row in run.steps] == [1, 2]
    assert not run.finished


def test_a_step_logged_twice_counts_once_the_later_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "quality": 0.1}\n{"step": 1}\n{"step": 2, "quality": 0.9}\n')
    (run,) = read_runs([tmp_path])
    assert run.steps == [{"step": 1}, {"step": 2, "quality": 0.9}]


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("config.yaml", "alpha: 1\n", "expected a run folder .* got only its settings"),
        ("metrics.jsonl", '{"step": 1}\nnonsense\n', "metrics.jsonl, line 2: expected one JSON object"),
        ("metrics.jsonl", '{"step": 1}\n{"loss": 1}\n', "metrics.jsonl, line 2: expected the field `step`, got none"),
        ("metrics.json", "[1]", "metrics.json: expected one JSON object"),
        ("prompt_metrics.jsonl", '{"quality": 1}\n', "prompt_metrics.jsonl, line 1: expected the field `id`, got none"),
    ],
)
def test_what_is_broken_is_named(tmp_path, file, content, sentence):
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=sentence):
        read_runs([tmp_path])


GROWING = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 7)
)


@pytest.mark.parametrize("file", ["config.yaml", "resolved.yaml"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (GROWING, "it has an alias"),
        ("a: &a [*a]\n", "it has an alias"),
        ("a: " + "[" * 5000 + "]" * 5000, "maximum recursion depth exceeded"),
        ("a: !!python/object/apply:os.system [id]\n", "it has the tag"),
        ("- 1\n", "expected the settings of a run, got list"),
        ("alpha: 1\nalpha: 2\n", "the key 'alpha' comes twice"),
        ("", "expected the settings of a run, got NoneType"),
    ],
)
def test_settings_that_somebody_sent_are_read_with_care(tmp_path, capsys, file, content, sentence):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "quality": 0.5}\n')
    (tmp_path / file).write_text(content)
    start = time.monotonic()
    with pytest.raises(DQOError, match=sentence) as caught:
        read_runs([tmp_path])
    assert str(tmp_path / file) in str(caught.value)
    assert time.monotonic() - start < 5
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "r.html")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_settings_are_read_by_the_rules_they_are_written_by(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "quality": 0.5}\n')
    given = {"run_name": "1e-5", "model": "no", "trainer": {"learning_rate": 1e-5, "report_to": "12:30"}}
    (tmp_path / "config.yaml").write_text(to_yaml(given), encoding="utf-8")
    [run] = read_runs([tmp_path])
    assert run.config == given


def test_no_folder_the_same_folder_twice_and_an_empty_folder_are_refused(tmp_path):
    for folders in ([], [tmp_path, tmp_path / "." / ""]):
        with pytest.raises(DataError, match="one or more different folders"):
            read_runs(folders)
    with pytest.raises(DataError, match="got neither"):
        read_runs([tmp_path])


def test_one_id_for_two_prompts_is_kept_apart(tmp_path, samples):
    for name, words in (("a", "one"), ("b", "two")):
        (tmp_path / name).mkdir()
        line = {"id": "test-1", "prompt": f"Say {words}", "responses": ["x"], "finish": ["eos"]}
        (tmp_path / name / "groups.jsonl").write_text(json.dumps(line) + "\n")
    a, b = read_runs([tmp_path / "a", tmp_path / "b"])
    assert list(a.groups) == ["test-1"]
    assert list(b.groups) == ["test-1 (b)"]
