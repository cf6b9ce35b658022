"""Our head on a CPU gives the numbers of TRL's, without the logits in memory, and gives way where it does not fit."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils

from dqo.integrations.trl import seams
from dqo.integrations.trl.fast import head
from dqo.integrations.trl.fast.head import faster_head
from dqo.integrations.trl.fast.packing import score_labels

K, V, D = 37, 1000, 24  # tiles of 300 tokens: the last is narrower
BOTH, ONE = ("log_probs", "entropy"), ("log_probs",)


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch):
    monkeypatch.setattr(head, "TILE", 300 * K)
    monkeypatch.setattr(head, "NARROWEST", 1)


def inputs(dtype=torch.float32, weight_dtype=None, confident=True):
    """Hidden states, weight and targets; some tokens are nearly certain, others nearly impossible."""
    gen = torch.Generator().manual_seed(0)
    weight = torch.randn(V, D, generator=gen)
    targets = torch.randint(V, (K,), generator=gen)
    hidden = torch.randn(K, D, generator=gen)
    if confident:
        hidden[::3] = weight[targets[::3]]
    hidden /= 3  # logits up to 18
    return hidden.to(dtype).requires_grad_(), weight.to(weight_dtype or dtype).requires_grad_(), targets


def score(apply, hidden, weight, targets, outputs=BOTH, temperature=0.7, logit_scale=1.0, bias=None, softcap=None):
    return apply(hidden, weight, bias, targets, temperature, 32768, softcap, logit_scale, outputs)


def ours(*args, **kwargs):
    with faster_head():
        return score(utils._ChunkedLogProbFunction.apply, *args, **kwargs)


def trl(*args, **kwargs):
    return score(ChunkedLogProbFunction.apply, *args, **kwargs)


def exact(hidden, weight, targets, temperature=0.7, logit_scale=1.0):
    """Log-probabilities and entropies from whole logits in float64."""
    logps = (hidden.double() @ weight.double().T * logit_scale / temperature).log_softmax(1)
    return logps[range(len(targets)), targets], -(logps.exp() * logps).sum(1)


def gradients(logps, entropies, hidden, weight, by="both"):
    """Gradients of a loss in which every token weighs differently, some not at all."""
    weights = torch.arange(len(logps)).cos().clamp(min=-0.5).mul(torch.arange(len(logps)) % 5 != 0)
    loss = (weights * logps).sum() if by != "entropies" else 0
    loss = loss + (weights.flip(0) * entropies).sum() if by != "logps" else loss
    return torch.autograd.grad(loss, [x for x in (hidden, weight) if x.requires_grad])


def error(found, reference):
    return ((found.double() - reference.double()).norm() / reference.double().norm()).item()


def farthest(found, reference):
    return ((found - reference).abs().max() / reference.abs().max()).item()


@pytest.mark.parametrize("by", ["both", "logps", "entropies"])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"logit_scale": 0.5, "temperature": 1.3}],
                         ids=["tempered", "plain", "scaled"])  # fmt: skip
def test_float32_equals_trl_and_whole_logits(settings, by):
    x = inputs()
    found, theirs, whole = ours(*x, **settings)[:2], trl(*x, **settings)[:2], exact(*x, **settings)
    for our_values, their_values, values in zip(found, theirs, whole, strict=True):
        assert our_values.dtype == torch.float32
        torch.testing.assert_close(our_values, their_values, atol=5e-6, rtol=1e-6)  # 18 in float32 is 2e-6 exact
        assert error(our_values, values) < 1e-6
    all_gradients = [gradients(*values, *x[:2], by=by) for values in (found, theirs, whole)]
    for our_grad, their_grad, grad in zip(*all_gradients, strict=True):
        assert grad.norm() > 0.01
        assert farthest(our_grad, their_grad) < 2e-6
        assert error(our_grad, grad) < 1e-6


@pytest.mark.parametrize("tiles_of_amx", [True, False])
@pytest.mark.parametrize("case", ["autocast", "bf16", "bf16 weight in float32"])
def test_bf16_is_as_near_to_exact_as_trl(case, tiles_of_amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles_of_amx)
    dtypes = {"autocast": (torch.float32,), "bf16": (torch.bfloat16,)}.get(case, (torch.float32, torch.bfloat16))
    x = inputs(*dtypes, confident=False)
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        found, theirs = ours(*x)[:2], trl(*x)[:2]
    whole = exact(*x)
    for our_values, their_values, values in zip(found, theirs, whole, strict=True):
        assert our_values.dtype == torch.float32
        assert error(our_values, values) <= 1.1 * error(their_values, values)
    all_gradients = [gradients(*values, *x[:2]) for values in (found, theirs, whole)]
    for our_grad, their_grad, grad, leaf in zip(*all_gradients, x[:2], strict=True):
        assert our_grad.dtype == leaf.dtype
        assert error(our_grad, grad) <= 1.1 * error(their_grad, grad)


def test_gradient_of_hidden_states_sums_in_float32_as_trl(monkeypatch):
    """Every token's weight holds the same large vector, whose parts cancel only in the sum over all tiles."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(head, "TILE", 40 * K)
    hidden, weight, targets = inputs(confident=False)
    weight = (weight.detach() + 8).requires_grad_()

    def gradient(call):
        with torch.autocast("cpu", torch.bfloat16):
            values = call(hidden, weight, targets)[:2]
        return gradients(*values, hidden, weight)[0]

    theirs = gradient(trl)
    assert error(gradient(ours), theirs) < 1e-4
    monkeypatch.setattr(head, "_add_product", lambda total, a, b: total.add_(a @ b))
    assert error(gradient(ours), theirs) > 1e-3, "negative control: products rounded before the sum"


