"""Samples a group of responses with its prompt read once.

`generate` of transformers runs the prompt of a group of G responses G times. Here each distinct prompt is prefilled
once, its G rows read its keys and values together, and rows that have ended leave the batch, so that the last long
response does not keep the others busy.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from dqo.models.rollout_cache import RolloutCache, attending_in_groups, cache_keyword
from dqo.models.weights import first_words

Numbers = Callable[[Tensor, int], Tensor]  # rows still running, (R,), and step -> float64 in [0, 1), (R,)

# Settings of `generate` that a rollout applies.
_APPLIED = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens", "eos_token_id"}
# They change neither which tokens are drawn, nor how likely, nor where a response ends.
_INERT = {
    "bos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id", "max_length", "use_cache",
    "length_penalty", "early_stopping", "renormalize_logits", "output_attentions", "output_hidden_states",
    "output_scores", "output_logits", "return_dict_in_generate", "transformers_version", "_from_model_config",
    "disable_compile", "compile_config", "prefill_chunk_size", "low_memory", "is_assistant", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind",
}  # fmt: skip
_BLOCK = 256  # tokens of the vocabulary summed at once
_BY_LENGTH = ("dynamic", "longrope")  # kinds of rotary embedding whose frequencies follow the longest position
_WINDOWS = ("sliding_window", "attention_chunk_size", "attention_window_size", "window_size")


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; names, neutral values and order of application are those of `generate`.

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
        """Makes the processors of transformers for the settings that are not neutral."""
        chosen = LogitsProcessorList()
        if self.repetition_penalty != 1.0:
            chosen.append(transformers.RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.temperature not in (0, 1):
            chosen.append(transformers.TemperatureLogitsWarper(float(self.temperature)))
        if self.top_k:
            chosen.append(transformers.TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            chosen.append(transformers.TopPLogitsWarper(self.top_p))
        if self.min_p is not None:
            chosen.append(transformers.MinPLogitsWarper(self.min_p))
        return chosen


def effective_sampling(model: PreTrainedModel, given: GenerationConfig) -> tuple[Sampling, list[str]]:
    """Finds how `model.generate(generation_config=given)` draws, and the settings that a rollout cannot apply."""
    # Settings of the call come first, then the model's own, then defaults.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, _ = base._prepare_generation_config(given)
    neutral = config._get_default_generation_params() | {"do_sample": True}
    beyond = [
        name
        for name, value in config.to_dict().items()
        if name not in _APPLIED | _INERT and value not in (None, neutral.get(name), [], {})
    ]
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    return Sampling(**{name: getattr(config, name) for name in names}), sorted(beyond)


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
    uniforms: Tensor | None = None,
) -> tuple[list[list[int]], list[list[float]]]:
    """Samples one completion per row, prefilling equal prompts once.

    Args:
        model: causal LM that `why_not_shared` accepts, unwrapped for generation (not sharded: rows leave the
            batch at different times on different processes).
        prompt_ids: N token lists of any lengths >= 1; equal ones may stand anywhere.
        sampling: how tokens are drawn.
        max_new_tokens: longest completion, >= 1.
        eos_token_ids: tokens that end a completion; they stay part of it.
        pad_token_id: fills prompts on the left.
        generator: source of randomness; torch's global one where not given.
        uniforms: (N, max_new_tokens) float64 in [0, 1) that decide in the generator's place, so that a row's tokens do
            not depend on which other rows share its batch.

    Returns:
        N completions, and for each of their tokens the log-probability (nats) of the distribution it was drawn from.
        Without top-k, top-p, min-p and repetition penalty that is the policy's own at this temperature, which a forward
        over the completion reproduces; with them, it is that of the truncated distribution.
    """
    uniforms = None if uniforms is None else uniforms.to(model.device)  # (N, T)

    def draw_numbers(rows: Tensor, step: int) -> Tensor:
        if uniforms is not None:
            return uniforms[rows, step]  # (R,)
        return torch.rand(len(rows), dtype=torch.float64, device=rows.device, generator=generator)  # (R,)

    was_training = model.training
    model.eval()
    try:
        with attending_in_groups(model):
            return _Rollout(model, prompt_ids, pad_token_id).run(sampling, max_new_tokens, eos_token_ids, draw_numbers)
    finally:
        model.train(was_training)


@contextmanager
def full_float32() -> Iterator[None]:
    """Lets products of float32 matrices be float32's own inside, and brings back what was set before."""
    # TF32 (`trainer.tf32`, `torch.set_float32_matmul_precision`) rounds factors to 11 bits: log-probabilities then move
    # by some thousandths whatever the layout, and a check of the layout at float32's rounding would refuse every model.
    # torch has an older and a newer setting and refuses to multiply where they disagree, so both are set and restored.
    parts = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    newer = [part for part in parts if hasattr(part, "fp32_precision")]  # torch 2.9 and later
    before = [part.fp32_precision for part in newer]
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        # The newer one was used, after which torch refuses to say.
        older = None
    _set("highest" if older else None, newer, ["ieee"] * len(newer))
    try:
        yield
    finally:
        _set(older, newer, before)


