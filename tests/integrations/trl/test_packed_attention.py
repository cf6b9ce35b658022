"""Attention by blocks, as on CUDA, equals a dense mask, and a prompt shared by it the plain rows.

FlexAttention has no backward on a CPU, and compiles for seconds: most run it uncompiled, past its check of the device.
"""

import random
from shutil import which

import pytest
import test_shared_prefix as plain
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import flex_attention as flex
from transformers import LlamaConfig

from dqo.errors import ModelError
from dqo.integrations.trl.fast import attention
from dqo.integrations.trl.fast.packing import shared_prefix_logps
from dqo.integrations.trl.fast.sharing import why_not_shared

C = 150
LONG = plain.SMALL | {"max_position_embeddings": 512}
# Prompts and completions within a block of 128, across one edge, and across two.
RAGGED = {
    "short": plain.batch([9, 5], [30, 3, 17, 1], [0, 0, 1, 1], columns=C),
    "across edges": plain.batch([140, 60], [150, 1, 70, 128, 90], [0, 1, 0, 1, 0], columns=C),
    "ends at an edge": plain.batch([129], [64, 64], [0, 0], columns=C),
    "prompt of one token": plain.batch([1, 130], [150, 140, 20], [0, 0, 1], columns=C),
}


@pytest.fixture
def blocks(monkeypatch):
    """Packed rows are attended to by blocks; the list of masks that were."""
    seen = []

    def attend(query, key, value, mask, scaling):
        seen.append(mask)
        return attention._attend(query, key, value, mask, scaling)

    monkeypatch.setattr(attention, "by_blocks", lambda device: True)
    monkeypatch.setattr(attention, "_attend_compiled", attend)
    monkeypatch.setattr(flex, "_validate_device", lambda *states: None)
    return seen


def segments(rows, columns, generator):
    """Each row: a prefix, completions of which some have no token, padding."""
    cuts = [sorted(generator.choices(range(columns + 1), k=generator.randint(1, 6))) for _ in range(rows)]
    return torch.tensor([[sum(cut <= column for cut in row) for column in range(columns)] for row in cuts])


def test_what_a_token_sees_by_brute_force():
    given = segments(3, 20, random.Random(0))
    for row, dense in zip(given.tolist(), attention.dense_mask(given)[:, 0].tolist(), strict=True):
        for query in range(20):
            for key in range(20):
                assert dense[query][key] == (key <= query and row[key] in (0, row[query]))


@pytest.mark.parametrize("columns", [1, 127, 128, 129, 300, 640])
def test_blocks_are_those_of_the_dense_mask(columns):
    generator = random.Random(columns)
    for _ in range(10):
        given = segments(3, columns, generator)
        ours, dense = attention.block_mask(given), attention.dense_mask(given)
        theirs = flex.create_block_mask(
            lambda u, h, q, k, dense=dense: dense[u, 0, q, k], 3, None, columns, columns, device="cpu"
        )
        assert ours.shape == theirs.shape == (3, 1, columns, columns)
        for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks",
                     "q_indices", "full_q_num_blocks", "full_q_indices"):  # fmt: skip
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize("heads", [2, 4])
def test_attention_by_blocks_is_that_of_the_dense_mask(blocks, heads):
    torch.manual_seed(0)
    given = segments(2, 300, random.Random(1))
    query, value = torch.randn(2, 4, 300, 16), torch.randn(2, heads, 300, 8)
    key, layer = torch.randn(2, heads, 300, 16), torch.nn.Module()
    layer.num_key_value_groups = 4 // heads
    ours, theirs = (
        attention.packed_attention(layer, query, key, value, mask(given), scaling=0.7, dropout=0.0)[0]
        for mask in (attention.block_mask, attention.dense_mask)
    )
    assert len(blocks) == 1
    assert ours.shape == (2, 300, 4, 8)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("completions", plain.PER_ROW)
@pytest.mark.parametrize("name", RAGGED)
def test_values_and_gradients_equal_plain_rows(blocks, name, completions):
    plain.assert_same(plain.policy(LlamaConfig(**LONG)), *RAGGED[name], completions, C)
    assert len(blocks) == 2, "once a layer"


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_recomputes_by_blocks(blocks, reentrant):
    model = plain.policy(LlamaConfig(**LONG))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    plain.assert_same(model, *RAGGED["across edges"], 8, C)
    assert len(blocks) == 4, "once a layer in forward, once in backward"
    assert len(set(map(id, blocks))) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_equal_to_the_last_bit_whatever_the_grad_mode(blocks, dtype):
    ids, mask = RAGGED["across edges"]
    model = plain.policy(LlamaConfig(**LONG)).to(dtype)
    with torch.no_grad():
        old, _ = shared_prefix_logps(model, ids, mask, C, 2)
    new, _ = shared_prefix_logps(model, ids, mask, C, 2)
    assert new.requires_grad
    assert torch.equal(old, new)


def test_under_autocast_attention_is_rounded_as_sdpa_rounds(blocks, monkeypatch):
    ids, mask = RAGGED["across edges"]
    model = plain.policy(LlamaConfig(**LONG))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        ours, _ = shared_prefix_logps(model, ids, mask, C, 2)
        monkeypatch.setattr(attention, "by_blocks", lambda device: False)
        dense, _ = shared_prefix_logps(model, ids, mask, C, 2)
    with torch.no_grad():
        exact, _ = shared_prefix_logps(model, ids, mask, C, 2)
    assert len(blocks) == 2
    assert blocks[0] is blocks[1]
    assert (ours - exact).abs().mean() < 1.5 * (dense - exact).abs().mean()


