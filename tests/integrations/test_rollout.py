"""Shared rollouts draw what the policy says: greedy equals the host, log-probs a forward, frequencies the policy."""

from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, set_seed

from dqo.integrations.trl.rollout import Sampling, generate_shared
from dqo.integrations.trl.rollout_cache import RolloutCache

PAD = 0
A, B, LONG = [5, 9, 4], [7], [3, 8, 6, 2, 11]
PROMPTS = [A, LONG, A, B, A, LONG]


def policy(vocabulary=24, sharpness=10.0, **kwargs):
    """Random float32 Llama whose next-token distributions are far from uniform."""
    state = torch.random.get_rng_state()
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=PAD, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, **kwargs)
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data.mul_(sharpness)
    torch.random.set_rng_state(state)
    return model


@pytest.fixture(scope="module")
def model():
    return policy()


def sample(model, prompts, tokens=8, seed=0, eos=(), **settings):
    return generate_shared(
        model,
        prompts,
        sampling=Sampling(**settings),
        max_new_tokens=tokens,
        eos_token_ids=list(eos),
        pad_token_id=PAD,
        generator=torch.Generator().manual_seed(seed),
    )


def host_greedy(model, prompt, tokens, eos, **settings):
    """The host's own answer to one prompt, without any batch or padding."""
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=eos, pad_token_id=PAD, **settings)
    return model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()


def teacher_forced(model, prompt, completion, temperature):
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]  # (T, V)
    return (logits / temperature).log_softmax(-1)[range(len(completion)), completion]  # (T,)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_greedy_equals_host(attention):
    model = policy(attn_implementation=attention).eval()
    free = host_greedy(model, A, 12, None)
    eos = [free[4], host_greedy(model, LONG, 12, None)[7]]
    expected = [host_greedy(model, prompt, 12, eos) for prompt in PROMPTS]
    assert len({len(completion) for completion in expected}) > 1, "rows must end at different times"
    assert sample(model, PROMPTS, 12, eos=eos, temperature=0)[0] == expected


def test_greedy_with_repetition_penalty_equals_host(model):
    model.eval()
    free = [host_greedy(model, prompt, 10, None) for prompt in (A, B)]
    expected = [host_greedy(model, prompt, 10, None, repetition_penalty=1.5) for prompt in (A, B)]
    assert free != expected
    # The host counts padding as seen too, so only prompts of one length can be compared in a batch.
    for prompt, completion in zip((A, B), expected, strict=True):
        assert sample(model, [prompt] * 3, 10, temperature=0, repetition_penalty=1.5)[0] == [completion] * 3


def test_logprobs_equal_teacher_forced(model):
    completions, logprobs = sample(model, PROMPTS, 16, eos=(1, 13, 20), temperature=0.7)
    assert len({len(completion) for completion in completions}) > 1, "rows must end at different times"
    for prompt, completion, ours in zip(PROMPTS, completions, logprobs, strict=True):
        torch.testing.assert_close(
            torch.tensor(ours), teacher_forced(model, prompt, completion, 0.7), atol=1e-4, rtol=1e-4
        )


def test_rows_end_at_the_first_eos_and_keep_it(model):
    eos = (1, 13, 20)
    completions, logprobs = sample(model, PROMPTS * 4, 10, eos=eos)
    assert [len(c) for c in completions] == [len(logps) for logps in logprobs]
    assert {c[-1] in eos for c in completions} == {True, False}
    for completion in completions:
        assert not set(completion[:-1]) & set(eos)
        assert completion[-1] in eos or len(completion) == 10


def test_truncated_sampling_reports_the_truncated_distribution(model):
    completions, logprobs = sample(model, [A] * 64, 1, top_k=3)
    with torch.no_grad():
        logits = model(torch.tensor([A])).logits[0, -1]
    kept = logits.topk(3)
    expected = dict(zip(kept.indices.tolist(), kept.values.log_softmax(-1).tolist(), strict=True))
    assert {c[0] for c in completions} == set(expected)
    for (token,), (logp,) in zip(completions, logprobs, strict=True):
        assert logp == pytest.approx(expected[token], abs=1e-4)


@pytest.mark.parametrize("settings", [{"top_p": 0.5}, {"min_p": 0.3}, {"top_k": 2, "top_p": 0.9, "temperature": 1.5}])
def test_tokens_stay_inside_the_hosts_filter(model, settings):
    with torch.no_grad():
        logits = model(torch.tensor([A])).logits[:, -1]
    kept = set(Sampling(**settings).processors()(torch.tensor([A]), logits)[0].isfinite().nonzero().flatten().tolist())
    assert 0 < len(kept) < 24
    completions, _ = sample(model, [A] * 200, 1, **settings)
    assert {c[0] for c in completions} == kept


