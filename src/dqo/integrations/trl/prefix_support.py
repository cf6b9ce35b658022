"""Which models may share a prompt between rows: those in which every token sees its whole past through attention alone.

The check reads the configuration for what only shows on long sequences (windows) or in the loss (experts), then runs
a made-up group through the model, packed and plain: layers that leak state from one response into the next, or
positions that follow the column instead of `position_ids`, change the numbers at once.
"""

import torch
from torch import Tensor, nn

from dqo.generation.exact import full_float32
from dqo.generation.support import why_layers
from dqo.hub import first_words
from dqo.integrations.trl.prefix_layout import IGNORED
from dqo.integrations.trl.shared_prefix import shared_prefix_logps


def supports_shared_prefix(model: nn.Module) -> str | None:
    """Why `shared_prefix_logps` would not equal the plain computation on this model, or None where it does.

    Args:
        model: causal LM prepared by TRL's `add_fused_lm_head`, possibly wrapped by PEFT, not yet by DDP or FSDP; its
            mode and gradients are left as they were.

    Returns:
        None, or one sentence to show the user.
    """
    return _why_config(model) or why_layers(model) or _why_numbers(model)


def _why_config(model: nn.Module) -> str | None:
    config = model.config
    if config is not config.get_text_config():
        return f"{config.model_type} takes more than text, and image tokens cannot be shared between rows."
    if config._attn_implementation not in ("sdpa", "eager"):
        return (
            f"the attention backend {config._attn_implementation!r} takes no custom mask; "
            "load the model with attn_implementation='sdpa'."
        )
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        return f"the {adapter.peft_type.value} adapter puts tokens of its own before the prompt."
    return None


@torch.no_grad()
@full_float32()
def _why_numbers(model: nn.Module) -> str | None:
    """The packed rows against TRL's own call, on a made-up group of two and a single response."""
    weight = next(model.parameters())
    if weight.numel() == 0:
        return "its weights are not in memory (ZeRO-3), so packed rows cannot be checked against the plain computation."
    input_ids, attention_mask, T = _made_up_rows(model.config.vocab_size, weight.device)
    labels = input_ids.masked_fill(attention_mask == 0, IGNORED)  # (3, P+T)
    labels[:, :-T] = IGNORED
    tolerance = 1e-3 if weight.dtype == torch.float32 else 0.2  # rounding of bf16 is of order .01, a leak of order 1
    was_training = model.training
    model.eval()
    try:
        plain = model(input_ids=input_ids, attention_mask=attention_mask, labels=labels, fused_lm_head=True)
        logps, _ = shared_prefix_logps(model, input_ids, attention_mask, T, completions=2)  # (3, T)
        error = (logps - plain.log_probs[:, -T:]).abs().max().item()
        if not error < tolerance:
            return f"its log-probabilities change by {error:.1g} when responses share a prompt."
    except Exception as error:  # any failure of a foreign architecture is the answer, and is told
        return f"its forward does not take a shared prompt ({first_words(error)})."
    finally:
        model.train(was_training)
    return None


def _made_up_rows(vocabulary: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Rows of TRL's shape: prompts of 6, 6 and 5 tokens, completions of 4, 3 and 4; and the width 4 of the latter."""
    tokens = torch.arange(10, device=device) * 7 + torch.tensor([[1], [1], [2]], device=device)  # (3, 10)
    tokens[1, 6:] += 3
    attention_mask = torch.ones_like(tokens)  # (3, 10)
    attention_mask[1, 9] = attention_mask[2, 0] = 0
    return tokens % vocabulary, attention_mask, 4