def test_whatever_the_number_of_positions_and_the_width_of_tiles(monkeypatch):
    hidden, weight, targets = inputs()
    expected, _ = exact(hidden, weight, targets)
    for positions in (0, 1, 2, K):
        for narrowest, widest in ((1, 7), (64, 64), (V - 1, V), (1, 10**6)):
            monkeypatch.setattr(head, "NARROWEST", narrowest)
            monkeypatch.setattr(head, "WIDEST", widest)
            logps, entropies = ours(hidden[:positions], weight, targets[:positions])[:2]
            assert logps.shape == entropies.shape == (positions,)
            torch.testing.assert_close(logps.double(), expected[:positions], atol=5e-6, rtol=1e-6)
            logps.sum().backward()


def test_entropies_are_left_out_where_nobody_asks():
    x = inputs()
    asked, unasked = ours(*x), ours(*x, outputs=ONE)
    assert unasked[1] is None
    assert torch.equal(asked[0], unasked[0])
    assert asked[2:] == unasked[2:] == (None, None, None)


def test_logits_far_below_zero():
    hidden, weight, targets = (tensor.detach() for tensor in inputs())
    hidden[:, 0] = 1
    weight[:, 0] -= 300
    torch.testing.assert_close(ours(hidden, weight, targets)[0].double(), exact(hidden, weight, targets)[0], atol=1e-3,
                               rtol=0)  # fmt: skip


@pytest.mark.parametrize(("tiles_of_amx", "products"), [(True, torch.bfloat16), (False, torch.float32)])
def test_products_are_bf16_only_where_the_processor_has_them(tiles_of_amx, products, monkeypatch):
    made, whole = [], head.TiledLogProbs.apply
    monkeypatch.setattr(
        head, "TiledLogProbs", SimpleNamespace(apply=lambda *args: made.append(args[-1]) or whole(*args))
    )
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles_of_amx)
    ours(*inputs())
    with torch.autocast("cpu", torch.bfloat16):
        ours(*inputs())
    with torch.autocast("cpu", torch.float16):
        ours(*inputs())
    ours(*inputs(torch.bfloat16))
    assert made == [torch.float32, products, torch.float32, products]


