import asyncio
import inspect
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from dqo.errors import GroupError, RewardError
from dqo.files.records import Prompt
from dqo.rewards import CheckedReward
from dqo.rewards.calling import try_reward


def lengths(prompts, completions, **columns):
    return [len(completion) for completion in completions]


async def later(prompts, completions, **columns):
    return [0.5] * (len(completions) - columns["missing"])


class Scorer:
    """A callable object without __name__."""

    def __init__(self, result):
        self.result = result

    def __call__(self, prompts, completions, **columns):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class LaterScorer(Scorer):
    async def __call__(self, prompts, completions, **columns):
        return self.result


def call(result, completions=("first", "second")):
    return CheckedReward(Scorer(result))(prompts=["p"] * len(completions), completions=list(completions))


def test_values_pass_as_floats_and_none_stays():
    assert call([1, None]) == [1.0, None]
    assert call(torch.tensor([0.25, 2.0])) == [0.25, 2.0]
    assert call(np.array([0.25, 2.0], dtype=np.float16)) == [0.25, 2.0]


@pytest.mark.parametrize(
    "half",
    [
        Decimal("0.5"), Fraction(1, 2), 0.5, torch.tensor(0.5), torch.tensor(0.5, dtype=torch.bfloat16),
        np.float32(0.5), np.float64(0.5), np.float16(0.5), np.array(0.5), np.longdouble(0.5),
    ],
    ids=lambda half: f"{type(half).__module__}.{type(half).__name__}",
)  # fmt: skip
def test_every_kind_of_number_is_a_reward(half):
    assert call([half, None]) == [0.5, None]
    assert {type(value) for value in call([half, half])} == {float}


@pytest.mark.parametrize("one", [True, 1, np.bool_(True), np.int8(1), torch.tensor(True), torch.tensor(1), Decimal(1)])
def test_truth_and_whole_numbers_are_rewards(one):
    assert call([one, 0]) == [1.0, 0.0]
    assert {type(value) for value in call([one, 0])} == {float}


