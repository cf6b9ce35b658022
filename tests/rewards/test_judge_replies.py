"""Replies of judges as they come: what states a score, what leaves a doubt, and how a group is scored or sorted."""

import pytest

from dqo.rewards.judge_replies import read_classes, read_score, read_scores

SCORES = [
    ('{"score": 8}', 8),
    ('```json\n{"score": 8}\n```', 8),
    ("Rating: 8/10", 8),
    ("[[8]]", 8),
    ("8/10", 8),
    ("Final score is 8.", 8),
    ("**Score:** 8", 8),
    ("Score: 8,5", 8.5),
    ("8.5", 8.5),
    ("I'd give this a 7 out of 10", 7),
    ("Score: 8", 8),
    ("score: 8.", 8),
    ("Score = 9.5", 9.5),
    ("9", 9),
    ("8.", 8),
    ("**8**", 8),
    ("Rating: [[8]]", 8),
    ('{"rating": "8/10"}', 8),
    ('{"reason": "Score: 3 at first", "score": 8}', 8),
    ("{'score': 8}", 8),
    ("Score (1-10): 9", 9),
    ("Score (1 = worst, 10 = best): 9", 9),
    ("Score: 9 (highest possible score: 10)", 9),
    ("(Score: 9)", 9),
    ("Scores differ: 3 for style.\n\n**Score:** 9/10.", 9),
    ("The response is fine.\n\n8", 8),
    ("8\n\nThe response is fine.", 8),
    ("8 - a good answer", 8),
    ("<score>8</score>", 8),
    ("$\\boxed{8}$", 8),
    ("Score: 8 out of 10", 8),
    ("Score: 8 points", 8),
    ("I give it a score of 9.", 9),
    ("The rating is 7/10.", 7),
    ("Overall: 7/10", 7),
    ("Clarity score: 5\nStyle score: 6\nOverall score: 7", 7),
    ("**Final Score: 8/10**", 8),
    ("Grade: 8", 8),
    ("Score\uff1a8", 8),
    ("My rating: 8", 8),
    ("Score: <8>", 8),
    ("## Score\n8", 8),
    ("Score: 6. On reflection, Score: 7", 7),
    ("A score of 9", 9),
    ("10/10", 10),
    ("Score: **8**/10", 8),
    ('{"scores": {"clarity": 3}, "overall": 7}', 7),
    ("Rating: 8/10 because it is clear", 8),
    ('"8"', 8),
    ("Score: 8 - good", 8),
    ("The response is correct. 8/10", 8),
    ("Score - 8", 8),
    ("Score 8", 8),
    ("Score: 08", 8),
    ("8 out of 10.", 8),
    ('{"score": 8.0, "max_score": 10}', 8),
    ("I would rate it 8/10.", 8),
    ("I rate this response an 8 out of 10 for its clarity.", 8),
    ("**Rating**: 8", 8),
    ("Score: 8/10\n\nThe scale is from 1 to 10.", 8),
    ("Score:8", 8),
    ("Final answer: 8", 8),
    ("Score: 7\xbd", 7.5),
    ("\u2605 8/10 \u2605", 8),
    ("Total score: 8/10", 8),
    ("- Score: 8", 8),
    ("| Score | 8 |", 8),
]
UNREAD = [
    "eight",
    "On a scale of 1 to 10, I would rate this response 7.",
    "On a scale from 1 (worst) to 10 (best): 7",
    "On a scale of 1 to 10, where 1 is worst and 10 is best, I give it a 6.",
    "This deserves an 8.",
    "Score: ten",
    "seven and a half",
    "Out of 10, I'd say 7.",
    "Rate: 8",
    "The score I would give is 8.",
    "Eight out of ten.",
    "Score: 1 (worst) to 10 (best): 7",
    "Score: 1-10",
    "Score: \u22123",
    "Score: 11",
    "Score: 85/100",
    "4/5",
    "Score: 4/5",
    "80%",
    "Score: 7 or 8",
    "7-8",
    "between 7 and 8",
    "Score: N/A",
    "",
    "Hm.",
    "I cannot rate this on a scale of 1 to 10.",
    "Give one line: Score: <a number from 1 (worst) to 10 (best)>",
    "A score of 9 would need more detail.",
    "The score is not 8.",
    "I would give it a 9 if it had examples.",
    "Clarity score: 3\nStyle score: 8",
    '{"score": null}',
    '{"confidence": 9}',
    "Maximum score: 10",
    "1. The response is good. 2. It is short.",
    "The response lists 7 cities.",
    '{"score": 12}',
    "It got 2 of 10 facts wrong.",
    "The answer was written in 2024.",
    "Score: B+",
    '{"score": {"type": "number", "minimum": 1, "maximum": 10}}',
    "It deserves more than 5.",
    "Score: high",
    "10 is the highest score.",
    "Style 3/10, accuracy 8/10",
    "The highest score is 10.",
    "The response mentions 3 points.",
    "Score: 8%",
    "Not a 9.",
    "I'd say the response has 3 problems.",
]
CLASSES = [
    ('{"groups": [[1, 3], [2]]}', [0, 1, 0]),
    ('```json\n{"groups": [[2], [3, 1]]}\n```', [1, 0, 1]),
    ('First {"groups": [[1, 2, 3]]}, no: {"groups": [[1], [2], [3]]}', [0, 1, 2]),
    ('{"ranking": [3, [1, 2]]}', [1, 1, 0]),
    ('{"reason": "1 and 2 agree", "groups": [[1, 2], [3], []]}', [0, 0, 1]),
    ('{"groups": [["1", "2"], ["3"]]}', [0, 0, 1]),
    ('{"groups": [[1, 3]]}', None),
    ('{"groups": [[1, 3], [2, 3]]}', None),
    ('{"groups": [[0, 1], [2]]}', None),
    ('{"groups": [[1, 3], [2], [4]]}', None),
    ('{"groups": [[1, 3], [2]', None),
    ('{"groups": 3}', None),
    ('{"groups": [[1.5, 3], [2]]}', None),
    ("1 and 3 are the same, 2 is different.", None),
    ("", None),
]
GROUP_SCORES = [
    ('{"1": 7, "2": 4.5, "3": 10}', [7, 4.5, 10]),
    ('{"scores": {"3": 1, "2": 2, "1": 3}}', [3, 2, 1]),
    ('{"1": 7, "2": 4}', None),
    ('{"1": 7, "2": 4, "3": 11}', None),
    ('{"1": 7, "2": 4, "3": "high"}', None),
    ('{"1": 7, "2": 4, "3": true}', None),
    ('{"1": 7, "2": 4, "3": NaN}', None),
    ("[7, 4, 3]", None),
]