class Seen(TorchDispatchMode):
    """Counts products of matrices and the numbers in the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.calls, self.products, self.largest = 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.calls += 1
        self.products += "mm" in function.overloadpacket.__name__
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            self.largest = max(self.largest, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
        return made


def test_entropies_that_are_only_logged_cost_nothing_in_backward():
    def calls(outputs):
        logps = ours(*inputs(), outputs=outputs)[0]
        with Seen() as seen:
            logps.sum().backward()
        return seen.calls

    assert calls(BOTH) == calls(ONE)


@pytest.mark.parametrize(("leaf", "products"), [("both", 4), ("hidden", 3), ("weight", 3)])
def test_what_needs_no_gradient_makes_no_work(leaf, products):
    hidden, weight, targets = inputs()
    hidden.requires_grad_(leaf != "weight")
    weight.requires_grad_(leaf != "hidden")
    with Seen() as seen:
        gradients(*ours(hidden, weight, targets)[:2], hidden, weight)
    assert seen.products == products * 4, "four tiles"


@pytest.mark.parametrize("autocast", [False, True])
def test_logits_are_never_in_memory_as_a_whole(autocast):
    hidden, weight, targets = inputs()

    def largest(call):
        with Seen() as seen:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                values = call(hidden, weight, targets)[:2]
            gradients(*values, hidden, weight)
        return seen.largest

    assert largest(trl) >= K * V, "TRL's tile holds this vocabulary"
    assert largest(ours) == max(V * D, 300 * K)


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({"bias": torch.linspace(-1, 1, V)}, torch.float32),
        ({"softcap": 5.0}, torch.float32),
        ({"outputs": (*BOTH, "is_top1")}, torch.float32),
        ({"outputs": ("log_probs", "mean_logits", "log_sum_sq_probs")}, torch.float32),
        ({}, torch.float64),
    ],
    ids=["bias", "softcap", "top1", "moments", "float64"],
)
def test_what_ours_does_not_do_is_trl_s(settings, dtype, monkeypatch):
    calls = []
    spy = SimpleNamespace(apply=lambda *args: calls.append(args) or ChunkedLogProbFunction.apply(*args))
    monkeypatch.setattr(head, "_TRLS_HEAD", spy)
    x = inputs(dtype)
    found, theirs = ours(*x, **settings), trl(*x, **settings)
    assert len(calls) == 1
    for our_values, their_values in zip(found, theirs, strict=True):
        assert (our_values is None) == (their_values is None)
        assert our_values is None or torch.equal(our_values, their_values)


def test_another_device_has_trl_s_kernels(monkeypatch):
    monkeypatch.setattr(head, "_TRLS_HEAD", SimpleNamespace(apply=lambda *args: "TRL's"))
    assert ours(*(tensor.to("meta") for tensor in inputs())) == "TRL's"


def test_trl_s_head_takes_what_ours_stands_in_for(monkeypatch):
    taken = inspect.signature(ChunkedLogProbFunction.forward).parameters
    assert list(taken) == ["ctx", *inspect.signature(head._apply).parameters]
    assert seams.fused_head() is utils._ChunkedLogProbFunction is ChunkedLogProbFunction
    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", SimpleNamespace(forward=lambda ctx, hidden: None))
    assert seams.fused_head() is None
    monkeypatch.delattr(utils, "_ChunkedLogProbFunction")
    assert seams.fused_head() is None


def test_a_trl_with_another_head_keeps_it(monkeypatch):
    monkeypatch.setattr(head, "_TRLS_HEAD", None)
    with faster_head():
        assert utils._ChunkedLogProbFunction is ChunkedLogProbFunction


def test_trl_s_forward_looks_its_head_up_at_every_call(monkeypatch):
    config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    utils.add_fused_lm_head(model, temperature=0.5, outputs=BOTH)
    made, whole = [], head.TiledLogProbs.apply
    monkeypatch.setattr(head, "TiledLogProbs", SimpleNamespace(apply=lambda *args: made.append(args) or whole(*args)))
    ids = torch.arange(12).view(2, 6)
    score_labels(model, input_ids=ids, shift_labels=ids.roll(-1, 1))
    (hidden, weight, _, scale, with_entropy, dtype) = made[0]
    assert hidden.shape == (12, 16)
    assert weight is model.lm_head.weight
    assert (scale, with_entropy, dtype) == (2.0, True, torch.float32)
    model(input_ids=ids, labels=ids, fused_lm_head=True)
    assert len(made) == 1, "a call of others is TRL's"
    with pytest.raises(ValueError, match="input_ids"):
        score_labels(model, nonsense=ids, shift_labels=ids)
    assert utils._ChunkedLogProbFunction is ChunkedLogProbFunction
