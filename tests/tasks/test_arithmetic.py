from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqo.tasks.countdown import ExpressionError, parse


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
    ],
)
def test_values(text, value, numbers):
    expression = parse(text)
    assert expression.value == value
    assert expression.numbers == numbers


@pytest.mark.parametrize(
    "text",
    ["9**9**9", "2^3", "2 // 1", "1" * 7, "1+" * 100 + "1", "٣ + 4", "²", "1.5 + 2", "1e3", "0x10", "1_0", "-3 + 5",
     "3 +", "3 4", "3 (4)", "(3, 4)", "()", "(3 + 4", "3 + 4)", "4 / (2 - 2)", "__import__('os')", "3 +\n4", "# 3", ""],
)  # fmt: skip
def test_refused(text):
    with pytest.raises(ExpressionError):
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
    except ExpressionError:
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
