"""Tables of an evaluation: values by hand, joined by id, and the parquet files as what they were written from."""

import math
from dataclasses import replace

import pandas
import pytest

from dqo.cli.main import main
from dqo.errors import DataError
from dqo.evaluation import prompt_metrics_frame, read_responses, responses_frame
from dqo.evaluation.run import evaluate
from dqo.files.records import Conversation, Group, write_groups

TURNS = Conversation([{"role": "system", "content": "Brief."}, {"role": "user", "content": "colours?"}])
GROUPS = [
    Group("a", TURNS, "red", ["red", "grün\u2028\x00", ""], ["eos", "eos", "length"], [1.0, 0.0, 0.5], {"k": 1}),
    Group("b", "more?", ["x", "y"], ["blue"], ["eos"], None, {}),
]


def test_a_row_per_response():
    frame = responses_frame(GROUPS)
    assert frame[["id", "sample", "response", "finish"]].values.tolist() == [
        ["a", 0, "red", "eos"],
        ["a", 1, "grün\u2028\x00", "eos"],
        ["a", 2, "", "length"],
        ["b", 0, "blue", "eos"],
    ]
    assert frame.prompt.tolist() == ["system: Brief.\n\nuser: colours?"] * 3 + ["more?"]
    assert frame.reward.tolist()[:3] == [1.0, 0.0, 0.5]
    assert math.isnan(frame.reward[3])


def test_no_rewards_at_all_are_numbers_still():
    frame = responses_frame([GROUPS[1]])
    assert frame.reward.dtype == "float64"
    assert frame.reward.isna().all()


def test_a_row_per_prompt_with_the_numbers_of_the_evaluation(words, tmp_path):
    document = evaluate(GROUPS, encoder=words, out=tmp_path)
    frame = prompt_metrics_frame(tmp_path)
    assert frame.id.tolist() == ["a", "b"]
    assert set(frame.dtypes[1:].astype(str)) == {"float64"}
    assert frame.vendi_1.mean() == pytest.approx(document["metrics"]["vendi_1"]["mean"])
    assert frame.quality.tolist()[0] == 0.5
    assert math.isnan(frame.quality[1])
    joined = responses_frame(tmp_path).merge(frame, on="id", suffixes=("", "_of_prompt"))
    assert len(joined) == 4


def test_the_parquet_files_hold_the_tables_until_the_folder_is_evaluated_anew(tmp_path, capsys):
    write_groups(tmp_path / "mine.jsonl", GROUPS)
    command = ["eval", "--responses", str(tmp_path / "mine.jsonl"), "--encoder", "hashed", "--out", str(tmp_path / "e")]
    assert main([*command, "--parquet"]) == 0
    written = pandas.read_parquet(tmp_path / "e" / "responses.parquet")
    pandas.testing.assert_frame_equal(written, responses_frame(tmp_path / "e"), check_dtype=False)
    written = pandas.read_parquet(tmp_path / "e" / "prompt_metrics.parquet")
    pandas.testing.assert_frame_equal(written, prompt_metrics_frame(tmp_path / "e"), check_dtype=False)
    assert not list((tmp_path / "e").glob(".*tmp"))
    back = read_responses(tmp_path / "e" / "responses.parquet")
    assert back.format == "rows"
    assert [(group.id, group.responses, group.rewards) for group in back.groups] == [
        (group.id, group.responses, group.rewards) for group in GROUPS
    ]
    write_groups(tmp_path / "mine.jsonl", [replace(GROUPS[1], responses=["pink"])])
    assert main(command) == 0
    assert list((tmp_path / "e").glob("*.parquet")) == [], "they would be of other responses"
    capsys.readouterr()


def test_a_folder_without_an_evaluation_is_said(tmp_path):
    with pytest.raises(DataError, match=r"expected a readable prompt_metrics.jsonl of a finished evaluation"):
        prompt_metrics_frame(tmp_path)