def _set(older: str | None, newer: list, precisions: list[str]) -> None:
    if older is not None:
        # This changes the newer one too, which may have said nothing of its own.
        torch.set_float32_matmul_precision(older)
    for part, precision in zip(newer, precisions, strict=True):
        part.fp32_precision = precision


def why_not_shared(model: PreTrainedModel) -> str | None:
    """Says why `generate_shared` would not sample from this model's own distribution; None where it does."""
    if model.config is not model.config.get_text_config():
        return f"{model.config.model_type} takes more than text."
    return why_layers(model) or why_not_in_groups(model)


def why_layers(model: nn.Module) -> str | None:
    """Says why the layers of a model, perhaps wrapped by PEFT, are more than full attention, or None."""
    # A row must see its whole past through attention alone. Windows and recurrent state are read off the configuration,
    # because they show on long sequences only.
    config = model.config
    if getattr(model.get_base_model() if hasattr(model, "get_base_model") else model, "_is_stateful", False):
        return "its recurrent layers would carry state from one response into the next."
    rope = getattr(config, "rope_parameters", None) or {}  # of all layers, or one per kind of layer
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    if moving := sorted(kinds.intersection(_BY_LENGTH)):
        return f"its rotary frequencies depend on the length of the row (rope_type {', '.join(moving)})."
    if (layers := getattr(config, "layer_types", None)) is not None:
        others = sorted(set(layers) - {"full_attention"})
        return f"it has layers of type {', '.join(others)} beside full attention." if others else None
    if getattr(config, "use_sliding_window", True):
        for name in _WINDOWS:
            if (width := getattr(config, name, None)) is not None:
                return f"its attention reaches back {width} tokens only ({name})."
    return None


@torch.no_grad()
@full_float32()
def why_not_in_groups(model: PreTrainedModel) -> str | None:
    """Says by numbers why `generate_shared` would not sample from this model's own distribution; None where it does."""
    # A few tokens are drawn after made-up prompts of two lengths, and their log-probabilities compared with a plain
    # forward, without TF32, whose rounding is no matter of the layout.
    ids = [[token % model.config.vocab_size for token in range(3, stop)] for stop in (9, 9, 8)]
    generator = torch.Generator(model.device).manual_seed(0)
    settings = {"max_new_tokens": 3, "eos_token_ids": [], "pad_token_id": 0, "generator": generator}
    was_training = model.training
    try:
        completions, logprobs = generate_shared(model, ids, sampling=Sampling(), **settings)
        model.eval()
        for prompt, completion, ours in zip(ids, completions, logprobs, strict=True):
            row = torch.tensor([prompt + completion], device=model.device)  # (1, L+3)
            plain = model(input_ids=row).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)  # (3, V)
            plain = plain[range(len(completion)), completion].cpu()  # (3,)
            error = (plain - torch.tensor(ours)).abs().max().item()
            # Rounding of bf16 is of order .01; NaN is an error too.
            if not error < (1e-3 if model.dtype == torch.float32 else 0.2):
                return f"its log-probabilities change by {error:.1g} when rows share the keys and values of a prompt."
    except Exception as error:
        # Any failure of a foreign architecture is the answer.
        return f"its attention does not take shared keys and values ({first_words(error)})."
    finally:
        model.train(was_training)
    return None


