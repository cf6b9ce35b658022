"""TF32 must not decide whether a model shares its prompts: the checks run without it and leave it as it was."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from dqo.integrations.trl.fast import sharing as prefix_support
from dqo.models import rollout as shared
from dqo.models.rollout import full_float32

BACKENDS = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]


def precisions() -> list[str]:
    return [backend.fp32_precision for backend in BACKENDS]


def older_reading() -> str:
    """What the older setting says, which torch refuses to tell once the newer one was used."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "refused"


def of_matmul_alone():
    for backend in BACKENDS:
        backend.fp32_precision = "tf32"


USERS = {  # the ways in which one may ask for TF32; the last is what `trainer.tf32` does
    "allow_tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "set_float32_matmul_precision": lambda: torch.set_float32_matmul_precision("high"),
    "fp32_precision of matmul": of_matmul_alone,
    "fp32_precision of all": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


@pytest.fixture(params=USERS)
def tf32(request):
    """What both settings say after each way."""
    before, of_all = precisions(), torch.backends.fp32_precision
    USERS[request.param]()
    yield precisions(), older_reading()
    torch.backends.fp32_precision = of_all
    if older_reading() == "high":
        torch.set_float32_matmul_precision("highest")
    for backend, precision in zip(BACKENDS, before, strict=True):
        backend.fp32_precision = precision


def test_products_are_full_within_and_as_before_after(tf32):
    newer, older = tf32
    assert "tf32" in newer
    assert older in ("high", "refused")
    with full_float32():
        assert precisions() == ["ieee", "ieee"]
        assert not torch.backends.cuda.matmul.allow_tf32, "raises where the two settings disagree, as cuBLAS would"
    assert (precisions(), older_reading()) == tf32


def test_what_nobody_set_goes_on_following_what_is_set_for_all():
    with full_float32():
        pass
    assert precisions() == ["none", "none"]


def test_an_error_within_leaves_it_as_it_was(tf32):
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert (precisions(), older_reading()) == tf32


def test_every_check_of_two_layouts_runs_in_full(tf32, monkeypatch):
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    seen = []

    def spied(name, module):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: (seen.append((name, precisions())), real(*a, **k))[1])

    spied("generate_shared", shared)
    spied("shared_prefix_logps", prefix_support)
    assert shared.why_not_in_groups(model) is None
    add_fused_lm_head(model)
    assert prefix_support.why_not_shared(model) is None
    assert {name for name, _ in seen} == {"generate_shared", "shared_prefix_logps"}
    assert all(found == ["ieee", "ieee"] for _, found in seen)
    assert (precisions(), older_reading()) == tf32