@pytest.mark.parametrize(("reply", "score"), SCORES)
def test_scores_that_are_read(reply, score):
    assert read_score(reply) == score


@pytest.mark.parametrize("reply", UNREAD)
def test_replies_that_hold_no_sure_score(reply):
    assert read_score(reply) is None


def test_the_tables_are_as_long_as_they_should_be():
    assert len(dict(SCORES)) >= 65
    assert len(set(UNREAD)) >= 50


@pytest.mark.parametrize(
    ("reply", "score"),
    [("Score: .5", None), ("0,75", None), ("7,5", 7.5), ("4/5", None), ("Score: 4/5", None), ("85/100", None), 
     ("Score: 85", None), ("0", None), ("Score: 4 (out of 5)", None), ("Score: 4 (out of 10)", 4),
     ("Score (out of 10): 8", 8)],
)  # fmt: skip
def test_other_scales_are_not_ours(reply, score):
    assert read_score(reply) == score


@pytest.mark.parametrize(("reply", "classes"), CLASSES)
def test_classes_name_every_response_exactly_once(reply, classes):
    assert read_classes(reply, 3) == classes


@pytest.mark.parametrize(("reply", "scores"), GROUP_SCORES)
def test_scores_of_a_group_are_all_there_and_on_the_scale(reply, scores):
    assert read_scores(reply, 3) == scores


def test_long_hostile_replies_are_read_in_time():
    for reply in (
        "a" * 50_000,
        "1" * 50_000,
        "(" * 50_000,
        "{" * 5_000,
        '{"groups": ' + "[" * 50_000,
        "score " * 10_000,
        "8/" * 20_000,
        " " * 50_000,
        "Is it not, " * 8_000 + "?",
    ):
        assert read_score(reply) is None
        assert read_classes(reply, 3) is None
        assert read_scores(reply, 3) is None
