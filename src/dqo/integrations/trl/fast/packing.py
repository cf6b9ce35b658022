"""Per-token log-probabilities of a group's responses with their prompt computed once, in forward and backward.

TRL runs the prompt of a group of G responses G times. Here one packed row holds a prompt and m of its completions under
a block mask; m = 1 is the plain row. It goes through the model's own forward and TRL's fused head
(`fused_lm_head=True`, `shift_labels=`), so wrappers see ordinary calls, and temperature and logit scaling are TRL's.
On a CPU `head.py` stands in for the innermost part of that head.

Every completion re-enters the *last prompt token* at its head, at the position it has in the prompt, and leaves it out
of the shared prefix: its output scores the first completion token, so that label k of a completion always sits on input
token k. Positions are the columns of TRL's left-padded batch.

Notation: N rows, U packed rows, T completion tokens, L = prompt columns less one, S = columns of a packed row.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel, is_peft_model
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from dqo.integrations.trl.fast.attention import by_blocks, mask_of
from dqo.integrations.trl.fast.head import faster_head

Pick = Callable[[Tensor], Tensor]  # a tensor of the packed positions, (U, S, ...) -> (N, C, ...)


def shared_prefix_logps(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, completions: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Computes log-probabilities and entropies of completion tokens; rows with equal prompts share that prompt.

    Equals TRL's `_get_per_token_logps_and_entropies` in values and gradients, up to float rounding, for every model
    that `why_not_shared` accepts. Rows may come in any order and as parts of groups. Calls with equal rows give
    equal values to the last bit, whatever the grad mode.

    Args:
        model: causal LM prepared by TRL's `add_fused_lm_head`, possibly wrapped (PEFT, DDP).
        input_ids: (N, P+C) long, prompts left-padded, completions right-padded.
        attention_mask: (N, P+C), zero on padding.
        logits_to_keep: C, completion columns.
        completions: completions per packed row; by default the number with the least work.

    Returns:
        Log-probabilities (N, C) in nats, zero on padding, and entropies (N, C) in nats, zero on padding, or None
        where the fused head was made without them.
    """
    rows = input_ids, attention_mask, logits_to_keep
    outputs, pick = shared_prefix_forward(partial(score_labels, model), rows, completions)
    return pick(outputs.log_probs), None if outputs.entropy is None else pick(outputs.entropy)


def shared_prefix_forward(
    call: Callable, rows: tuple[Tensor, Tensor, int], completions: int | None = None
) -> tuple[Any, Pick]:
    """Runs one forward of rows that share their prompts.

    The output that belongs to a completion token is that of the position *before* it: the one that its
    log-probability is computed from, and the state whose value a critic estimates.

    Args:
        call: what computes the outputs from the packed inputs and `shift_labels`, with "sdpa" as attention.
        rows: (N, P+C) ids, (N, P+C) mask and C, as for `shared_prefix_logps`.
        completions: per packed row.

    Returns:
        The outputs, and a function that takes a tensor of them, (U, S, ...), to (N, C, ...), zero on padding.
    """
    shared = share_rows(*rows)
    packed = pack_rows(split_groups(shared, completions))
    outputs = call(
        input_ids=packed.input_ids,
        attention_mask=packed.visible,
        position_ids=packed.position_ids,
        shift_labels=packed.shift_labels,
    )
    ignored = shared.labels == IGNORED  # (N, T)

    def pick(values: Tensor) -> Tensor:
        real = values.flatten(0, 1)[packed.source]  # (N, T, ...)
        wide = real.new_zeros(len(real), rows[2], *real.shape[2:])  # (N, C, ...)
        wide[:, : real.shape[1]] = real.masked_fill(ignored.view(*ignored.shape, *[1] * (real.dim() - 2)), 0)
        return wide

    return outputs, pick


