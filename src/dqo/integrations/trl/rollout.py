"""Sampling a group of responses with its prompt read once.

Host `generate` runs the prompt of a group of G responses G times. Here each distinct prompt is prefilled once, its keys
and values are repeated to the G rows, and rows that have ended leave the batch, so that the last long response does not
keep the others busy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dqo.integrations.trl.rollout_cache import RolloutCache


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; names, neutral values and order of application are those of the host's `generate`.

    Attributes:
        temperature: logits are divided by it; 0 takes the most likely token.
        top_k: keep that many most likely tokens; 0 keeps all.
        top_p: keep the most likely tokens up to this mass; 1 keeps all.
        min_p: keep tokens at least this likely relative to the likeliest; None keeps all.
        repetition_penalty: divides the scores of tokens seen before; 1 leaves them.
    """

    temperature: float = 1.0
    top_k: int | None = 0
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def processors(self) -> LogitsProcessorList:
        """The host's processors for the settings that are not neutral."""
        chosen = LogitsProcessorList()
        if self.repetition_penalty != 1.0:
            chosen.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.temperature not in (0, 1):
            chosen.append(TemperatureLogitsWarper(float(self.temperature)))
        if self.top_k:
            chosen.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            chosen.append(TopPLogitsWarper(self.top_p))
        if self.min_p is not None:
            chosen.append(MinPLogitsWarper(self.min_p))
        return chosen


@torch.no_grad()
def generate_shared(
    model: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    generator: torch.Generator | None = None,
) -> tuple[list[list[int]], list[list[float]]]:
    """Samples one completion a row, prefilling equal prompts once.

    Args:
        model: causal LM that `supports_shared_prefix` accepts, unwrapped for generation (not sharded: rows leave the
            batch at different times on different processes).
        prompt_ids: N token lists of any lengths >= 1; equal ones may stand anywhere.
        sampling: how tokens are drawn.
        max_new_tokens: longest completion, >= 1.
        eos_token_ids: tokens that end a completion; they stay part of it.
        pad_token_id: fills prompts on the left.
        generator: source of randomness; torch's global one where not given.

    Returns:
        N completions, and for each of their tokens the log-probability (nats) of the distribution it was drawn from.
        Without top-k, top-p, min-p and repetition penalty that is the policy's own at this temperature, which a forward
        over the completion reproduces; with them, it is that of the truncated distribution.
    """
    was_training = model.training
    model.eval()
    try:
        return _Rollout(model, prompt_ids, sampling, eos_token_ids, pad_token_id, generator).run(max_new_tokens)
    finally:
        model.train(was_training)


class _Rollout:
    """State of one call: the rows still running, what they have seen, and what each row has produced."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        generator: torch.Generator | None,
    ) -> None:
        self.model, self.generator = model, generator
        self.greedy, self.processors = sampling.temperature == 0, sampling.processors()
        self.eos = torch.tensor(list(eos_token_ids), device=model.device)
        self.distinct = sorted(set(map(tuple, prompt_ids)))  # U prompts
        place = {prompt: u for u, prompt in enumerate(self.distinct)}
        self.prompt_of_row = torch.tensor([place[tuple(ids)] for ids in prompt_ids], device=model.device)  # (N,)
        L = max(map(len, self.distinct))
        padded = [[pad_token_id] * (L - len(ids)) + list(ids) for ids in self.distinct]
        masks = [[0] * (L - len(ids)) + [1] * len(ids) for ids in self.distinct]
        self.ids = torch.tensor(padded, device=model.device)  # (U, L), then (R, L+t) of the R rows still running
        self.mask = torch.tensor(masks, device=model.device)  # like ids
        self.rows = torch.arange(len(prompt_ids), device=model.device)  # (R,) which rows those are
        self.completions: list[list[int]] = [[] for _ in prompt_ids]
        self.logprobs: list[list[float]] = [[] for _ in prompt_ids]

    def run(self, max_new_tokens: int) -> tuple[list[list[int]], list[list[float]]]:
        cache = RolloutCache(room=max_new_tokens)
        logits = self._forward(self.ids, cache)[self.prompt_of_row]  # (N, V)
        cache.batch_select_indices(self.prompt_of_row)
        self.ids, self.mask = self.ids[self.prompt_of_row], self.mask[self.prompt_of_row]  # (N, L)
        for step in range(max_new_tokens):
            tokens = self._draw(logits)  # (R,)
            running = (~torch.isin(tokens, self.eos)).nonzero().squeeze(1)  # (R',)
            if step + 1 == max_new_tokens or len(running) == 0:
                break
            if len(running) < len(tokens):
                tokens = self._keep(running, cache, tokens)
            logits = self._forward(tokens[:, None], cache)  # (R', V)
        return self.completions, self.logprobs

    def _forward(self, input_ids: Tensor, cache: RolloutCache) -> Tensor:
        """Next-token logits after `input_ids`, the newest columns of the rows: (R, V) float32."""
        position_ids = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]  # (R, 1 or L)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=self.mask if (self.mask == 0).any() else None,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return outputs.logits[:, -1].float()

    def _draw(self, logits: Tensor) -> Tensor:
        """One token a running row, noted with its log-probability: (R,)."""
        logps = self.processors(self.ids, logits).log_softmax(dim=-1)  # (R, V)
        tokens = logps.argmax(dim=-1) if self.greedy else _inverse_cdf(logps, self.generator)  # (R,)
        drawn = logps.gather(1, tokens[:, None]).squeeze(1)  # (R,)
        for row, token, logp in zip(self.rows.tolist(), tokens.tolist(), drawn.tolist(), strict=True):
            self.completions[row].append(token)
            self.logprobs[row].append(logp)
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)  # (R, L+t)
        self.mask = torch.cat([self.mask, torch.ones_like(tokens)[:, None]], dim=1)  # (R, L+t)
        return tokens

    def _keep(self, running: Tensor, cache: RolloutCache, tokens: Tensor) -> Tensor:
        """Drops rows that have ended from everything: their tokens so far, mask, cache and place in the answer."""
        cache.batch_select_indices(running)
        self.ids, self.mask, self.rows = self.ids[running], self.mask[running], self.rows[running]
        return tokens[running]


def _inverse_cdf(logps: Tensor, generator: torch.Generator | None) -> Tensor:
    """One draw a row from (R, V) log-probabilities: (R,). Unlike `torch.multinomial`, one random number a row, not V.

    In float64, so that the sum over a large vocabulary loses no token; the first place where the sum exceeds the drawn
    number is never a token of probability zero.
    """
    mass = logps.double().exp().cumsum(dim=-1)  # (R, V)
    drawn = torch.rand(len(mass), 1, dtype=mass.dtype, device=mass.device, generator=generator)  # (R, 1) in [0, 1)
    tokens = torch.searchsorted(mass, drawn * mass[:, -1:], right=True)  # (R, 1)
    return tokens.squeeze(1).clamp(max=mass.shape[1] - 1)
