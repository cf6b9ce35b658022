"""Per-token log-probabilities of a group's responses with their prompt computed once, in forward and backward.

Stock TRL runs the prompt of a group of G responses G times. Here one packed row holds the prompt and several of its
completions under a block mask. It goes through the two public doors of the model: its own forward, and TRL's fused head
(`fused_lm_head=True`, `shift_labels=`), so wrappers (PEFT, DDP) see ordinary calls and temperature, head precision and
logit scaling are TRL's own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from dqo.integrations.trl.hidden_tap import HiddenTap
from dqo.integrations.trl.label_head import score_labels
from dqo.integrations.trl.prefix_layout import IGNORED, pack_rows, share_rows, split_groups

Pick = Callable[[Tensor], Tensor]  # a tensor of the packed positions, (U, S, ...) -> (N, C, ...)


def shared_prefix_logps(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    *,
    completions: int | None = None,
    tap: HiddenTap | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and entropies of completion tokens, rows with equal prompts sharing that prompt.

    Equals TRL's `_get_per_token_logps_and_entropies` in values and gradients, up to float rounding, for every model
    that `supports_shared_prefix` accepts. Rows may come in any order and as parts of groups. Calls with equal rows give
    equal values to the last bit, whatever the grad mode.

    Args:
        model: causal LM prepared by TRL's `add_fused_lm_head`, possibly wrapped (PEFT, DDP).
        input_ids: (N, P+C) long, prompts left-padded, completions right-padded.
        attention_mask: (N, P+C), zero on padding.
        logits_to_keep: C, completion columns.
        completions: completions per packed row; by default the number with the least work.
        tap: is given the hidden states of this forward.

    Returns:
        Log-probabilities (N, C) in nats, zero on padding, and entropies (N, C) in nats, zero on padding, or None
        where the fused head was made without them.
    """
    score = partial(score_labels, model)
    outputs, pick = shared_prefix_forward(
        model, input_ids, attention_mask, logits_to_keep, completions=completions, call=score
    )
    if tap is not None:
        tap.keep(pick)
    return pick(outputs.log_probs), None if outputs.entropy is None else pick(outputs.entropy)


def shared_prefix_forward(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    *,
    completions: int | None = None,
    call: Callable[..., Any] | None = None,
) -> tuple[Any, Pick]:
    """One forward of a group's rows, their prompts shared, and how to read its outputs.

    The output that belongs to a completion token is that of the position *before* it: the one that its
    log-probability is computed from, and the state whose value a critic estimates.

    Args:
        model: As for `shared_prefix_logps`, or any backbone that takes the same call.
        input_ids: (N, P+C) long, prompts left-padded, completions right-padded.
        attention_mask: (N, P+C), zero on padding.
        logits_to_keep: C, completion columns.
        completions: completions per packed row; by default the number with the least work.
        call: what computes the outputs from the packed inputs and `shift_labels`; `model` itself where not given.

    Returns:
        The outputs, and a function that takes a tensor of them, (U, S, ...), to (N, C, ...), zero on padding.
    """
    rows = share_rows(input_ids, attention_mask, logits_to_keep)
    packed = pack_rows(split_groups(rows, completions))
    outputs = (call or model)(
        input_ids=packed.input_ids,
        attention_mask=_dense_mask(model, packed.visible),
        position_ids=packed.position_ids,
        shift_labels=packed.shift_labels,
    )
    ignored = rows.labels == IGNORED  # (N, T)

    def pick(values: Tensor) -> Tensor:
        real = values.flatten(0, 1)[packed.source]  # (N, T, ...)
        wide = real.new_zeros(len(real), logits_to_keep, *real.shape[2:])  # (N, C, ...)
        wide[:, : real.shape[1]] = real.masked_fill(ignored.view(*ignored.shape, *[1] * (real.dim() - 2)), 0)
        return wide

    return outputs, pick


def _dense_mask(model: nn.Module, visible: Tensor) -> Tensor:
    """(U, 1, S, S) mask in the form the model's attention takes: boolean for sdpa, added to the scores for eager."""
    config = extract_model_from_parallel(model).config
    if config._attn_implementation == "sdpa":
        return visible
    dtype = next(model.parameters()).dtype
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)  # (U, 1, S, S)