def test_a_model_that_attends_by_blocks_is_accepted_and_attends_as_before_elsewhere(blocks):
    model = plain.policy(LlamaConfig(**LONG))
    assert why_not_shared(model) is None
    del blocks[:]
    plain.trl_call(model, *RAGGED["short"], C)
    model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=2, do_sample=False)
    assert model.config._attn_implementation == "sdpa"
    assert blocks == []


def test_the_check_crosses_the_edges_of_blocks(blocks, monkeypatch):
    """Negative control: keys of other blocks than the query's own are not seen."""
    sees = attention._sees

    def within(given):
        return lambda u, h, query, key: sees(given)(u, h, query, key) & (query // 128 == key // 128)

    monkeypatch.setattr(attention, "_sees", within)
    assert "log-probabilities change by" in why_not_shared(plain.policy(LlamaConfig(**LONG)))


def test_dropout_is_refused_where_blocks_have_none(blocks, monkeypatch):
    model = plain.policy(LlamaConfig(**LONG, attention_dropout=0.1))
    assert why_not_shared(model) == (
        "its attention drops weights, which FlexAttention does not; set attention_dropout=0 in its configuration."
    )
    with pytest.raises(ModelError, match="dropout or a bias cannot be computed by blocks"):
        shared_prefix_logps(model, *RAGGED["short"], C)
    monkeypatch.setattr(attention, "by_blocks", lambda device: False)
    assert why_not_shared(model) is None


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None, reason="torch compiles for a CPU by g++")
def test_compiled_for_a_cpu_it_attends_to_the_blocks_that_are_listed():
    """Uncompiled, FlexAttention asks the rule of every pair and reads no list of blocks."""
    torch.manual_seed(0)
    torch.compiler.reset()
    given = segments(2, 300, random.Random(1))
    states = [torch.randn(2, heads, 300, 16) for heads in (4, 2, 2)]
    mask = attention.block_mask(given)
    dense = torch.nn.functional.scaled_dot_product_attention(
        *states, attn_mask=attention.dense_mask(given), enable_gqa=True
    )
    ours, _ = attention.packed_attention(torch.nn.Module(), *states, mask)
    torch.testing.assert_close(ours, dense.transpose(1, 2), atol=1e-5, rtol=1e-5)
    mask.full_kv_num_blocks.zero_()
    lacking, _ = attention.packed_attention(torch.nn.Module(), *states, mask)
    assert (lacking - ours).abs().max() > 0.1, "the blocks visible as a whole were left out"


def test_other_lengths_compile_nothing_anew(monkeypatch):
    """Neither densely nor again and again: torch gives up a function that it has compiled eight times."""
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(flex, "_validate_device", lambda *states: None)
    monkeypatch.setattr(attention, "_compiled", lambda: torch.compile(attention._attend, dynamic=True, backend=counter))
    torch.compiler.reset()

    def attend(rows, columns, learns):
        states = [
            torch.randn(rows, heads, columns, 16, requires_grad=x) for heads, x in zip((4, 2, 2), learns, strict=True)
        ]
        mask = attention.block_mask(segments(rows, columns, random.Random(0)))
        with torch.set_grad_enabled(any(learns)):
            attention.packed_attention(torch.nn.Module(), *states, mask, scaling=0.25)

    # In the first layer under LoRA a key that no adapter makes has no gradient.
    learning = [(False, False, False), (True, True, True), (True, False, True)]
    for columns in (60, 67, 300, 307):
        for rows in (1, 2, 3):
            for learns in learning:
                attend(rows, columns, learns)
    before = counter.frame_count
    for rows, columns in [(1, 99), (5, 99), (1, 1000), (3, 129), (7, 500)]:
        for learns in learning:
            attend(rows, columns, learns)
    assert counter.frame_count == before
    assert before > 8, "torch's own limit would never be met"


def test_a_compiled_model_attends_by_blocks(blocks):
    model, (ids, mask) = plain.policy(LlamaConfig(**LONG)), RAGGED["across edges"]
    expected = shared_prefix_logps(model, ids, mask, C, 2)
    inside = plain.gradients(model, *expected)
    torch.compiler.reset()
    ours = shared_prefix_logps(torch.compile(model, backend="eager"), ids, mask, C, 2)
    assert len(blocks) == 2, "the compiled model has attention in its own graph"
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    for name, gradient in plain.gradients(model, *ours).items():
        torch.testing.assert_close(gradient, inside[name], atol=1e-5 * inside[name].abs().max().item(), rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("name", RAGGED)
def test_compiled_on_cuda(name, checkpointing):
    torch.set_float32_matmul_precision("highest")
    model = plain.policy(LlamaConfig(**LONG | {"head_dim": 32})).cuda()
    assert why_not_shared(model) is None
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    rows = [x.cuda() for x in RAGGED[name]]
    for completions in plain.PER_ROW:
        plain.assert_same(model, *rows, completions, C)
        with torch.no_grad():
            old, _ = shared_prefix_logps(model, *rows, C, completions)
        assert torch.equal(old, shared_prefix_logps(model, *rows, C, completions)[0])
