"""Protocols: what they fix, what they add, what they refuse."""

import pytest

from dqo.cli.main import build_parser
from dqo.errors import RecipeError
from dqo.evaluation.run import PROTOCOLS, evaluate
from dqo.files.records import Group


def group(n, rewards=None):
    return Group("g", "?", [], ["red", "green"] * (n // 2), ["eos"] * n, rewards, {})


def test_the_paper_adds_self_rouge_and_is_named(words, tmp_path):
    document = evaluate([group(10)], encoder=words, out=tmp_path, protocol=PROTOCOLS["paper"])
    assert document["protocol"] == "paper"
    assert document["metrics"]["self_rouge"]["mean"] == pytest.approx(20 / 45)  # equal pairs: 2 · C(5, 2)
    assert "self_rouge" not in evaluate([group(10)], encoder=words, out=tmp_path)["metrics"]


def test_headlines_are_metrics(words, tmp_path):
    for name, protocol in PROTOCOLS.items():
        groups = [group(protocol.n, [1.0] * protocol.n)]
        metrics = evaluate(groups, encoder=words, out=tmp_path / name, protocol=protocol)["metrics"]
        assert {*protocol.headline} <= {*metrics}, name


@pytest.mark.parametrize(
    ("name", "groups", "message"),
    [
        ("paper", [group(8)], r"protocol 'paper': expected 10 responses per prompt, got 8 for 'g'; sample with --n 10"),
        ("noveltybench-1.0", [group(12)], r"expected 10 responses per prompt, got 12"),
        ("passk", [group(8)], r"protocol 'passk': expected rewards, got none; give --task or --reward"),
    ],
)
def test_groups_that_do_not_fit_are_refused(words, tmp_path, name, groups, message):
    with pytest.raises(RecipeError, match=message):
        evaluate(groups, encoder=words, out=tmp_path, protocol=PROTOCOLS[name])


def test_responses_drawn_in_another_way_are_refused_and_unknown_ways_are_noted(words, tmp_path):
    def notes(name, sampling):
        options = {"encoder": words, "protocol": PROTOCOLS[name], "sampling": sampling}
        notes = evaluate([group(10)], out=tmp_path, **options)["notes"]
        return [note for note in notes if note.startswith("protocol")]

    assert notes("paper", {"temperature": 1.0, "max_new_tokens": 7}) == []
    assert notes("noveltybench-1.0", {"temperature": 1, "max_new_tokens": 512, "form": "plain"}) == []
    assert notes("noveltybench-1.0", {"temperature": 1.0, "max_new_tokens": 3 * 544, "form": "verbalized:3"}) == []
    assert notes("noveltybench-1.0", None) == [
        "protocol 'noveltybench-1.0' demands temperature = 1.0, max_new_tokens = 512, and nothing says that the "
        "responses were drawn so."
    ]
    for name, sampling, message in (
        ("paper", {"temperature": 0.7}, "'paper': expected responses sampled with temperature = 1.0, got 0.7; sample"),
        ("noveltybench-1.0", {"temperature": 1.0, "max_new_tokens": 256}, "with max_new_tokens = 512, got 256"),
        ("noveltybench-1.0", {"max_new_tokens": 512, "form": "verbalized:3"}, "with max_new_tokens = 1632, got 512"),
    ):
        with pytest.raises(RecipeError, match=message):
            notes(name, sampling)
    passk = PROTOCOLS["passk"]
    assert passk.check_sampling({"temperature": 0.2}) == passk.check_sampling(None) == []


def test_the_command_line_knows_them_by_name():
    flags = ["eval", "--model", "m", "--out", "o", "--protocol"]
    assert [build_parser().parse_args([*flags, name]).protocol for name in PROTOCOLS] == list(PROTOCOLS)
    with pytest.raises(SystemExit):
        build_parser().parse_args([*flags, "papers"])
