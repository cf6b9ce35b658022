"""Set functions: worked values, brute force over all draws, and the gradient of the metric itself."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dqo.core import cosine_kernel, leave_one_out, log_volume
from dqo.diversity.set_functions import best_of, best_of_2, distinct, majority, set_credit
from dqo.errors import RewardError

REWARDS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=6)


def credit_of(function, answers, rewards, takes_part=None):
    rewards = torch.tensor([rewards], dtype=torch.float64)
    part = torch.ones_like(rewards, dtype=torch.bool) if takes_part is None else torch.tensor([takes_part])
    return set_credit(function, "f", ["Where to?"], [answers], rewards, part)[0].tolist()


def test_only_an_answer_that_nobody_else_gives_is_distinct():
    assert distinct("", ["Rome", " rome ", "Oslo", ""], [1, 1, 1, 1]) == 3
    assert credit_of(distinct, ["Rome", "rome", "Oslo"], [1, 1, 1]) == [0, 0, 1]
    assert credit_of(distinct, ["Rome", "Oslo", "Oslo"], [1, 0, 0], [True, True, False]) == [1, 1, 0]


def test_a_vote_pays_who_turns_it_and_charges_who_turns_it_wrong():
    assert majority("", ["4", "4", "5"], [1, 1, 0]) == 1
    assert majority("", ["4", "5"], [1, 0]) == 0.5, "a tie is broken by a fair coin"
    assert majority("", [], []) == 0
    # Without one of the two right ones the vote is a tie; without the wrong one it is won all the same.
    assert credit_of(majority, ["4", "4", "5"], [1, 1, 0]) == [0.5, 0.5, 0]
    assert credit_of(majority, ["4", "5"], [1, 0]) == [0.5, -0.5]


@given(rewards=REWARDS, k=st.integers(1, 4))
def test_the_best_of_k_is_the_mean_over_all_draws_of_k(rewards, k):
    draws = list(itertools.combinations(rewards, min(k, len(rewards))))
    expected = sum(max(draw, default=0.0) for draw in draws) / len(draws)
    assert best_of("", ["x"] * len(rewards), rewards, k=k) == pytest.approx(expected)


def test_the_best_of_two_pays_only_what_raises_a_pair():
    # Pairs of 1, .5, 0: 1, 1, .5, in the mean 5/6. Without the 1 .5 is left, without the .5 it is 1, without the 0 too.
    assert credit_of(best_of_2, ["a", "b", "c"], [1.0, 0.5, 0.0]) == pytest.approx([1 / 3, -1 / 6, -1 / 6])


def test_log_volume_as_a_set_function_is_the_credit_of_dqo():
    torch.manual_seed(0)
    E = torch.randn(5, 3, dtype=torch.float64)

    def volume(prompt, answers, rewards):
        return log_volume(cosine_kernel(E[[int(answer) for answer in answers]])).item() if answers else 0.0

    expected = leave_one_out(cosine_kernel(E))
    assert credit_of(volume, list("01234"), [1.0] * 5) == pytest.approx(expected.tolist(), abs=1e-10)


@pytest.mark.parametrize("function", [distinct, majority, best_of_2])
def test_nothing_taken_off_climbs_the_metric_of_the_group_and_the_mean_that_of_one_less(function):
    """Brute force over every group of three draws from a policy of three answers; equations 5.1 and 5.2."""
    answers, rewards = ["a", "b", "c"], torch.tensor([1.0, 1.0, 0.25], dtype=torch.float64)
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)

    def expected(G):
        value = 0.0
        for group in itertools.product(range(3), repeat=G):
            worth = function("", [answers[i] for i in group], [rewards[i].item() for i in group])
            value = value + logits.log_softmax(0)[list(group)].sum().exp() * worth
        return value

    raw = centred = 0.0
    for group in map(list, itertools.product(range(3), repeat=3)):
        logp = logits.log_softmax(0)[group]
        paid = set_credit(
            function, "f", [""], [[answers[i] for i in group]], rewards[group][None], torch.ones(1, 3, dtype=torch.bool)
        )[0]
        weight = logp.detach().sum().exp()
        raw = raw + weight * (paid * logp).sum()
        centred = centred + weight * ((paid - paid.mean()) * logp).sum()
    gradient = partial(torch.autograd.grad, inputs=logits, retain_graph=True)
    assert_close(gradient(raw)[0], gradient(expected(3))[0])
    assert_close(gradient(centred)[0], gradient(expected(2))[0])


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda prompt, answers, rewards: None, "expected a finite number for 2 answers .* got None"),
        (lambda prompt, answers, rewards: 1.0 / len(answers) if len(answers) > 1 else float("nan"), "for 1 answers"),
        (lambda prompt, answers, rewards: float(answers[:1] == ["a"]), "the same number in any order, got 1.0"),
    ],
)
def test_what_is_no_set_function_is_refused(function, said):
    with pytest.raises(RewardError, match=said):
        credit_of(function, ["a", "b"], [1.0, 1.0])
