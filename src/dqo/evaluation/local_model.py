"""A causal language model in this process as a source of responses.

Every response has random numbers of its own. So it does not depend on the batch it was drawn in, up to the rounding of
a batched forward pass: about one token in a million may fall on the other side of a boundary. Equal prompts of a batch
are read once where the model allows it.
"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dqo.errors import DataError, ModelError
from dqo.evaluation.sampling import Answer, Request, check_settings, template_mark
from dqo.models.chat import check_system, rendered
from dqo.models.response import ResponseReader, TraceMarkers
from dqo.models.rollout import Sampling, generate_shared, inverse_cdf, why_not_shared

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LocalModel:
    """Draws from the model's own distribution softmax(logits / temperature), nothing cut off.

    The model's generation defaults (top-k, top-p, repetition penalty, ...) are set aside, because they would change
    the diversity that is to be measured. A tokenizer with a chat template gets the prompt as a user message; one
    without gets the plain text.

    Args:
        model: On the device it shall run on.
        tokenizer: Its tokenizer; the padding side and token it is set to do not matter.
        seed: Any whole number.
        max_new_tokens: Longest response in tokens.
        temperature: Above 0.
        batch_size: Responses generated at a time; they may belong to several prompts, or to a part of one.
        system_prompt: Message before the prompt; None leaves it to the chat template.
        chat_template_kwargs: Variables of the chat template, such as enable_thinking.
        trace_markers: Of reasoning traces, see `TraceMarkers.parse`; those that are special tokens stay
            in the responses.

    Raises:
        DataError: If a number is out of range.
        ModelError: A system prompt for a tokenizer without chat template.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        seed: int,
        max_new_tokens: int,
        temperature: float,
        batch_size: int,
        system_prompt: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        trace_markers: str = "default",
    ):
        check_settings(max_new_tokens=max_new_tokens, batch_size=batch_size, temperature=temperature)
        self.model, self.tokenizer, self.seed, self.max_new_tokens = model, tokenizer, seed, max_new_tokens
        self.temperature, self.batch_size, self.system_prompt = temperature, batch_size, system_prompt
        check_system(system_prompt, tokenizer.chat_template, model.config._name_or_path)
        self.chat_template_kwargs, self.trace_markers = chat_template_kwargs, trace_markers
        self._reader = ResponseReader(tokenizer, TraceMarkers.parse(trace_markers))
        self._encoded: dict[str, list[int]] = {}

    def settings(self) -> dict[str, Any]:
        """Model, a fingerprint of its weights, and what decides the draws."""
        # A few numbers of every weight: a model trained further under the same name is another model.
        heads = [weight.detach().flatten()[:8].float().cpu() for weight in self.model.parameters()]
        return {
            "model": self.model.config._name_or_path,
            "weights": hashlib.sha256(torch.cat(heads).numpy().tobytes()).hexdigest()[:16],
            "chat_template": template_mark(self.tokenizer.chat_template),
            "system_prompt": self.system_prompt,
            "chat_template_kwargs": self.chat_template_kwargs,
            "trace_markers": self.trace_markers,
            "prompt_opens_trace": self._opens_trace(),
            "seed": self.seed,
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
        }

    def check(self, requests: Sequence[Request]) -> None:
        """Refuse prompts that do not fit the model's context."""
        for request in requests:
            self._encode(request)

    def draw(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Answer]]:
        """The answers in order, batch by batch; the model is left as it was."""
        reason = why_not_shared(self.model) if requests else None
        if reason is not None:
            print(f"dqo: sampling reads the prompt once a response, because {reason}", file=sys.stderr)
        generate = self._shared if reason is None else self._by_host
        for first in range(0, len(requests), self.batch_size):
            batch = requests[first : first + self.batch_size]
            uniforms = torch.stack([self._uniforms(request) for request in batch])  # (N, T)
            rows = generate([self._encode(request) for request in batch], uniforms)
            yield from zip(batch, map(self._answer, rows), strict=True)

    @cached_property
    def _stops(self) -> list[int]:
        own = self.model.generation_config.eos_token_id
        stops = [self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
        return sorted({token for token in stops if token is not None})

    def _opens_trace(self) -> bool:
        """Whether the chat template ends a prompt with the beginning of a trace."""
        return bool(self.tokenizer.chat_template) and self._reader.opened(self._tokens("Hello!"))

    @property
    def _pad(self) -> int:
        return (self._stops or [0])[0]  # any token will do: the mask hides it, and an answer ends before it

    def _encode(self, request: Request) -> list[int]:
        if request.message in self._encoded:
            return self._encoded[request.message]
        ids = self._tokens(request.message)
        room = getattr(self.model.config, "max_position_embeddings", None)
        if not ids or (room and len(ids) + self.max_new_tokens > room):
            raise DataError(
                f"Prompt {request.prompt_id!r} must have at least one token and leave {self.max_new_tokens} of the "
                f"model's {room} for the response, got {len(ids)} tokens; shorten it or lower `max_new_tokens`."
            )
        known = getattr(self.model.config, "vocab_size", None)
        if known and max(ids) >= known:
            raise ModelError(
                f"expected tokens below {known}, the vocabulary of {self.model.config._name_or_path!r}, got "
                f"{max(ids)} from its tokenizer; save model and tokenizer of one kind together."
            )
        self._encoded[request.message] = ids
        return ids

    def _tokens(self, message: str) -> list[int]:
        if not self.tokenizer.chat_template:
            return self.tokenizer(message)["input_ids"]
        text = rendered(message, self.tokenizer, self.system_prompt, self.chat_template_kwargs)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]  # the template wrote them already

    def _shared(self, prompts: list[list[int]], uniforms: Tensor) -> list[list[int]]:
        return generate_shared(
            self.model,
            prompts,
            sampling=Sampling(temperature=self.temperature),
            max_new_tokens=self.max_new_tokens,
            eos_token_ids=self._stops,
            pad_token_id=self._pad,
            uniforms=uniforms,
        )[0]

    def _by_host(self, prompts: list[list[int]], uniforms: Tensor) -> list[list[int]]:
        width = max(map(len, prompts))
        padding = [width - len(ids) for ids in prompts]
        ids = [[self._pad] * pad + ids for pad, ids in zip(padding, prompts, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in padding]
        with self._plain_decoding():
            whole = self.model.generate(  # (N, width + T)
                input_ids=torch.tensor(ids, device=self.model.device),  # (N, width)
                attention_mask=torch.tensor(mask, device=self.model.device),  # (N, width)
                logits_processor=[SeededChoice(uniforms, self.temperature, width)],
            )
        return whole[:, width:].tolist()

    @contextmanager
    def _plain_decoding(self) -> Iterator[None]:
        """The model in evaluation mode and without generation defaults of its own, and back again."""
        from transformers import GenerationConfig

        was_training, own = self.model.training, self.model.generation_config
        plain = GenerationConfig(
            max_new_tokens=self.max_new_tokens, do_sample=False, eos_token_id=self._stops or None,
            pad_token_id=self._pad,
        )  # fmt: skip
        self.model.eval()
        self.model.generation_config = plain
        try:
            yield
        finally:
            self.model.generation_config = own
            self.model.train(was_training)

    def _answer(self, tokens: list[int]) -> Answer:
        length = next((place for place, token in enumerate(tokens) if token in self._stops), None)
        return self._reader.decode(tokens[:length]), "length" if length is None else "eos"

    def _uniforms(self, request: Request) -> Tensor:
        generator = torch.Generator().manual_seed(request.seed(self.seed))
        return torch.rand(self.max_new_tokens, generator=generator, dtype=torch.float64)  # (T,)


class SeededChoice:
    """A logits processor that makes greedy decoding take the token its own random numbers choose.

    Args:
        uniforms: (N, T) numbers in [0, 1), one a row and step.
        temperature: Logits are divided by it.
        start: Tokens of the prompts.
    """

    def __init__(self, uniforms: Tensor, temperature: float, start: int):
        self.uniforms, self.temperature, self.start = uniforms, temperature, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """All scores -inf, except that of the drawn token, which greedy decoding then takes."""
        probabilities = (scores.float() / self.temperature).softmax(dim=-1)  # (N, V)
        uniforms = self.uniforms[:, input_ids.shape[1] - self.start].to(scores.device)  # (N,)
        token = inverse_cdf(probabilities, uniforms)  # (N,)
        return torch.full_like(scores, float("-inf")).scatter_(1, token[:, None], 0.0)  # (N, V)