def pair_frequencies(model, prompts, temperature):
    """Counts of the first two tokens of the completions to prompt A, in a batch with other prompts."""
    completions, _ = sample(model, prompts, 2, seed=1, temperature=temperature)
    return Counter(tuple(c) for p, c in zip(prompts, completions, strict=True) if p == A)


def chi_square_p(counts, probabilities):
    """p-value of counts under the probabilities of all pairs, rare pairs (under 5 expected) taken as one."""
    from scipy.stats import chisquare

    total = sum(counts.values())
    common = [pair for pair, p in probabilities.items() if p * total >= 5]
    observed = [counts[pair] for pair in common]
    expected = [probabilities[pair] * total for pair in common]
    return chisquare([*observed, total - sum(observed)], [*expected, total - sum(expected)]).pvalue


def exact_pairs(model, temperature, prompt=A):
    """Probability of every pair of first tokens, by enumeration."""
    V = model.config.vocab_size
    with torch.no_grad():
        first = (model(torch.tensor([prompt])).logits[0, -1] / temperature).double().softmax(-1)  # (V,)
        ids = torch.tensor([[*prompt, token] for token in range(V)])
        second = (model(ids).logits[:, -1] / temperature).double().softmax(-1)  # (V, V)
    joint = first[:, None] * second  # (V, V)
    return {(a, b): joint[a, b].item() for a in range(V) for b in range(V)}


def test_sampled_frequencies_follow_the_policy():
    model = policy(vocabulary=12, sharpness=8.0).eval()
    counts = pair_frequencies(model, [A, B] * 4000, temperature=0.8)
    assert sum(counts.values()) == 4000
    assert chi_square_p(counts, exact_pairs(model, 0.8)) > 0.01
    # Power: the same counts refute a slightly higher temperature, and what the policy says after the other prompt.
    assert chi_square_p(counts, exact_pairs(model, 1.0)) < 1e-6
    assert chi_square_p(counts, exact_pairs(model, 0.8, B)) < 1e-6


def test_rows_of_a_group_are_independent():
    """A shared prompt must not make two responses equal more often than chance: P(equal) = sum p^2."""
    model = policy(vocabulary=12, sharpness=8.0).eval()
    completions, _ = sample(model, [A] * 4000, 2, seed=2)
    equal = sum(a == b for a, b in zip(completions[::2], completions[1::2], strict=True)) / 2000
    expected = sum(p * p for p in exact_pairs(model, 1.0).values())
    assert equal == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 2000) ** 0.5)


def test_generator_and_global_seed_decide(model):
    assert sample(model, PROMPTS, seed=5) == sample(model, PROMPTS, seed=5)
    assert sample(model, PROMPTS, seed=5) != sample(model, PROMPTS, seed=6)
    answers = []
    for _ in range(2):
        set_seed(11)
        answers.append(
            generate_shared(model, PROMPTS, sampling=Sampling(), max_new_tokens=6, eos_token_ids=[], pad_token_id=PAD)
        )
    assert answers[0] == answers[1]


def test_prompt_is_read_once_and_ended_rows_leave(model):
    seen = []
    handle = model.register_forward_pre_hook(
        lambda _, args, inputs: seen.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    completions, _ = sample(model, PROMPTS, 10, eos=(1, 13, 20))
    handle.remove()
    lengths = [len(c) for c in completions]
    assert seen[0] == (3, 5)  # three distinct prompts, padded to the longest
    assert seen[1:] == [(sum(length > step for length in lengths), 1) for step in range(1, max(lengths))]
    assert seen[-1][0] < len(PROMPTS)


def test_training_mode_is_left_as_it_was(model):
    for mode in (True, False):
        model.train(mode)
        sample(model, [A], 1)
        assert model.training is mode


def test_cache_keeps_what_was_written():
    gen = torch.Generator().manual_seed(0)
    prompt, news = torch.randn(2, 3, 4, 5, generator=gen), torch.randn(3, 3, 2, 5, generator=gen)
    cache, rows = RolloutCache(room=2), torch.tensor([1, 0, 1])
    cache.update(prompt, -prompt, 0)
    cache.batch_select_indices(rows)
    cache.update(news[:, :, :1], -news[:, :, :1], 0)
    cache.batch_select_indices(torch.tensor([2, 0]))
    keys, values = cache.update(news[[2, 0], :, 1:], -news[[2, 0], :, 1:], 0)
    expected = torch.cat([prompt[rows], news], dim=2)[[2, 0]]
    assert torch.equal(keys, expected)
    assert torch.equal(values, -expected)
    assert cache.get_seq_length() == 6
