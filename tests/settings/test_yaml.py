"""YAML both ways: whatever is written is read back, of the same value and kind, here and by other readers."""

import math

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dqo.errors import RecipeError
from dqo.files.records import write_text
from dqo.settings.yaml import parse_yaml, read_yaml_file, to_yaml

# Texts that some version of YAML reads as something else, and texts that writers lose parts of.
ODD = [
    "1e-5", "1e5", "-1E+05", "1.", ".5", "1_000", "0o7", "010", "0x1F", "0b11", "12:30", "1:20:30", "on", "off",
    "yes", "No", "y", "true", "TRUE", "null", "Null", "~", "", " ", "2026-01-31", "2026-01-31 12:00:00", ".inf",
    "-.inf", ".nan", ".NaN", "nan", "inf", "+1", "-0", "<<", "=", "-", "?", ":", "- a", "a: b", "a #b", "#",
    "&a", "*a", "!a", "!!int 3", "|", ">", "%", "@", "`", "{", "[a]", "'", '"', "\\", "---", "...", "a\nb",
    "a\n\n b\n", "\n", " lead", "trail ", "a\tb", "\t", "a\rb", "a\r\nb", "\x85", "a\u2028b", "\u2029",
    "\ufeff", "\x07", "\x1b[0m", "\x7f", "ü", "日本語", "🙂", "e\u0301", "\ue000", "\uffff", "x" * 300,
    "word " * 60, "a" * 200 + " b", "1\n", "~\n", "true\n",
]  # fmt: skip
texts = st.one_of(
    st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
)
numbers = st.one_of(st.integers(), st.floats())
values = st.recursive(
    st.one_of(texts, numbers, st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


def same(one, other):
    """Equal, and of the same kind: 1 is not True, 1 is not 1.0, -0.0 is not 0.0; NaN is NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return (math.copysign(1, one) == math.copysign(1, other) and one == other) or (
            math.isnan(one) and math.isnan(other)
        )
    return one == other


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(texts, values, max_size=5))
@example({"run_name": "1e-5"})
@example({text: text for text in ODD})
@example({"floats": [1e-5, 1e16, 1e300, -0.0, math.inf, -math.inf, math.nan, 5e-324], "ints": [0, -7, 10**30]})
def test_what_is_written_is_read_back(tmp_path_factory, document):
    path = tmp_path_factory.mktemp("yaml") / "recipe.yaml"
    write_text(path, to_yaml(document))
    assert same(read_yaml_file(path), document)


@pytest.mark.parametrize("text", ODD)
def test_other_readers_find_the_same_text(text):
    """PyYAML's own, by YAML 1.1."""
    assert yaml.safe_load(to_yaml({text: [text]})) == {text: [text]}


@pytest.mark.parametrize(
    ("written", "read"),
    [("1e-5", 1e-5), ("on", "on"), ("0o7", "0o7"), ("1_000", "1_000"), ("2026-01-31", "2026-01-31"), ("~", None),
     (".inf", math.inf), ("-.INF", -math.inf), ("12:30", "12:30"), ("010", "010"), ("'1'", "1"),
     ("1.0", 1.0), ("1", 1)],
)  # fmt: skip
def test_bare_words_as_people_mean_them(written, read):
    assert same(parse_yaml(written, "here"), read)


def test_not_a_number_is_one():
    assert math.isnan(parse_yaml(".nan", "here"))


def test_only_plain_data_is_written():
    with pytest.raises(yaml.YAMLError):
        to_yaml({"a": object()})


def test_lists_that_are_shared_are_written_out():
    shared = [1]
    assert "&" not in to_yaml({"a": shared, "b": shared})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1: 2", "line 1: expected valid YAML, but a key must be text, got '1'"),
        ("null: 2", "a key must be text, got 'null'"),
        ("[a]: 2", "a key must be text, got 'a sequence'"),
        ("a: 1\na: 2", "line 2: .* the key 'a' comes twice"),
        ("a: !!int x", "it has the tag 'tag:yaml.org,2002:int'; fix the line"),
        ("a: !!python/object/apply:os.getcwd []", "it has the tag 'tag:yaml.org,2002:python/object/apply"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
        ("[" * 5000, "maximum recursion depth exceeded"),
        ("a: &a [*a]", "recursive"),
    ],
)
def test_what_is_no_plain_data_is_refused_with_its_line(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_yaml(text, "recipe.yaml")


def test_aliases_are_refused_in_a_file_that_somebody_sent():
    bomb = "\n".join(["a0: &a0 x"] + [f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]" for i in range(1, 12)])
    with pytest.raises(RecipeError, match="line 2: expected valid YAML, but it has an alias"):
        parse_yaml(bomb, "config.yaml", sent=True)
    assert parse_yaml("a: &a [1, x]\nb: *a", "here") == {"a": [1, "x"], "b": [1, "x"]}