class _Rollout:
    """State of one call: the rows still running, what they have seen, and what each row has produced."""

    def __init__(self, model: PreTrainedModel, prompt_ids: Sequence[Sequence[int]], pad_token_id: int) -> None:
        self.model, self.cache_keyword = model, cache_keyword(model)
        distinct = sorted(set(map(tuple, prompt_ids)))  # U prompts
        place = {prompt: u for u, prompt in enumerate(distinct)}
        prompt_of_row = torch.tensor([place[tuple(ids)] for ids in prompt_ids], device=model.device)  # (N,)
        self.prompt_of_row, self.rows = prompt_of_row.sort(stable=True)  # (N,) each; rows still running, by prompt
        L = max(map(len, distinct))
        padded = [[pad_token_id] * (L - len(ids)) + list(ids) for ids in distinct]
        masks = [[0] * (L - len(ids)) + [1] * len(ids) for ids in distinct]
        self.ids = torch.tensor(padded, device=model.device)  # (U, L), then (R, L+t) of the R rows still running
        self.mask = torch.tensor(masks, device=model.device)  # like ids
        self.completions: list[list[int]] = [[] for _ in prompt_ids]
        self.logprobs: list[list[float]] = [[] for _ in prompt_ids]

    def run(
        self, sampling: Sampling, max_new_tokens: int, eos_token_ids: Sequence[int], numbers: Numbers
    ) -> tuple[list[list[int]], list[list[float]]]:
        cache, processors = RolloutCache(room=max_new_tokens), sampling.processors()
        eos = torch.tensor(list(eos_token_ids), device=self.model.device)
        logits = self._forward(self.ids, cache)[self.prompt_of_row]  # (N, V)
        cache.start(self.prompt_of_row, self.mask)
        self.ids, self.mask = self.ids[self.prompt_of_row], self.mask[self.prompt_of_row]  # (N, L)
        for step in range(max_new_tokens):
            logits = processors(self.ids, logits)  # (R, V)
            total = logits.logsumexp(dim=-1, keepdim=True)  # (R, 1)
            if sampling.temperature == 0:
                tokens = logits.argmax(-1)  # (R,)
            else:
                tokens = inverse_cdf((logits - total).exp_(), numbers(self.rows, step))  # (R,)
            self._note(tokens, (logits.gather(1, tokens[:, None]) - total).squeeze(1))
            running = (~torch.isin(tokens, eos)).nonzero().squeeze(1)  # (R',)
            if step + 1 == max_new_tokens or len(running) == 0:
                break
            if len(running) < len(tokens):
                # Rows that have ended leave everything.
                cache.keep(running)
                tokens, self.rows = tokens[running], self.rows[running]
                self.ids, self.mask = self.ids[running], self.mask[running]
            logits = self._forward(tokens[:, None], cache)  # (R', V)
        return self.completions, self.logprobs

    def _note(self, tokens: Tensor, logps: Tensor) -> None:
        """Keeps what each running row has drawn, (R,) each."""
        for row, token, logp in zip(self.rows.tolist(), tokens.tolist(), logps.tolist(), strict=True):
            self.completions[row].append(token)
            self.logprobs[row].append(logp)
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)  # (R, L+t)
        self.mask = torch.cat([self.mask, torch.ones_like(tokens)[:, None]], dim=1)  # (R, L+t)

    def _forward(self, input_ids: Tensor, cache: RolloutCache) -> Tensor:
        """Next-token logits after `input_ids`, the newest columns of the rows: (R, V) float32."""
        prefill = cache.rows is None
        positions = self.mask.cumsum(1) - 1 if prefill else self.mask.sum(1, keepdim=True) - 1
        position_ids = positions.clamp(min=0)  # (U, L) or (R, 1)
        outputs = self.model(
            input_ids=input_ids,
            # After the prefill the cache knows the padding.
            attention_mask=self.mask if prefill and (self.mask == 0).any() else None,
            position_ids=position_ids,
            use_cache=True,
            logits_to_keep=1,
            **{self.cache_keyword: cache},
        )
        return outputs.logits[:, -1].float()


def inverse_cdf(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Draws one token per row from one random number per row, where `torch.multinomial` takes V: (R,).

    Probabilities, (R, V), may have any scale per row; the numbers, (R,) float64, lie in [0, 1).
    """
    # In two stages, a block of tokens and then a token of it, so that the sums in float64, in which a large vocabulary
    # loses no token, are over blocks and not over all tokens. The first place where a sum exceeds the drawn number is
    # never a token of probability zero.
    R, V = probabilities.shape
    padded = torch.nn.functional.pad(probabilities, (0, -V % _BLOCK)).view(R, -1, _BLOCK)  # (R, blocks, _BLOCK)
    mass = _running_sum(padded.sum(-1, dtype=torch.float64))  # (R, blocks)
    drawn = uniforms[:, None] * mass[:, -1:]  # (R, 1)
    block = torch.searchsorted(mass, drawn, right=True).clamp(max=mass.shape[1] - 1)  # (R, 1)
    before = torch.nn.functional.pad(mass, (1, 0)).gather(1, block)  # (R, 1) mass of the blocks before
    within = _running_sum(padded[torch.arange(R, device=mass.device), block[:, 0]].double())  # (R, _BLOCK)
    token = torch.searchsorted(within, drawn - before, right=True)  # (R, 1)
    # Rounding may not lead past the last possible token.
    last = (within < within[:, -1:]).sum(-1, keepdim=True)  # (R, 1)
    return (block * _BLOCK + torch.minimum(token, last)).squeeze(1)


def _running_sum(x: Tensor) -> Tensor:
    """Sums along the last axis; on the CPU where only repeatable algorithms are allowed, of which CUDA has none."""
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        return x.cpu().cumsum(-1).to(x.device)
    return x.cumsum(-1)
