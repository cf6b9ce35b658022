"""Attractors: openings, phrases and names across prompts, counted by hand."""

import json

import pytest

from dqo.evaluation.attractors import Attractor, attractor_shares, find_attractors
from dqo.evaluation.run import evaluate
from dqo.files.records import Group


def found(prompts, responses):
    return {
        (one.kind, one.text): (pytest.approx(one.share), one.prompts) for one in find_attractors(prompts, responses)
    }


STORIES = [
    ["Once upon a time, Elara sang.", "The sea was calm."],
    ["Once upon a time there was Elara.", "ONCE upon a hill: nothing."],
    ["“Once upon a time”, said Elara", "A dog barked at the moon all night."],
    ["Nobody came.", "A king, a queen."],
]
ASKED = ["Tell a story.", "Write a tale.", "A fable, please.", "Begin."]


def test_openings_phrases_and_names_by_hand():
    """Four prompts with two responses each; a hill opens like the others and is no part of the phrase."""
    assert found(ASKED, STORIES) == {
        ("opening", "once upon a"): ((1 / 2 + 1 + 1 / 2) / 4, 3),
        ("phrase", "once upon a time"): ((1 / 2 + 1 / 2 + 1 / 2) / 4, 3),
        ("name", "Elara"): ((1 / 2 + 1 / 2 + 1 / 2) / 4, 3),
    }
    assert attractor_shares(ASKED, STORIES, find_attractors(ASKED, STORIES)) == [0.5, 1.0, 0.5, 0.0]


def test_what_a_prompt_holds_does_not_count_for_it():
    """With the words in one of the prompts two are left, and two are not enough; of four, three are."""
    asked = [*ASKED[:2], "Continue: once upon a time, ELARA…", ASKED[3]]
    assert found(asked, STORIES) == {}
    asked, told = [*asked, "More?"], [*STORIES, ["Once upon a time Elara slept."]]
    assert found(asked, told)["phrase", "once upon a time"] == ((1 / 2 + 1 / 2 + 1) / 5, 3)
    assert found(asked, told)["name", "Elara"] == ((1 / 2 + 1 / 2 + 1) / 5, 3)
    assert attractor_shares(asked, told, find_attractors(asked, told)) == [0.5, 1.0, 0.0, 0.0, 1.0]


def test_one_talkative_prompt_counts_as_one():
    """A phrase in all of 8 responses to one prompt and in one of 8 to two others: (1 + 1/8 + 1/8) / 3 of a response."""
    often, rare = ["see you soon my friend"] * 8, ["see you soon my friend", *(f"{i} is odd" for i in range(7))]
    (opening, *phrases) = find_attractors(["a", "b", "c"], [often, rare, rare])
    assert opening == Attractor("opening", "see you soon", pytest.approx(1.25 / 3), 3)
    assert [one.text for one in phrases] == ["see you soon my", "you soon my friend"]


def test_ten_responses_are_looked_at():
    """However many more there are, so that the number compares across n."""
    told = [["well then you see"] + [f"{i} {j}" for j in range(9)] + ["much later on"] * 10 for i in range(3)]
    assert {one.kind: one.share for one in find_attractors(ASKED[:3], told)} == pytest.approx(
        {"opening": 0.1, "phrase": 0.1}
    )
    assert attractor_shares(ASKED[:3], told, find_attractors(ASKED[:3], told)) == [0.1] * 3


def test_below_a_tenth_or_three_prompts_nothing_is_an_attractor():
    asked = [f"prompt {i}" for i in range(40)]
    told = [[f"{i} a b c", f"{i} d e f"] for i in range(40)]
    said = lambda prompts: [["hello there you", *one[1:]] if i < prompts else one for i, one in enumerate(told)]  # noqa: E731
    assert found(asked, said(7)) == {}, "in 7 of 80"
    assert found(asked, said(8)) == {("opening", "hello there you"): (0.1, 8)}
    assert found(asked[:2], said(2)[:2]) == {}
    assert attractor_shares(asked[:2], said(2)[:2], []) == [None, None]
    assert attractor_shares(asked[:3], said(3)[:3], [Attractor("opening", "hello there you", 0.5, 3)]) == [0.5] * 3


def test_a_name_is_capitalised_within_a_sentence_and_never_small():
    told = [["Sure. We saw Rose and NATO, said I.", "Sure. I'm here, Ann."], ["A rose for NATO", "Sure, I'm Ann"]] * 2
    names = {text for kind, text in found(ASKED, told) if kind == "name"}
    assert names == {"NATO", "Ann"}, "Sure only begins sentences, a rose is a flower, and I am nobody"


def test_short_blank_and_unreadable_responses():
    assert found(ASKED, [["Paris"], ["paris!"], ["Paris."], [" ", ""]]) == {("opening", "paris"): (3 / 4, 3)}
    chinese = [*STORIES[:3], ["一只猫坐在红色的垫子上。"]]
    assert found(ASKED, chinese) == found(ASKED[:3], STORIES[:3])
    assert attractor_shares(ASKED, chinese, [])[3] is None
    assert found(ASKED, [["नमस्ते दुनिया कैसी है"]] * 4)["opening", "नमस्ते दुनिया कैसी"] == (1.0, 4)
    hidden = [["\u202eabc\u200b def ghi"], ["abc def ghi"], ["*abc* (def) -- ghi"]]
    assert found(ASKED[:3], hidden) == {("opening", "abc def ghi"): (1.0, 3)}


def test_an_evaluation_lists_them_and_counts_the_text_that_is_judged(words, tmp_path):
    """What stands in a reasoning trace is no part of the response."""
    groups = [
        Group(f"q{i}", asked, [], [f"<think>as always {i}</think>{text}" for text in told], ["eos"] * 2, None, {})
        for i, (asked, told) in enumerate(zip(ASKED, STORIES, strict=True))
    ]
    document = evaluate(groups, encoder=words, out=tmp_path)
    assert document["metrics"]["attractors"]["mean"] == 0.5
    assert [(one["kind"], one["text"]) for one in document["attractors"]] == [
        ("opening", "once upon a"), ("name", "Elara"), ("phrase", "once upon a time"),
    ]  # fmt: skip
    assert document["attractors"][0] == {"kind": "opening", "text": "once upon a", "share": 0.5, "prompts": 3}
    assert json.loads((tmp_path / "metrics.json").read_text())["attractors"] == document["attractors"]
