"""Reading folders: what is missing is left out, what is broken is one sentence."""

import json

import pytest

from dqo.errors import DataError
from dqo.report.sources import locate, read_runs, stamp


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
        ("metrics.jsonl", '{"step": 1}\n{"loss": 1}\n', "metrics.jsonl, line 2: expected .* whole number as `step`"),
        ("metrics.json", "[1]", "metrics.json: expected a JSON object"),
        ("prompt_metrics.jsonl", '{"quality": 1}\n', "prompt_metrics.jsonl, line 1: expected an id"),
    ],
)
def test_what_is_broken_is_named(tmp_path, file, content, sentence):
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=sentence):
        read_runs([tmp_path])


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


def test_the_stamp_changes_with_a_file_and_only_then(tmp_path):
    log = tmp_path / "metrics.jsonl"
    assert stamp([tmp_path]) == ()
    log.write_text('{"step": 1}\n')
    before = stamp([tmp_path])
    assert stamp([tmp_path]) == before
    log.write_text('{"step": 1}\n{"step": 2}\n')
    assert stamp([tmp_path]) != before
    assert locate(tmp_path) == {"steps": log}
