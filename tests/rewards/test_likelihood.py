import pytest
import torch

from dqo.errors import RewardError
from dqo.models.policy import load_policy
from dqo.rewards.likelihood import LikelihoodReward

PROMPTS = ["the old house", "a", "the old house", "the old house", "near the river"]
RESPONSES = ["the dog runs", "cat", "a big red bird sings near the old house", "", "cat"]


@pytest.fixture
def likelihood(tiny_policy_folder):
    return LikelihoodReward(str(tiny_policy_folder))


def token_by_token(folder, prompt, response):
    """The mean over single steps, each a forward of its own over everything before the token."""
    model, tokenizer = load_policy(str(folder))
    ids = tokenizer(f"user {prompt} assistant ").input_ids
    steps = []
    for token in tokenizer(response).input_ids:
        steps.append(model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[token].item())
        ids = [*ids, token]
    return sum(steps) / len(steps) if steps else None


def test_mean_log_probability_of_the_response_given_the_prompt(likelihood, tiny_policy_folder):
    expected = [token_by_token(tiny_policy_folder, *row) for row in zip(PROMPTS, RESPONSES, strict=True)]
    got = likelihood(prompts=PROMPTS, completions=RESPONSES)
    assert got[3] is expected[3] is None
    assert [value for value in got if value is not None] == pytest.approx(
        [value for value in expected if value is not None], abs=1e-5
    )
    assert got[1] != got[4]  # the same response after another prompt


def test_batches_and_order_do_not_matter(likelihood, monkeypatch):
    together = likelihood(prompts=PROMPTS, completions=RESPONSES)
    monkeypatch.setattr("dqo.rewards.likelihood._BATCH_TOKENS", 1)  # one pair a batch
    assert likelihood(prompts=PROMPTS, completions=RESPONSES) == pytest.approx(together, abs=1e-5)
    backwards = likelihood(prompts=PROMPTS[::-1], completions=RESPONSES[::-1])
    assert backwards == pytest.approx(together[::-1], abs=1e-5)
    assert likelihood(prompts=[], completions=[]) == []


def test_a_conversation_is_read_whole(likelihood):
    plain = likelihood(prompts=["a"], completions=["cat"])
    asked, answered = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "cat"}]
    assert likelihood(prompts=[asked], completions=[answered]) == plain
    before = [{"role": "user", "content": "the dog"}, {"role": "assistant", "content": "runs"}]
    assert likelihood(prompts=[before + asked], completions=[answered]) != plain


def test_what_cannot_be_judged(likelihood):
    assert likelihood(prompts=["a", "a"], completions=[" ", "\n"]) == [None, None]
    with pytest.raises(RewardError, match="no more than 256 with its response, got 3 and 303"):
        likelihood(prompts=["a"], completions=["cat " * 300])