def test_name_and_pickle():
    checked = CheckedReward(lengths)
    assert checked.__name__ == "lengths"
    assert CheckedReward(Scorer([])).__name__ == "Scorer"
    assert pickle.loads(pickle.dumps(checked))(prompts=["p"], completions=["four"]) == [4.0]
    assert CheckedReward(checked).__name__ == "lengths"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            [0.5],
            r"'Scorer': expected a list of 2 rewards, one number for each completion, got 1; return None",
        ),
        ([0.5, float("nan")], r"finite number for row 1, got nan for the completion 'second'; return None"),
        ([float("-inf"), 1], r"for row 0, got -inf"),
        ([1, "good"], r"for row 1, got 'good'"),
        ([[1.0], 2.0], r"for row 0, got \[1.0\]"),
        (None, r"expected a list of 2 rewards, one number for each completion, got NoneType; return None"),
        (0.7, r"expected a list of 2 rewards, .*, got float"),
        ({0: 0.5, 1: 0.5}, r"expected a list of 2 rewards, .*, got dict"),
        ({0.1, 0.2}, r"expected a list of 2 rewards, .*, got set"),
        ("ab", r"expected a list of 2 rewards, .*, got str"),
        (torch.tensor([1.0, float("nan")]), r"for row 1, got tensor\(nan\)"),
        (torch.ones(2, 1), r"got Tensor of shape \(2, 1\); return None"),
        (np.ones((2, 1)), r"got ndarray of shape \(2, 1\)"),
        (torch.tensor(1.0), r"got Tensor;"),
        ([torch.ones(1), 1.0], r"for row 0, got tensor\(\[1.\]\)"),
        ([Decimal("NaN"), 1], r"for row 0, got Decimal\('NaN'\)"),
        ([1, Decimal("sNaN")], r"for row 1, got Decimal\('sNaN'\)"),
        ([1, Decimal("1e400")], r"for row 1, got Decimal"),
        ([Fraction(10**400), 1], r"for row 0, got Fraction"),
        ([1j, 1], r"for row 0, got 1j"),
        (np.ma.array([1.0, 0.5], mask=[False, True]), r"for row 1, got masked"),
        (
            KeyError("gold"),
            r"raised KeyError \('gold'\) in \S+test_calling.py, line \d+, on a batch of 2; its first completion",
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(result, message):
    with pytest.raises(RewardError, match=message) as caught:
        call(result)
    assert "\n" not in str(caught.value)


def test_a_long_completion_is_cut_and_chat_completions_are_read():
    with pytest.raises(RewardError) as caught:
        call(ZeroDivisionError("x"), [[{"role": "assistant", "content": "y" * 500}]])
    assert "'" + "y" * 79 + "…" in str(caught.value)


def test_errors_of_dqo_pass_unchanged():
    error = GroupError("half a group")
    with pytest.raises(GroupError, match="half a group") as caught:
        call(error)
    assert caught.value is error


@pytest.mark.parametrize("reward", [later, LaterScorer([0.5, 0.5])])
def test_asynchronous_functions_stay_asynchronous(reward):
    checked = CheckedReward(reward)
    assert inspect.iscoroutinefunction(checked.__call__)
    assert not inspect.iscoroutinefunction(CheckedReward(lengths).__call__)
    assert asyncio.run(checked(prompts=["p", "q"], completions=["a", "b"], missing=0)) == [0.5, 0.5]


def test_asynchronous_mistakes_are_told_too():
    with pytest.raises(
        RewardError, match="'later': expected a list of 2 rewards, one number for each completion, got 1"
    ):
        asyncio.run(CheckedReward(later)(prompts=["p", "q"], completions=["a", "b"], missing=1))
    with pytest.raises(RewardError, match=r"'later': raised KeyError \('missing'\)"):
        asyncio.run(CheckedReward(later)(prompts=["p", "q"], completions=["a", "b"]))


def needs_more(prompts, completions, gold):
    return [0.0] * len(prompts)


def bare(prompts, completions):
    return [0.0] * len(prompts)


def test_columns_that_a_function_does_not_take_are_named():
    CheckedReward(needs_more)
    with pytest.raises(
        RewardError, match=r"unexpected keyword argument 'record'.*; end its arguments with \*\*columns"
    ):
        CheckedReward(bare)(prompts=["p"], completions=["c"], record=["r"])


KNOWN = [(Prompt(f"p{i}", f"Say {word}.", word, {}), said, True)
         for i, (word, said) in enumerate([("one", "1"), ("two", "two"), ("three", "2")])]  # fmt: skip
OPEN = [(Prompt(prompt.id, prompt.prompt, [], {}), said, ended) for prompt, said, ended in KNOWN]
EVERYTHING = "the responses to other prompts and an empty response"


@pytest.mark.parametrize(
    ("rows", "reward", "alike", "certain"),
    [
        (KNOWN, lambda prompt, text: float(text == prompt.reference), "", True),
        (KNOWN, lambda prompt, text: 0.5, EVERYTHING.replace(" and", ",") + " and the references", True),
        (OPEN, lambda prompt, text: 0.0, EVERYTHING, False),
        (OPEN, lambda prompt, text: float(len(prompt.prompt)), EVERYTHING, True),
        (OPEN, lambda prompt, text: float(bool(text)), "", False),
        (OPEN, lambda prompt, text: 0.0 if text else float("nan"), "", False),
        (OPEN[:1], lambda prompt, text: 0.0, "an empty response", False),
    ],
    ids=["right", "constant", "nothing right", "the prompt", "any text", "None for an empty one", "one prompt"],
)
def test_a_reward_that_does_not_read_is_found_out(rows, reward, alike, certain):
    def score(rows):
        return torch.tensor([reward(prompt, text) for prompt, text, _ in rows])

    assert try_reward(score, rows, score(rows)) == (0.0, alike, certain)


def test_noise_of_a_reward_by_hand():
    # by the place in the batch: 0, 1, 2 at first and 2, 1, 0 in the other order; (4 + 0 + 4)/3/2 is the variance
    own = torch.tensor([0.0, 1.0, 2.0])
    assert try_reward(lambda rows: own[: len(rows)], OPEN, own).noise == pytest.approx((4 / 3) ** 0.5)