def score_labels(model: nn.Module, *, shift_labels: Tensor, **inputs: Any) -> Any:
    """Calls `model(..., fused_lm_head=True)` without the head's work on ignored positions.

    Args:
        model: causal LM prepared by TRL's `add_fused_lm_head`, possibly wrapped (PEFT, DDP, FSDP).
        shift_labels: (U, S) long, the token to score after each position, `IGNORED` where there is none.
        **inputs: of the model, U rows of S positions.

    Returns:
        The model's outputs; `log_probs` and `entropy` (None where the head was made without it) are (U, S), zero on
        ignored positions.
    """
    # Outside CUDA TRL's head projects every position to the vocabulary, in forward and again in backward: with a prompt
    # of 512 tokens and eight completions of 64, half of that work is for prompt positions that nobody scores.
    labelled = shift_labels != IGNORED  # (U, S)
    if not labelled.any():  # TRL's head wants a position, and ignores this one
        labelled[0, 0] = True

    def keep_labelled(module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[labelled][None]  # (1, K, D)
        return output

    policy = extract_model_from_parallel(model)
    backbone = (policy.get_base_model() if is_peft_model(policy) else policy).base_model
    hook = backbone.register_forward_hook(keep_labelled)
    try:
        with faster_head():
            outputs = model(**inputs, shift_labels=shift_labels[labelled][None], fused_lm_head=True)
    finally:
        hook.remove()
    outputs.log_probs = _spread(outputs.log_probs, labelled)
    outputs.entropy = None if outputs.entropy is None else _spread(outputs.entropy, labelled)
    return outputs


def _spread(values: Tensor, labelled: Tensor) -> Tensor:
    """(1, K) of the labelled positions -> (U, S), zero elsewhere."""
    return values.new_zeros(labelled.shape).masked_scatter(labelled, values)  # (U, S)


IGNORED = -100  # label that TRL's fused head does not score
# Keys whose attention under a dense mask costs a query as much as the rest of the network. Measured: SmolLM2-135M,
# float32 on a CPU; wider models afford more, so this errs against packing.
KEYS_PER_TOKEN = 2000
# Work that is as good as the least: two equal runs differ by as much. Then memory decides, which follows the tokens. A
# group of (128, 512, 8) took the same time with one and two completions a row, and 2.6 against 2.3 GB, in bf16 2.3
# against 1.8 (8 layers of that model, forward and backward, on a CPU).
NEAR = 1.08


@dataclass(frozen=True)
class SharedRows:
    """Rows of one call, their prompts apart from their completions."""

    prompt_of_row: Tensor  # (N,) long, index of each row's prompt in `prompts`
    prompts: Tensor  # (U, L+1) long, left-padded, one per packed row
    prompt_mask: Tensor  # (U, L+1) bool, False on padding
    heads: Tensor  # (N, T) long, last prompt token followed by the completion less its last token
    labels: Tensor  # (N, T) long, completion tokens, `IGNORED` on padding
    offset: int  # columns dropped on the left, where every prompt is padding; added to every position


@dataclass(frozen=True)
class PackedRows:
    """One row per prompt of `SharedRows`: its prefix, then its completions one after the other, right-padded."""

    input_ids: Tensor  # (U, S) long
    position_ids: Tensor  # (U, S) long
    visible: Tensor | BlockMask  # (U, 1, S, S), what each position may see
    shift_labels: Tensor  # (U, S) long, `IGNORED` outside completions
    source: Tensor  # (N, T) long, place of each completion token in the flattened (U * S) outputs; 0 on padding


def share_rows(input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int) -> SharedRows:
    """Splits TRL's batch into distinct prompts and completions, dropping columns that are padding in every row.

    Args:
        input_ids: (N, P+C) long, prompts left-padded, completions right-padded.
        attention_mask: (N, P+C), zero on padding.
        logits_to_keep: C, completion columns.

    Returns:
        The rows. A call without one real completion token keeps one column, all of it ignored.
    """
    valid = attention_mask.bool()  # (N, P+C)
    prompt_valid, completion_valid = valid[:, :-logits_to_keep], valid[:, -logits_to_keep:]  # (N, P), (N, C)
    T = max(int(completion_valid.sum(1).max()), 1)
    completions, completion_valid = input_ids[:, -logits_to_keep:][:, :T], completion_valid[:, :T]  # (N, T)
    # Padding must not tell two prompts apart, and no token id is negative.
    keys = input_ids[:, :-logits_to_keep].masked_fill(~prompt_valid, -1)  # (N, P)
    prompts, prompt_of_row = torch.unique(keys, dim=0, return_inverse=True)  # (U, P), (N,)
    offset = int((prompts < 0).sum(1).min())
    prompts = prompts[:, offset:]  # (U, L+1)
    prompt_mask = prompts >= 0  # (U, L+1)
    last = input_ids[:, -logits_to_keep - 1 : -logits_to_keep]  # (N, 1) left padding: the last column is always real
    return SharedRows(
        prompt_of_row=prompt_of_row,
        prompts=prompts.clamp(min=0),
        prompt_mask=prompt_mask,
        heads=torch.cat([last, completions[:, :-1]], dim=1),  # (N, T)
        labels=completions.masked_fill(~completion_valid, IGNORED),  # (N, T)
        offset=offset,
    )


def pack_rows(rows: SharedRows) -> PackedRows:
    """Lays each prompt and its completions out as one row, without the padding of either."""
    L, device = rows.prompts.shape[1] - 1, rows.prompts.device
    U, (N, T) = len(rows.prompts), rows.labels.shape
    slot = _rank(rows.prompt_of_row)  # (N,)
    m = int(slot.max()) + 1

    def beside(prefix: Tensor, completions: Tensor) -> Tensor:
        """(U, L) and (N, T) -> (U, L + m*T)."""
        wide = completions.new_zeros(U, m, T).index_put((rows.prompt_of_row, slot), completions)  # (U, m, T)
        return torch.cat([prefix, wide.flatten(1)], dim=1)

    real = beside(rows.prompt_mask[:, :L], rows.labels != IGNORED)  # (U, L + m*T)
    S = int(real.sum(1).max())
    order = (~real).long().argsort(dim=1, stable=True)[:, :S]  # (U, S) real positions first, in reading order
    filled = real.gather(1, order)  # (U, S)

    def lay_out(prefix: Tensor, completions: Tensor, fill: int) -> Tensor:
        """(U, L) and (N, T) -> (U, S)."""
        return beside(prefix, completions).gather(1, order).masked_fill(~filled, fill)

    column = torch.arange(L + T, device=device) + rows.offset  # (L + T,)
    none = torch.zeros(U, L, dtype=torch.long, device=device)  # (U, L)
    segments = lay_out(none, (slot + 1)[:, None].expand(N, T), m + 1)  # (U, S) the prefix, completions, padding
    place = real.cumsum(1) - 1 + S * torch.arange(U, device=device)[:, None]  # (U, L + m*T) in the flattened (U * S)
    source = place[:, L:].view(U, m, T)[rows.prompt_of_row, slot]  # (N, T)
    return PackedRows(
        input_ids=lay_out(rows.prompts[:, :L], rows.heads, 0),
        position_ids=lay_out(column[:L].expand(U, L), column[L:].expand(N, T), 0),
        visible=mask_of(segments),
        shift_labels=lay_out(none + IGNORED, rows.labels, IGNORED),
        source=source.masked_fill(rows.labels == IGNORED, 0),
    )


def _rank(groups: Tensor) -> Tensor:
    """Rows of the same group that come before each row: (N,)."""
    return (groups[:, None] == groups).tril(-1).sum(1)


def split_groups(rows: SharedRows, completions: int | None = None) -> SharedRows:
    """Repeats prompts so that each has at most so many completions.

    Args:
        rows: the call's rows, each distinct prompt once.
        completions: m, completions per packed row; by default the number with the least work.

    Returns:
        The same rows, prompts in their order, the completions of each in theirs.
    """
    # Old, reference and new log-probabilities of a ratio must come from one arithmetic. So the number follows from the
    # rows and their device alone: never from the grad mode, gradient checkpointing or the model.
    packs, pack_of_row = _divide(rows.prompt_of_row, completions or _cheapest(rows))  # (U,), (N,)
    prompts = packs // len(pack_of_row)  # (U,)
    return replace(
        rows, prompt_of_row=pack_of_row, prompts=rows.prompts[prompts], prompt_mask=rows.prompt_mask[prompts]
    )


def _divide(prompt_of_row: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Key of each packed row of at most m completions, N * prompt and more: (U,), and where each row goes: (N,)."""
    return torch.unique(prompt_of_row * len(prompt_of_row) + _rank(prompt_of_row) // m, return_inverse=True)


def _cheapest(rows: SharedRows) -> int:
    """Completions per packed row with about the least work, of tokens and of queries times keys, and fewest tokens."""
    counts = (rows.labels != IGNORED).sum(1).cpu()  # (N,) so that the device is waited for once
    prefix = rows.prompt_mask[:, :-1].sum(1).cpu()  # one per prompt
    prompt_of_row = rows.prompt_of_row.cpu()  # (N,)

    def cost(m: int) -> tuple[float, int]:
        packs, pack_of_row = _divide(prompt_of_row, m)  # (U,), (N,)
        lengths = prefix[packs // len(counts)].index_add(0, pack_of_row, counts)  # (U,)
        S = int(lengths.max())  # the others are padded
        tokens = len(lengths) * S
        # By blocks a query costs the keys that it sees, which are as many whatever m.
        return tokens * (1.0 if by_blocks(rows.labels.device) else 1 + S / KEYS_PER_TOKEN), tokens

    largest = int(prompt_of_row.bincount().max())
    costs = {m: cost(m) for m in {1, largest, *(2**power for power in range(1, largest.bit_length()))}}
    least = min(work for work, _ in costs.values())
    return min((tokens, m) for m, (work, tokens) in costs.items() if work <= NEAR * least)[1]
