"""Per-token log-probabilities of a group's responses with their prompt computed once, in forward and backward.

Stock TRL runs the prompt of a group of G responses G times. Two layouts give the same numbers: `packed` (one row a
prompt under a block mask) and `expanded` (the prompt's keys and values computed once, with gradient, and read by G
short rows). Both go through the two public doors of the model: its own forward, and TRL's fused head
(`fused_lm_head=True`, `shift_labels=`), so wrappers (PEFT, DDP) see ordinary calls and temperature, head precision
and logit scaling are TRL's own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import DynamicCache

from dqo.generation.cache import cache_keyword
from dqo.integrations.trl.hidden_tap import HiddenTap
from dqo.integrations.trl.label_head import score_labels
from dqo.integrations.trl.prefix_layout import IGNORED, SharedRows, cheapest_layout, pack_rows, share_rows

Layout = Literal["unshared", "packed", "expanded"]
Pick = Callable[[Tensor], Tensor]  # what a layout computed for its positions, (rows, columns, ...) -> (N, C, ...)


def shared_prefix_logps(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    *,
    layout: Layout | None = None,
    tap: HiddenTap | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and entropies of completion tokens, rows with equal prompts sharing that prompt.

    Equals TRL's `_get_per_token_logps_and_entropies` in values and gradients, up to float rounding, for every model
    that `supports_shared_prefix` accepts. Rows may come in any order and as parts of groups.

    Args:
        model: causal LM prepared by TRL's `add_fused_lm_head`, possibly wrapped (PEFT, DDP).
        input_ids: (N, P+C) long, prompts left-padded, completions right-padded.
        attention_mask: (N, P+C), zero on padding.
        logits_to_keep: C, completion columns.
        layout: force one layout; by default the cheapest that the model can run.
        tap: is told where the hidden states of this forward went.

    Returns:
        Log-probabilities (N, C) in nats, zero on padding, and entropies (N, C) in nats, zero on padding, or None
        where the fused head was made without them.
    """
    score = partial(score_labels, model)
    outputs, pick = shared_prefix_forward(model, input_ids, attention_mask, logits_to_keep, layout=layout, call=score)
    if tap is not None:
        tap.keep(pick)
    return pick(outputs.log_probs), None if outputs.entropy is None else pick(outputs.entropy)


def shared_prefix_forward(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    *,
    layout: Layout | None = None,
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
        layout: force one layout; by default the cheapest that the model can run.
        call: what computes the outputs from the layout's inputs and `shift_labels`; `model` itself where not given.

    Returns:
        The outputs, and a function that takes a tensor of them, (rows, columns, ...) of the layout, to
        (N, C, ...), zero on padding.
    """
    rows = share_rows(input_ids, attention_mask, logits_to_keep)
    layout = layout or cheapest_layout(rows, expandable=carries_cache_gradients(model))
    run = {"unshared": _run_unshared, "packed": _run_packed, "expanded": _run_expanded}[layout]
    outputs, of_rows = run(model, rows, call or model)
    ignored = rows.labels == IGNORED  # (N, T)

    def pick(values: Tensor) -> Tensor:
        real = of_rows(values)  # (N, T, ...)
        wide = real.new_zeros(len(real), logits_to_keep, *real.shape[2:])  # (N, C, ...)
        wide[:, : real.shape[1]] = real.masked_fill(ignored.view(*ignored.shape, *[1] * (real.dim() - 2)), 0)
        return wide

    return outputs, pick


def carries_cache_gradients(model: nn.Module) -> bool:
    """Whether gradients may flow through cached keys and values of `model`.

    Not under active gradient checkpointing, where transformers drops caches, nor with weights sharded by FSDP or
    ZeRO-3, whose gather hooks watch module outputs only.
    """
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return False  # its first version leaves plain parameters behind
    if model.training and any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return False
    return all(type(weight) is nn.Parameter and not hasattr(weight, "ds_id") for weight in model.parameters())


def _run_unshared(model: nn.Module, rows: SharedRows, call: Callable[..., Any]) -> tuple[Any, Pick]:
    """Every row with its own copy of the prompt; what a call without a repeated prompt costs least."""
    L, (N, T) = rows.prefix_length, rows.labels.shape
    prefix = rows.prompts[rows.prompt_of_row, :L]  # (N, L)
    outputs = call(
        input_ids=torch.cat([prefix, rows.heads], dim=1),  # (N, L+T)
        attention_mask=rows.row_mask(),  # (N, L+T)
        position_ids=rows.positions(0, L + T).expand(N, -1),  # (N, L+T)
        shift_labels=torch.cat([torch.full_like(prefix, IGNORED), rows.labels], dim=1),  # (N, L+T)
    )
    return outputs, lambda values: values[:, L:]


def _run_packed(model: nn.Module, rows: SharedRows, call: Callable[..., Any]) -> tuple[Any, Pick]:
    packed = pack_rows(rows)
    outputs = call(
        input_ids=packed.input_ids,
        attention_mask=_dense_mask(model, packed.visible),
        position_ids=packed.position_ids,
        shift_labels=packed.shift_labels,
    )
    return outputs, lambda values: values.flatten(0, 1)[packed.source]  # (U, S, ...) -> (N, T, ...)


def _run_expanded(model: nn.Module, rows: SharedRows, call: Callable[..., Any]) -> tuple[Any, Pick]:
    L, (N, T), U = rows.prefix_length, rows.labels.shape, len(rows.prompts)
    unwrapped = extract_model_from_parallel(model)
    cache, keyword = DynamicCache(), cache_keyword(unwrapped)
    # Past the wrapper: DDP talks to the other processes in every forward, and their layout may have one, not two.
    unwrapped(
        input_ids=rows.prompts[:, :L],
        attention_mask=rows.prompt_mask[:, :L].long(),
        position_ids=rows.positions(0, L).expand(U, -1),  # (U, L)
        use_cache=True,
        logits_to_keep=1,
        **{keyword: cache},
    )
    cache.batch_select_indices(rows.prompt_of_row)  # keys and values (N, heads, L, width)
    outputs = call(
        input_ids=rows.heads,
        attention_mask=rows.row_mask(),  # (N, L+T)
        position_ids=rows.positions(L, L + T).expand(N, -1),  # (N, T)
        shift_labels=rows.labels,
        **{keyword: cache},
    )
    return outputs, lambda values: values


def _dense_mask(model: nn.Module, visible: Tensor) -> Tensor:
    """(U, 1, S, S) mask in the form the model's attention takes: boolean for sdpa, added to the scores for eager."""
    config = extract_model_from_parallel(model).config
    if config._attn_implementation == "sdpa":
        return visible
    dtype = next(model.parameters()).dtype
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)  # (U, 1, S, S)
