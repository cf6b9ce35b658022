"""Shared rollouts draw what the policy says: greedy equals the host, log-probs a forward, frequencies the policy."""

from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, MambaConfig, Qwen2Config, set_seed

from dqo.errors import ModelError
from dqo.models.rollout import Sampling, generate_shared, inverse_cdf, why_not_in_groups, why_not_shared
from dqo.models.rollout_cache import RolloutCache, RunningRows, cache_keyword, grouped_attention

PAD = 0
A, B, LONG = [5, 9, 4], [7], [3, 8, 6, 2, 11]
PROMPTS = [A, LONG, A, B, A, LONG]
PLAIN_UNGROUP = RunningRows.ungroup


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


def plain_attention(q, k, v):
    """One row, one head at a time: (heads, width), keys and values (heads_kv, length, width)."""
    rep = len(q) // len(k)
    rows = [((q[h] * q.shape[-1] ** -0.5) @ k[h // rep].T).softmax(-1) @ v[h // rep] for h in range(len(q))]
    return torch.stack(rows)


@pytest.mark.parametrize("padded", [False, True])
def test_grouped_attention_equals_plain_attention_while_rows_and_prompts_leave(padded):
    """Three prompts with 1, 3 and 2 rows; then one row of the second leaves, then the whole third prompt."""
    gen = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=gen, dtype=torch.float64)  # noqa: E731
    heads, H, width, L = 6, 2, 5, 4
    prompt_k, prompt_v, prompt_of_row = randn(3, H, L, width), randn(3, H, L, width), torch.tensor([0, 1, 1, 1, 2, 2])
    mask = torch.ones(3, L, dtype=torch.long)
    if padded:
        mask[0, :2] = mask[2, 0] = 0
    cache = RolloutCache(room=3)
    cache.update(prompt_k, prompt_v, 0)
    cache.start(prompt_of_row, mask)
    alive, history = torch.arange(6), {row: ([], []) for row in range(6)}
    for leaves in ([], [2], [4, 5]):
        stays = torch.tensor([i for i, row in enumerate(alive.tolist()) if row not in leaves])
        if leaves:
            cache.keep(stays)
            alive = alive[stays]
        q, k, v = randn(len(alive), heads, 1, width), randn(len(alive), H, 1, width), randn(len(alive), H, 1, width)
        ours, _ = grouped_attention(None, q, *cache.update(k, v, 0), None)
        for i, row in enumerate(alive.tolist()):
            history[row][0].append(k[i])
            history[row][1].append(v[i])
            u, seen = prompt_of_row[row], mask[prompt_of_row[row]].bool()
            keys = torch.cat([prompt_k[u][:, seen], *history[row][0]], dim=1)
            values = torch.cat([prompt_v[u][:, seen], *history[row][1]], dim=1)
            torch.testing.assert_close(ours[i, 0], plain_attention(q[i, :, 0], keys, values), atol=1e-6, rtol=1e-6)
    assert cache.get_seq_length() == L + 3
    assert len(cache.layers[0].keys) == 2, "the prompt without rows has left"


def test_attention_that_changes_scores_is_told_and_the_host_stays_in_charge(model, monkeypatch):
    assert why_not_in_groups(model) is None
    from transformers.models.llama.modeling_llama import LlamaAttention

    plain = LlamaAttention.forward
    monkeypatch.setattr(LlamaAttention, "forward", lambda self, *a, **k: plain(self, *a, softcap=30.0, **k))
    assert "softcap" in why_not_in_groups(policy(attn_implementation="eager"))


def test_a_wrong_number_is_told(model, monkeypatch):
    """Negative control of the check: rows that see no prompt."""
    monkeypatch.setattr(RunningRows, "ungroup", lambda self, grouped: 0 * PLAIN_UNGROUP(self, grouped))
    assert "log-probabilities change" in why_not_in_groups(model)


def test_autocast_samples_the_autocast_policy():
    """Under bf16 the reported log-probabilities are those of a forward under bf16, with weights cast once."""
    model = policy(sharpness=3.0).eval()
    with torch.autocast("cpu", torch.bfloat16):
        completions, logprobs = sample(model, PROMPTS, 8)
        expected = [teacher_forced(model, p, c, 1.0) for p, c in zip(PROMPTS, completions, strict=True)]
    for ours, theirs in zip(logprobs, expected, strict=True):
        torch.testing.assert_close(torch.tensor(ours), theirs.float(), atol=0.05, rtol=0.02)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("autocast", [False, True])
def test_attention_in_bf16_rounds_its_result_and_nothing_before_it(autocast):
    """Scores up to 30, whose bf16 neighbours lie .125 apart: rounding them would change a weight by an eighth."""
    gen = torch.Generator().manual_seed(0)
    prompts, G, H, L, width = 2, 4, 2, 40, 16

    def randn(*shape):
        return (2.5 * torch.randn(*shape, generator=gen)).bfloat16()

    cache = RolloutCache(room=3)
    prompt_k, prompt_v = randn(prompts, H, L, width), torch.randn(prompts, H, L, width, generator=gen).bfloat16()
    cache.update(prompt_k, prompt_v, 0)
    prompt_of_row = torch.arange(prompts).repeat_interleave(G)
    cache.start(prompt_of_row, torch.ones(prompts, L, dtype=torch.long))
    q, k, v = randn(prompts * G, 2 * H, 1, width), randn(prompts * G, H, 1, width), randn(prompts * G, H, 1, width)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, _ = grouped_attention(None, q, *cache.update(k, v, 0), None)
    assert ours.dtype == torch.bfloat16
    for row, u in enumerate(prompt_of_row.tolist()):
        keys = torch.cat([prompt_k[u], k[row]], dim=1).double()
        values = torch.cat([prompt_v[u], v[row]], dim=1).double()
        exact = plain_attention(q[row, :, 0].double(), keys, values)
        torch.testing.assert_close(ours[row, 0].double(), exact, atol=2**-9, rtol=2**-8)


def teacher_forced_in_steps(model, prompt, completion):
    """Log-probabilities by transformers' own cache, a token at a time."""
    outputs, found = model(torch.tensor([prompt]), use_cache=True), []
    name = cache_keyword(model)
    for token in completion:
        found.append(outputs.logits[0, -1].float().log_softmax(-1)[token])
        outputs = model(torch.tensor([[token]]), use_cache=True, **{name: outputs["past_key_values"]})
    return torch.stack(found)


@torch.no_grad()
def test_sampling_in_bf16_is_as_near_to_a_forward_as_transformers_own_cache():
    model = policy(vocabulary=200, sharpness=4.0).eval()
    prompts = [list(range(3, 63))] * 4 + [list(range(10, 40))] * 4
    with torch.autocast("cpu", torch.bfloat16):
        completions, logprobs = sample(model, prompts, 64)
        ours, theirs = [], []
        for prompt, completion, drawn in zip(prompts, completions, logprobs, strict=True):
            forward = teacher_forced(model, prompt, completion, 1.0)
            ours.append(forward - torch.tensor(drawn))
            theirs.append(forward - teacher_forced_in_steps(model, prompt, completion))
    ours, theirs = torch.cat(ours).abs().mean(), torch.cat(theirs).abs().mean()
    assert theirs > 1e-4, "without rounding the next line would say nothing"
    assert ours < 1.15 * theirs


def test_draws_in_blocks_equal_one_cumulative_sum():
    gen = torch.Generator().manual_seed(0)
    p = torch.rand(64, 700, generator=gen).pow(8)
    p[:, 300:520] = 0  # a whole block of impossible tokens
    p /= p.sum(1, keepdim=True)
    u = torch.rand(64, dtype=torch.float64, generator=gen)
    ours = inverse_cdf(p, u)
    theirs = (p.double().cumsum(1) / p.double().sum(1, keepdim=True) <= u[:, None]).sum(1)
    assert torch.equal(ours, theirs)
    certain = torch.zeros(3, 700)
    certain[:, 699] = certain[0, 0] = 1
    assert set(
        inverse_cdf(certain[1:].repeat(50, 1), torch.rand(100, dtype=torch.float64, generator=gen)).tolist()
    ) == {699}


def test_given_numbers_make_a_row_independent_of_its_company(model):
    numbers = torch.rand(len(PROMPTS), 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def draw(rows):
        return generate_shared(
            model, [PROMPTS[row] for row in rows], sampling=Sampling(), max_new_tokens=12, eos_token_ids=[1, 13, 20],
            pad_token_id=PAD, uniforms=numbers[rows],
        )[0]  # fmt: skip

    together = draw(list(range(6)))
    assert len({tuple(completion) for completion in together}) == 6
    assert len({len(completion) for completion in together}) > 1, "rows must end at different times"
    assert draw([4, 1, 3]) == [together[4], together[1], together[3]]
    assert [draw([row])[0] for row in range(6)] == together


def test_the_ends_of_the_unit_interval_choose_possible_tokens():
    p = torch.tensor([[0.0, 0.5, 0.5, 0.0]]).repeat(2, 1)
    assert inverse_cdf(p, torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)).tolist() == [1, 2]


def test_what_cannot_share_a_prompt_says_why(model):
    assert why_not_shared(model) is None
    assert why_not_shared(policy(attn_implementation="eager")) is None
    sliding = AutoModelForCausalLM.from_config(
        Qwen2Config(
            vocab_size=24, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, sliding_window=4, use_sliding_window=True, max_window_layers=0,
        )
    )  # fmt: skip
    assert "sliding_attention" in why_not_shared(sliding)
    recurrent = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=24, hidden_size=32, num_hidden_layers=1, state_size=4)
    )
    assert "recurrent" in why_not_shared(recurrent)


