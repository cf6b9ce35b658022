"""Every number of metrics.json has a definition, and the definition is true of it."""

import math
import re
from pathlib import Path

import pytest
import yaml

from dqo.errors import DQOError
from dqo.evaluation import DEFINITIONS, definition_of, measure
from dqo.evaluation.definitions import explain, headline, shown_in, tabled
from dqo.evaluation.metrics import prompt_values
from dqo.evaluation.run import PROTOCOLS, metrics_document
from dqo.files.records import Group, read_groups

ROOT = Path(__file__).parents[2]
OF_EVALUATION = {name: found for name, found in DEFINITIONS.items() if found.kind}
OF_TRAINING = {name: found for name, found in DEFINITIONS.items() if not found.kind}
TEXTS = ["red red green", "green", "blue and cyan but no pink", ""]
SAID = {
    "answer_key": lambda prompt, response: response,
    "right_answers": lambda prompt: {text: text for group in GROUPS for text in [*group.responses, *COLOURS]},
}
COLOURS = ["red a b c", "green d e f", "blue g h i", "cyan j k l"]
GROUPS = [Group(name, "?", [], TEXTS, ["eos"] * 4, [1.0, 0.0, 1.0, 0.25], {}) for name in "abc"]


def names(words, same_words):
    measures = {name: f for protocol in PROTOCOLS.values() for name, f in protocol.measures.items()}
    values = prompt_values(GROUPS, words, words, measures=measures, equivalence=same_words, **SAID)
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
    measured = {*values, *(re.sub(r"@\d+", "@{k}", name) for name in values)}
    measured |= {re.sub(r"distinct_\d", "distinct_{n}", name) for name in values}
    measured |= {f"corpus/{re.sub(r'_[0-9]', '_{n}', name)}" for name in document["corpus"]}
    assert {name for name in OF_EVALUATION if name not in measured} == set()


def test_every_number_of_a_training_has_an_entry_and_every_entry_a_number():
    """contract.yaml lists what real runs of all algorithms log; the test of the contract holds it against new runs."""
    logged = {name for names in yaml.safe_load((ROOT / "tests/contract/contract.yaml").read_text())["log"].values()
              for name in names}  # fmt: skip
    assert {name for name in logged if explain(name).kind == "other"} == set()
    general = {re.sub(r"rewards/\w+/", "rewards/{function}/", name) for name in logged}
    others = {
        name: found.logged_by[0] for name, found in OF_TRAINING.items()
        if found.logged_by in (("integrations/verl/trainer.py",), ("rewards/judge.py",))
    }  # fmt: skip
    assert set(OF_TRAINING) - general == set(others)
    of_verl = {name for name, file in others.items() if "verl" in file}
    assert of_verl == {"diversity/rows", "diversity/groups", "diversity/lone_rows"}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_who_logs_a_number_names_it(name):
    """The last part of the name stands in every file that is said to make it."""
    part = re.sub(r"(\d|{\w}).*", "", name.rpartition("/")[2])
    for file in set(DEFINITIONS[name].logged_by) - {"TRL"}:
        assert part in (ROOT / "src" / "dqo" / file).read_text(), file


def test_what_a_table_shows_is_what_its_entry_says():
    metrics = [
        "quality",
        "max@1",
        "max@4",
        "max@k",
        "vendi_1",
        "heldout/vendi_2",
        "effective_rank",
        "distinct_2",
        "my own",
    ]
    assert tabled(metrics, 4) == ["quality", "max@k", "vendi_1", "distinct_2", "my own"]
    distinct = ["distinct_right@1", "distinct_right@10", "distinct_right@20", "distinct_right@k"]
    assert tabled(distinct, 20) == ["distinct_right@1", "distinct_right@20", "distinct_right@k"], "of 10 draws under @k"
    assert shown_in(DEFINITIONS, "panel") == [
        "quality", "step", "diversity/vendi", "alpha", "kl", "completions/mean_length"
    ]  # fmt: skip
    assert {place for found in DEFINITIONS.values() for place in found.shown_in} == {"report", "panel"}


