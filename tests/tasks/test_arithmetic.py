from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqo.files.records import Prompt
from dqo.tasks import load_task
from dqo.tasks.countdown import NO_EXPRESSION, parse, solve


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("7", 7, (7,)),
        ("2 + 3 * 4", 14, (2, 3, 4)),
        ("(2+3)*4", 20, (2, 3, 4)),
        ("10 - 4 - 3", 3, (10, 4, 3)),
        ("12 / 4 / 2", Fraction(3, 2), (12, 4, 2)),
        ("8 / (3 - 8 / 3)", 24, (8, 3, 8, 3)),
        ("2 × 3 − 1 ÷ 2", Fraction(11, 2), (2, 3, 1, 2)),
        ("(" * 90 + "5" + ")" * 90, 5, (5,)),
        ("007 + 00", 7, (7, 0)),
        ("1" * 99 + "-" + "1" * 99, 0, (int("1" * 99), int("1" * 99))),
    ],
)
def test_values(text, value, numbers):
    expression = parse(text)
    assert expression.value == value
    assert expression.numbers == numbers


@pytest.mark.parametrize(
    "text",
    ["9**9**9", "2^3", "2 // 1", "1+" * 100 + "1", "٣ + 4", "²", "1.5 + 2", "1e3", "0x10", "1_0", "-3 + 5",
     "3 +", "3 4", "3 (4)", "(3, 4)", "()", "(3 + 4", "3 + 4)", "4 / (2 - 2)", "__import__('os')", "3 +\n4", "# 3", ""],
)  # fmt: skip
def test_refused(text):
    with pytest.raises(NO_EXPRESSION):
        parse(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3 + 4", "4 + 3"),
        ("2 * (3 + 4)", "(4 + 3) * 2"),
        ("9 - (4 - 2)", "2 + 9 - 4"),
        ("8 / (4 / 2)", "2 * 8 / 4"),
        ("(1 + 2) + 3", "1 + (3 + 2)"),
    ],
)
def test_normal_form_forgets_order_and_grouping(one, other):
    assert parse(one).text == parse(other).text


@pytest.mark.parametrize(
    ("one", "other"), [("3 - 4", "4 - 3"), ("2 * 3 + 4", "2 * (3 + 4)"), ("12", "3 * 4"), ("8 / 4", "4 / 8")]
)
def test_normal_form_keeps_what_differs(one, other):
    assert parse(one).text != parse(other).text


@given(st.text(max_size=60) | st.text(alphabet="0123456789+-*/() ×÷.²٣", max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        expression = parse(text)
    except NO_EXPRESSION:
        return
    again = parse(expression.text) if len(expression.text) <= 200 else expression
    assert (again.value, again.text) == (expression.value, expression.text)
    assert sorted(again.numbers) == sorted(expression.numbers)


_OPERATIONS = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}


@given(
    st.recursive(
        st.integers(1, 99).map(lambda n: (str(n), Fraction(n))),
        lambda inner: (
            st.tuples(inner, st.sampled_from("+-*/"), inner)
            .filter(lambda node: node[1] != "/" or node[2][1] != 0)
            .map(lambda node: (f"({node[0][0]}{node[1]}{node[2][0]})", _OPERATIONS[node[1]](node[0][1], node[2][1])))
        ),
        max_leaves=8,
    )
)
def test_value_agrees_with_the_tree_it_was_written_from(written):
    text, value = written
    assert parse(text).value == value
    assert parse(parse(text).text).value == value, "the normal form keeps the value"


def written(numbers: tuple[int, ...]) -> Iterator[str]:
    """Every binary tree over numbers in this order, with every operator, in full parentheses."""
    if len(numbers) == 1:
        yield str(numbers[0])
    for middle in range(1, len(numbers)):
        for left in written(numbers[:middle]):
            for right in written(numbers[middle:]):
                yield from (f"({left} {operator} {right})" for operator in "+-*/")


@pytest.mark.parametrize(
    ("numbers", "target", "count"),
    [((2, 5, 8), 24, 1), ((2, 3, 5, 8), 24, 5), ((2, 2, 6), 0, 3), ((4, 4, 7, 7), 0, None), ((2, 4, 6, 8), 24, None),
     ((3, 3, 8, 8), 24, None)],
)  # fmt: skip
def test_solutions_are_those_of_every_written_tree(numbers, target, count):
    expected = set()
    for size in range(2, len(numbers) + 1):
        for text in (text for order in set(permutations(numbers, size)) for text in written(order)):
            try:
                found = parse(text)
            except ZeroDivisionError:
                continue
            expected |= {found.text} if found.value == target else set()
    solved = solve(numbers, target)
    assert set(solved) == expected
    for text, solution in solved.items():
        assert (parse(text).value, sorted(parse(text).numbers)) == (solution.value, sorted(solution.numbers))
    assert count in (None, len(expected))


def test_solutions_of_five_numbers_hold_a_sample_of_trees():
    numbers, target = (2, 3, 5, 7, 11), 40
    solved = solve(numbers, target)
    hits = 0
    for order in list(permutations(numbers))[::7]:
        for text in list(written(order))[::11]:
            try:
                found = parse(text)
            except ZeroDivisionError:
                continue
            if found.value == target:
                hits += 1
                assert found.text in solved
    assert hits > 2, "the sample must reach the target"
    assert all(parse(text).value == target for text in solved)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("(5 - 2) * 8", ["5 - 2", "8 * (5 - 2)"]),
        ("8 - 2 + 5", ["5 + 8", "5 + 8 - 2"]),
        ("3 + 8 * 5", ["5 * 8", "3 + 5 * 8"]),
        ("12 / (4 - 2) * 3", ["3 * 12", "4 - 2", "3 * 12 / (4 - 2)"]),
        ("7", []),
    ],
)
def test_steps_are_those_of_the_normal_form(text, steps):
    assert parse(text).steps == steps