def test_no_word_of_the_host_about_a_name_it_gives_up(model, recwarn):
    sample(model, PROMPTS)
    assert not [warning for warning in recwarn if "past_key_values" in str(warning.message)]


class Older(torch.nn.Module):
    def forward(self, input_ids, past_key_values=None):
        pass


class Newer(torch.nn.Module):
    def forward(self, input_ids, cache=None):
        pass


class Wrapped(torch.nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base

    def get_base_model(self):
        return self.base

    def forward(self, *args, **kwargs):
        pass


@pytest.mark.parametrize(("base", "keyword"), [(Older, "past_key_values"), (Newer, "cache")])
def test_the_cache_goes_in_under_the_name_of_the_model(base, keyword):
    patched = base()
    patched.forward = lambda *args, **kwargs: None
    for asked in (base(), patched, Wrapped(base())):
        assert cache_keyword(asked) == keyword


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias", "sliding_window"])
def test_attention_that_changes_scores_is_refused_and_the_model_told_of(model, name, monkeypatch):
    attention = type(model.model.layers[0].self_attn)
    plain = attention.forward

    def changed(self, hidden_states, **kwargs):
        decoding = hidden_states.shape[1] == 1  # the host's attention of a whole prompt refuses some by itself
        return plain(self, hidden_states, **kwargs | ({name: 1.0} if decoding else {}))

    monkeypatch.setattr(attention, "forward", changed)
    with pytest.raises(ModelError, match=f"attention with `{name}`"):
        sample(model, PROMPTS)
    assert f"attention with `{name}`" in why_not_in_groups(model)
