"""Where the tokens of a micro-batch go when rows with equal prompts share that prompt: index and mask bookkeeping.

Notation: N rows, U distinct prompts among them, T completion tokens, L = prompt columns less one, S = columns of a
packed row. Every layout re-enters the *last prompt token* at the head of each completion, at the position it has in
the prompt, and leaves it out of the shared prefix: its output scores the first completion token, so that label k of a
completion always sits on input token k (TRL's `shift_labels`).

Positions are the columns of TRL's own left-padded batch, so rotary and learned positions both give TRL's values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100  # label that TRL's fused head does not score
KEYS_A_TOKEN = 2000  # measured: SmolLM2-135M, float32 on a CPU; wider models afford more, so this errs against packing


@dataclass(frozen=True)
class SharedRows:
    """Rows of one call, their distinct prompts apart from their completions.

    Attributes:
        prompt_of_row: (N,) long, index of each row's prompt in `prompts`.
        prompts: (U, L+1) long, distinct prompts, left-padded.
        prompt_mask: (U, L+1) bool, False on padding.
        heads: (N, T) long, last prompt token followed by the completion less its last token.
        labels: (N, T) long, completion tokens, `IGNORED` on padding.
        offset: columns dropped on the left, where every prompt is padding; added to every position.
    """

    prompt_of_row: Tensor
    prompts: Tensor
    prompt_mask: Tensor
    heads: Tensor
    labels: Tensor
    offset: int

    @property
    def prefix_length(self) -> int:
        """L, columns of the shared prefix."""
        return self.prompts.shape[1] - 1

    def positions(self, start: int, stop: int) -> Tensor:
        """(1, stop - start) positions of the columns from start to stop, counted from the first kept column."""
        return torch.arange(start + self.offset, stop + self.offset, device=self.prompts.device)[None]

    def row_mask(self) -> Tensor:
        """(N, L+T) long, one on every real token of each row's prefix and head tokens."""
        prefix = self.prompt_mask[self.prompt_of_row, : self.prefix_length]  # (N, L)
        return torch.cat([prefix, self.labels != IGNORED], dim=1).long()


@dataclass(frozen=True)
class PackedRows:
    """One row a distinct prompt: its prefix, then its completions one after the other, right-padded.

    Attributes:
        input_ids: (U, S) long.
        position_ids: (U, S) long.
        visible: (U, 1, S, S) bool, True where the query (third axis) may see the key (fourth).
        shift_labels: (U, S) long, `IGNORED` outside completions.
        source: (N, T) long, place of each completion token in the flattened (U * S) outputs; 0 on padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    visible: Tensor
    shift_labels: Tensor
    source: Tensor


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
    """Lays each prompt and its completions out as one row, without the padding of either.

    A completion token sees its prompt's prefix and its own completion up to itself; padding sees only padding, which
    keeps every softmax finite.
    """
    L, device = rows.prefix_length, rows.prompts.device
    U, (N, T) = len(rows.prompts), rows.labels.shape
    real = torch.cat([rows.prompt_mask[:, :L].flatten(), (rows.labels != IGNORED).flatten()])  # (U*L + N*T,)
    # All tokens of the call in reading order, with the packed row each belongs to.
    tokens = torch.cat([rows.prompts[:, :L].flatten(), rows.heads.flatten()])[real]  # (K,) real tokens
    column = torch.cat([torch.arange(L, device=device).repeat(U), torch.arange(L, L + T, device=device).repeat(N)])[
        real
    ]  # (K,)
    owner = torch.cat([torch.arange(U, device=device).repeat_interleave(L), rows.prompt_of_row.repeat_interleave(T)])[
        real
    ]  # (K,)
    segment = torch.cat(
        [
            torch.zeros(U * L, device=device, dtype=torch.long),
            torch.arange(1, N + 1, device=device).repeat_interleave(T),
        ]
    )[real]  # (K,) 0 is the prefix of any prompt, n+1 the completion of row n
    labels = torch.cat([torch.full((U * L,), IGNORED, device=device), rows.labels.flatten()])[real]  # (K,)

    sizes = torch.bincount(owner, minlength=U)  # (U,)
    S = int(sizes.max())
    order = torch.argsort(owner, stable=True)  # (K,) prompt by prompt, each in reading order
    start = sizes.cumsum(0) - sizes  # (U,)
    place = torch.empty_like(order)  # (K,) column of each token in its packed row
    place[order] = torch.arange(len(order), device=device) - start[owner[order]]
    place += owner * S  # (K,) place in the flattened (U * S)

    def lay_out(values: Tensor, fill: int) -> Tensor:
        return values.new_full((U * S,), fill).scatter(0, place, values).view(U, S)  # (U, S)

    segments = lay_out(segment, -1)  # (U, S)
    earlier = torch.ones(S, S, dtype=torch.bool, device=device).tril()  # (S, S)
    same = segments[:, :, None] == segments[:, None, :]  # (U, S, S)
    prefix = (segments == 0)[:, None, :] & (segments > 0)[:, :, None]  # (U, S, S) completion looks at prefix
    source = torch.zeros(U * L + N * T, dtype=torch.long, device=device).masked_scatter(real, place)
    return PackedRows(
        input_ids=lay_out(tokens, 0),
        position_ids=lay_out(column + rows.offset, 0),
        visible=((same | prefix) & earlier)[:, None],  # (U, 1, S, S)
        shift_labels=lay_out(labels, IGNORED),
        source=source[U * L :].view(N, T),
    )


def cheapest_layout(rows: SharedRows, expandable: bool) -> str:
    """The layout with the least work for these lengths: "unshared", "packed" or "expanded".

    Work is counted in tokens through the network; attention adds queries times keys at `KEYS_A_TOKEN` to one token.
    Packing pays a dense mask, (P + G*T)^2, but no padding; expansion pays padding to the longest completion, but each
    completion looks at its prompt and itself only.

    Args:
        rows: the call's rows.
        expandable: whether the model may read a cache with gradient.

    Returns:
        The layout's name; ties go to the simpler one.
    """
    L, (N, T), U = rows.prefix_length, rows.labels.shape, len(rows.prompts)
    if U == N:
        return "unshared"
    counts = (rows.labels != IGNORED).sum(1)  # (N,)
    tokens = counts.new_zeros(U).index_add_(0, rows.prompt_of_row, counts)  # (U,) a weighted bincount is not repeatable
    S = int((rows.prompt_mask[:, :L].sum(1) + tokens).max())
    work = {"unshared": _work(N * (L + T), L + T)}
    if expandable and L > 0:
        work["expanded"] = _work(U * L, L) + _work(N * T, L + T)
    work["packed"] = _work(U * S, S)
    return min(work, key=work.__getitem__)


def _work(queries: int, keys: int) -> float:
    return queries * (1 + keys / KEYS_A_TOKEN)