def cosine(one: str, other: str) -> float:
    rows = load_task("countdown").features([one, other])
    assert rows.dtype == torch.float32
    assert rows.shape == (2, 512)
    return float(rows[0] @ rows[1])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("(5 - 2) * 8", "8*(5-2) = 24.", 1.0),
        ("3 + 4 + 5", "5 + (4 + 3)", 1.0),
        ("8 * (5 - 2)", "4 * (5 - 2)", (1 / 2 + 1 + 1) / 3),  # of two steps one, both operators, the first step
        ("8 * (5 - 2)", "8 * (9 - 6)", (0 + 1 + 0) / 3),
        ("3 + 4 * 5", "3 - 4 * 5", (1 / 2 + 1 / 2 + 1) / 3),
        ("3 + 4", "8 * 5", 0.0),
        ("6 / 2", "9 - 4 + 1", 0.0),
    ],
)
def test_features_by_hand(one, other, expected):
    assert cosine(one, other) == pytest.approx(expected, abs=1e-5 if expected == 1 else 0.08)


def test_what_is_no_expression_has_no_features():
    rows = load_task("countdown").features(["I cannot", "", "7", "3 = 4", "3 + 4"])
    assert rows.norm(dim=1).tolist() == pytest.approx([0, 0, 0, 0, 1])


_TREES = st.recursive(
    st.integers(1, 30).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map("({0[0]} {0[1]} {0[2]})".format),
    max_leaves=6,
)


@given(st.lists(_TREES, min_size=1, max_size=4))
def test_features_depend_on_the_normal_form_of_their_own_text_alone(texts):
    task = load_task("countdown")
    together = task.features(texts)
    assert torch.equal(together, torch.cat([task.features([text]) for text in texts]))
    assert torch.equal(together, task.features([task.answer_span(text) for text in texts]))


def test_the_answers_there_are_by_their_first_step():
    task = load_task("countdown")
    puzzle = Prompt("p", "?", [], {"numbers": [8, 2, 5, 3], "target": 24})
    assert task.right_answers(puzzle) == {
        "3 + 5 + 2 * 8": "3 + 5", "8 + 2 * (3 + 5)": "3 + 5", "8 / (2 - 5 / 3)": "5 / 3", "8 * (5 - 2)": "5 - 2",
        "3 * 8": "3 * 8",
    }  # fmt: skip
    assert task.right_answers(Prompt("p", "?", [], {"numbers": [2] * 7, "target": 14})) == {}
