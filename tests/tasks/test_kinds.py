"""Kinds: hand-checked answers, one key for one answer, and splits that share neither wording nor kind."""

import json
from itertools import combinations
from pathlib import Path

import pytest

import dqo.tasks.kinds
from dqo.errors import DataError
from dqo.files.records import Conversation, Prompt
from dqo.tasks import load_task


@pytest.fixture(scope="module")
def kinds():
    return load_task("kinds")


def asked(kind):
    return Prompt("p", "?", [], {"kind": kind})


@pytest.mark.parametrize(
    ("kind", "response", "quality"),
    [
        ("bird", "robin", 1.0), ("bird", " Owl.", 1.0), ("bird", "the owls", 1.0), ("bird", "blue jay", 1.0),
        ("bird", "I like the owl", 0.5), ("bird", "an owl or a robin or a duck", 0.0), ("bird", "dog", 0.1),
        ("bird", "happy dog", 0.1), ("bird", "a big happy dog", 0.0), ("bird", "", 0.0), ("bird", "...", 0.0),
        ("mammal", "dog", 1.0), ("drink", "water", 1.0), ("drink", "green tea", 1.0), ("fruit", "cherries", 1.0),
        ("river", "the Nile", 1.0), ("country", "The United States of America", 1.0), ("science", "chemistry", 1.0),
        ("metal", "water", 0.1), ("crime", "murder", 1.0),
    ],
)  # fmt: skip
def test_quality(kinds, kind, response, quality):
    assert kinds.quality([asked(kind)], [response], [True]) == [quality]
    assert kinds.quality([asked(kind)], [response], [False]) == [0.0], "what did not end is no answer"
    assert (kinds.answer_key(asked(kind), response) is not None) == (quality == 1.0)


def test_one_answer_has_one_key_in_all_its_forms(kinds):
    def key(kind, response):
        return kinds.answer_key(asked(kind), response)

    assert key("country", "USA") == key("country", "the United States")
    assert key("crime", "graft") == key("crime", "Bribery.")
    assert key("bird", "a barn owl") != key("bird", "an eagle owl"), "members of their own"
    assert key("bird", "my owl") == key("bird", "owls") == key("bird", "owl")


def test_splits_share_no_wording_and_unseen_kinds_are_never_trained_on(kinds):
    unseen = load_task("kinds", unseen=True)
    trained = {prompt.meta["kind"] for prompt in kinds.prompts("train")}
    assert unseen.prompts("train") == kinds.prompts("train")
    for split in ("dev", "test"):
        assert {prompt.meta["kind"] for prompt in kinds.prompts(split)} == trained
        assert not {prompt.meta["kind"] for prompt in unseen.prompts(split)} & trained
    texts = [{p.prompt for p in kinds.prompts(split)} for split in ("train", "dev", "test")]
    assert not any(one & other for one, other in combinations(texts, 2))
    prompt = kinds.prompts("train")[0].prompt
    assert isinstance(prompt, Conversation)
    assert [message["content"] for message in prompt.messages[:2]] == ["Name a common planet.", "Mars"]
    assert len(prompt.messages) == 13


def test_kinds_share_at_most_a_tenth_of_their_members():
    members = json.loads(Path(dqo.tasks.kinds.__file__).with_suffix(".json").read_text())
    assert "Princeton University" in members["license"]
    forms = {kind: {form for one in all_of for form in one} for kind, all_of in members["kinds"].items()}
    for (_, one), (_, other) in combinations(forms.items(), 2):
        assert len(one & other) <= 0.1 * min(len(one), len(other))


def test_a_prompt_of_another_kind_is_refused(kinds):
    with pytest.raises(DataError, match=r"expected meta\.kind to be one of bird, fish, .* got 'dinosaur'"):
        kinds.quality([asked("dinosaur")], ["T. rex"], [True])
