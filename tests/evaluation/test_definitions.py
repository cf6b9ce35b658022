"""Every number of metrics.json has a definition, and the definition is true of it."""

import math
import re
from pathlib import Path

import pytest

from dqo.errors import DQOError
from dqo.evaluation import DEFINITIONS, definition_of, measure
from dqo.evaluation.metrics import metrics_document, prompt_values
from dqo.evaluation.protocols import PROTOCOLS
from dqo.files.records import Group, read_groups

TEXTS = ["red red green", "green", "blue and cyan but no pink", ""]
GROUPS = [Group("a", "?", [], TEXTS, ["eos"] * 4, [1.0, 0.0, 1.0, 0.25], {})]


def names(words, same_words):
    measures = {name: f for protocol in PROTOCOLS.values() for name, f in protocol.measures.items()}
    values = prompt_values(GROUPS, words, words, measures=measures, equivalence=same_words)
    return values, metrics_document(GROUPS, values, seed=0)


def test_every_metric_is_defined_and_lies_in_its_range(words, same_words):
    _, document = names(words, same_words)
    assert len(document["metrics"]) > 30
    for name, interval in document["metrics"].items():
        found = definition_of(name)
        high = {"n": 4, "log n": math.log(4), "n log 2": 4 * math.log(2)}.get(found.high, found.high)
        assert found.low is None or interval["mean"] >= found.low, name
        assert high is None or interval["mean"] <= high, name
    assert all(definition_of(f"corpus/{name}").kind == "diversity of words" for name in document["corpus"])


def test_every_definition_belongs_to_a_metric(words, same_words):
    values, document = names(words, same_words)
    measured = {re.sub(r"@\d+", "@k", re.sub(r"distinct_\d", "distinct_n", name)) for name in values}
    measured |= {f"corpus/{re.sub(r'_[0-9]', '_n', name)}" for name in document["corpus"]}
    assert {name for name in DEFINITIONS if name not in measured} == set()


@pytest.mark.parametrize("name", [n for n, d in DEFINITIONS.items() if d.kind.startswith("diversity")])
def test_better_means_more_diverse(words, same_words, name):
    """Four texts with no word in common against four copies."""
    groups = [
        Group(str(i), "?", [], texts, ["eos"] * 4, [1.0] * 4, {})
        for i, texts in enumerate([["red a b c", "green d e f", "blue g h i", "cyan j k l"], ["red a b c"] * 4])
    ]
    measures = PROTOCOLS["paper"].measures
    if name == "corpus/distinct_n":
        spread, copies = (metrics_document([g], {}, seed=0)["corpus"]["distinct_2"] for g in groups)
    else:
        spread, copies = prompt_values(groups, words, measures=measures, equivalence=same_words)[
            name.replace("_n", "_2")
        ]
    assert spread > copies if DEFINITIONS[name].better == "higher" else spread < copies


def test_numbers_and_judges_are_in_the_title():
    assert definition_of("pass@10").title == "Pass at 10"
    assert definition_of("heldout/vendi_1").title == "Vendi score, held-out encoder"
    assert definition_of("heldout/vendi_1").high == "n"
    with pytest.raises(DQOError, match=r"expected the name of a metric, one of quality, .* got 'vendi_7'"):
        definition_of("vendi_7")


def test_three_lines_on_plain_strings():
    result = measure({"Name a colour.": ["red", "green", "red"], "A city?": ["Rome", "Oslo", "Lima"]}, encoder="hashed")
    assert result["distinct_1"]["mean"] == pytest.approx((2 / 3 + 1) / 2)
    assert result["distinct_2"] is result["classes"] is None
    assert result["quality"] is None
    scored = measure({"a": ["x", "y"]}, {"a": [True, 0]}, encoder="hashed")
    assert scored["pass@1"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert measure({"a": ["x", "y"]}, {"a": [1, None]}, encoder="hashed")["quality"] is None
    own = measure({"a": ["x", "y"]}, encoder=lambda texts: [[1.0, 0.0], [0.0, 1.0]][: len(texts)])
    assert own["vendi_1"]["mean"] == pytest.approx(2.0)
    for wrong, rewards, message in (
        ({"a": "text"}, None, "a list of one response or more to prompt 'a', got 'text'"),
        ({"a": []}, None, "a list of one response or more to prompt 'a'"),
        (
            {"a": ["x", "y"]},
            {"b": [1, 0]},
            r"Expected 2 rewards for prompt 'a', one number or None a response, got \[\]",
        ),
        ({"a": ["x", "y"]}, {"a": [1, "0"]}, r"one number or None a response, got \[1, '0'\]"),
        ({"a": ["x", None]}, None, r"a list of one response or more to prompt 'a', got \['x', None\]"),
        (["x"], None, "`responses` must be a dict from each prompt to a list, got a list"),
        ({"a": ["x"]}, [1], "`rewards` must be a dict from each prompt to a list, got a list"),
    ):
        with pytest.raises(DQOError, match=message):
            measure(wrong, rewards, encoder="hashed")


DOCS = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()


def test_the_docs_table_says_what_the_definitions_say():
    rows = [line.removesuffix(" |").split(" | ") for line in DOCS.splitlines() if line.startswith("| `")]
    said = {(row[4], row[1].replace("–", ""), row[6].replace("–", "")) for row in rows if len(row) == 7}
    assert said == {(found.text, found.better, found.undefined) for found in DEFINITIONS.values()}


def test_what_can_be_null_has_a_reason(words):
    """Silence, one response, text that no measure of words can read, without rewards, classes or difference."""
    hard = [["", " "], ["red"], ["一只猫坐在红色的垫子上。"] * 2, ["red", "green"]]
    groups = [Group(str(i), "?", [], texts, ["eos"] * len(texts), None, {}) for i, texts in enumerate(hard)]
    values = prompt_values(groups, words, words, measures=PROTOCOLS["paper"].measures)
    null = {name for name, column in values.items() if None in column}
    assert null == {name for name in values if definition_of(name).undefined}


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", DOCS, flags=re.S))
def test_the_docs_examples_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(code, {})


def test_the_docs_file_of_responses_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(next(code for code in re.findall(r"```python\n(.*?)```", DOCS, flags=re.S) if "mine.jsonl" in code), {})
    assert next(group.responses for group in read_groups("mine.jsonl")) == ["red", "green", "red"]
