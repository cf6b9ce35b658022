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
        ("((((5))))", 5, (5,)),
    ],
)
def test_values(text, value, numbers):
    expression = parse(text)
    assert expression.value == value
    assert expression.numbers == numbers


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("9**9**9", "expected a number, got '*'"),
        ("2^3", "unexpected character"),
        ("1" * 7, "more than 6 digits"),
        ("1+" * 100 + "1", "longer than 200"),
        ("(" * 25 + "1" + ")" * 25, "nested"),
        ("٣ + 4", "unexpected character"),  # Arabic-Indic three: str.isdigit says yes
        ("²", "unexpected character"),
        ("1.5 + 2", "unexpected character"),
        ("-3 + 5", "expected a number"),
        ("3 +", "got 'the end'"),
        ("3 4", "unexpected '4'"),
        ("(3 + 4", "not closed"),
        ("3 + 4)", "unexpected"),
        ("4 / (2 - 2)", "division by zero"),
        ("__import__('os')", "unexpected character"),
        ("3 +\n4", "unexpected character"),
        ("", "expected a number"),
    ],
)
def test_refused(text, reason):
    with pytest.raises(ExpressionError, match=reason.replace("*", r"\*")):
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
