"""Bad input that the fuzz tests do not find by chance: cases by hand."""

import pytest
import torch

from dqo.errors import DataError, ModelError, RewardError, printable
from dqo.files.records import Group, read_groups, write_groups
from dqo.rewards import CheckedReward


def test_a_message_keeps_what_it_quotes_and_is_escaped_and_cut_where_it_is_printed():
    told = "expected \x1b[31mx\x1b[0m and \ud800, got " + "long " * 10_000 + "; change it."
    assert str(DataError(told)) == told
    text = printable(told)
    assert text.startswith("expected \\x1b[31mx\\x1b[0m and \\ud800, got long long")
    assert text.endswith("long ; change it.")
    assert len(text) <= 1200
    assert text.isprintable()
    assert printable(text) == text
    assert printable("one: a.\ntwo:  b.") == "one: a.\ntwo:  b.", "a mistake per line"


@pytest.mark.parametrize(
    "bad", [float("nan"), float("inf"), -float("inf"), 10**400, "1", [1.0], torch.tensor(float("nan"))]
)
def test_a_reward_that_is_no_finite_number_names_its_row(bad):
    with pytest.raises(RewardError, match="expected a finite number for row 1, got "):
        CheckedReward(lambda **_: [0.5, bad])(prompts=["p", "p"], completions=["a", "b"])


def test_groups_of_one_and_a_megabyte_are_measured(tmp_path):
    from dqo.embedders import load_embedder
    from dqo.evaluation.run import evaluate

    long = ("many words " * 100_000)[:1_000_000]
    groups = [
        Group("a", "Say.", [], [long], ["length"], [1.0], {}),
        Group("../../b", "Say.", [], [""], ["eos"], [0.0], {}),
    ]
    document = evaluate(groups, encoder=load_embedder("hashed"), out=tmp_path / "eval")
    assert document["n_samples"] == 1
    assert document["metrics"]["words"]["mean"] == pytest.approx(90909.5, abs=1)
    assert read_groups(tmp_path / "eval" / "groups.jsonl") == groups
    assert {path.name for path in tmp_path.iterdir()} == {"eval"}


def test_half_characters_are_refused_before_a_file_is_touched(tmp_path):
    path = tmp_path / "groups.jsonl"
    write_groups(path, [Group("a", "p", [], ["x"], ["eos"], None, {})])
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"groups.jsonl: expected text to write as UTF-8, got the lone surrogate"):
        write_groups(path, [Group("a", "p", [], ["\ud83d"], ["eos"], None, {})])
    assert path.read_bytes() == before


def test_an_adapter_that_is_a_pickle_is_refused(tmp_path):
    from dqo.models.policy import load_policy

    (tmp_path / "adapter_config.json").write_text("{}")
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match="expected an adapter in safetensors format in folder"):
        load_policy(str(tmp_path))