def test_a_dozen_numbers_come_first_and_six_of_them_decide():
    every = [name for name, found in DEFINITIONS.items() if found.kind]
    assert len(headline(every)) == 12
    assert headline(every, primary=True) == ["quality", "max@k", "pass@k", "distinct_right@k", "vendi_1", "attractors"]
    assert {found.headline for found in DEFINITIONS.values()} == {"primary", "beside", ""}
    heldout = ["words", "heldout/good/vendi_1", "vendi_1", "heldout/vendi_1", "quality", "self_bleu"]
    assert headline(heldout) == ["quality", "heldout/vendi_1", "heldout/good/vendi_1", "words"]


@pytest.mark.parametrize("name", [n for n, d in DEFINITIONS.items() if d.kind.startswith("diversity")])
def test_better_means_more_diverse(words, same_words, name):
    """Four texts with no word in common against four copies; of attractors, which are across prompts, three times."""
    texts = [COLOURS, *[COLOURS[:1] * 4] * (3 if name == "attractors" else 1)]
    groups = [Group(str(i), "?", [], some, ["eos"] * 4, [1.0] * 4, {}) for i, some in enumerate(texts)]
    measures = PROTOCOLS["paper"].measures
    if name == "corpus/distinct_{n}":
        spread, copies = (metrics_document([g], {}, seed=0)["corpus"]["distinct_2"] for g in groups)
    else:
        values = prompt_values(groups, words, measures=measures, equivalence=same_words, **SAID)
        spread, copies, *_ = values[name.replace("{n}", "2").replace("{k}", "2")]
    assert spread > copies if DEFINITIONS[name].better == "higher" else spread < copies


def test_numbers_and_judges_are_in_the_label():
    assert definition_of("pass@10").label == "Pass at 10"
    assert "hold" in definition_of("pass@10").text
    assert "C(n-c, 10)" in definition_of("pass@10").text
    assert definition_of("rewards/mine/mean").label == "Reward mine"
    assert definition_of("heldout/vendi_1").label == "Vendi score, held-out encoder"
    assert definition_of("heldout/vendi_1").range == "0 to n responses"
    with pytest.raises(DQOError, match=r"expected the name of a metric, got 'vendi_7'; did you mean 'vendi_\w+'\?"):
        definition_of("vendi_7")
    with pytest.raises(DQOError, match="got 'heldout/quality'"):
        definition_of("heldout/quality")
    assert explain("vendi_7").kind == "other"


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
            r"Expected 2 rewards for prompt 'a', one number or None per response, got \[\]",
        ),
        ({"a": ["x", "y"]}, {"a": [1, "0"]}, r"one number or None per response, got \[1, '0'\]"),
        ({"a": ["x", None]}, None, r"a list of one response or more to prompt 'a', got \['x', None\]"),
    ):
        with pytest.raises(DQOError, match=message):
            measure(wrong, rewards, encoder="hashed")


DOCS = (ROOT / "docs" / "guides" / "evaluation.md").read_text()
METRICS = (ROOT / "docs" / "reference" / "metrics.md").read_text()


def docs_table(definitions, head, cells):
    """A table of docs/reference/metrics.md."""
    marks = {"primary": " P", "beside": " B", "": ""}
    rows = [head, ["---"] * len(head)]
    for name, found in definitions.items():
        marked = f"`{name}`" + " E" * found.by_encoder + marks[found.headline]
        rows.append([marked, found.better or "–", found.range, found.text, *cells(found)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        ("metrics", docs_table(
            OF_EVALUATION, ["name", "better", "range", "definition", "source", "null where"],
            lambda found: [found.source, found.undefined or "–"])),
        ("log", docs_table(
            OF_TRAINING, ["name", "better", "range", "definition", "logged by"],
            lambda found: [", ".join(found.logged_by)])),
    ],
)  # fmt: skip
def test_the_docs_tables_are_made_from_the_table(marker, expected):
    assert METRICS.split(f"<!-- {marker} -->\n")[1].split(f"\n<!-- /{marker} -->")[0] == expected


def test_what_can_be_null_has_a_reason(words):
    """Silence, one response, text that no measure of words can read, without rewards, classes or difference."""
    hard = [["", " "], ["red"], ["一只猫坐在红色的垫子上。"] * 2, ["red", "green"]]
    groups = [Group(str(i), "?", [], texts, ["unknown"] * len(texts), None, {}) for i, texts in enumerate(hard)]
    values = prompt_values(groups, words, words, measures=PROTOCOLS["paper"].measures, **SAID)
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
