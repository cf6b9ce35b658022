"""The two sources of responses: a model in this process, and an OpenAI-compatible server.

Each draws from the model's own distribution softmax(logits / temperature), nothing cut off: generation defaults (top-k,
top-p, penalties) are set aside, because they would change the diversity that is to be measured.
"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dqo.errors import DataError
from dqo.evaluation.sampling import Answer, Request, Source
from dqo.models.chat import ResponseReader, TraceMarkers, check_system, conversation, rendered
from dqo.models.endpoint import Endpoint, Unanswered
from dqo.models.endpoint_replies import Reply
from dqo.models.policy import stop_tokens

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Neutral values of what these servers take from the model's generation_config.json, or from defaults of their own.
# Elsewhere top_p is 1 by the definition of the API and is not sent.
_NEUTRAL = {
    "vllm": {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "sglang": {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "llamacpp": {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
    "library": {"top_p": 1.0},  # Ollama
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a source is asked and read.

    Attributes:
        seed: Any whole number.
        max_new_tokens: Longest response in tokens.
        temperature: Above 0.
        system_prompt: Message before the prompt; None leaves it to the chat template.
        chat_template_kwargs: Variables of the chat template, such as enable_thinking.
        trace_markers: Of reasoning traces, see `TraceMarkers.parse`.
    """

    seed: int
    max_new_tokens: int
    temperature: float
    system_prompt: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    trace_markers: str = "default"


class LocalModel(Source):
    """Samples from a causal language model in this process, `batch_size` responses at a time.

    Padding side and token of the tokenizer do not matter. ModelError refuses a system prompt without a chat template.
    """

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", asked: Asked, batch_size: int = 32
    ):
        self.name = model.config._name_or_path
        check_system(asked.system_prompt, tokenizer.chat_template, self.name)
        self.model, self.tokenizer, self.asked, self.batch_size = model, tokenizer, asked, batch_size
        self._reader = ResponseReader(tokenizer, TraceMarkers.parse(asked.trace_markers))
        self._stops = stop_tokens(model, tokenizer)
        # Any token will do: the mask hides it, and an answer ends before it.
        self._pad = (self._stops or [0])[0]
        self._encoded: dict[str, list[int]] = {}

    def settings(self) -> dict[str, Any]:
        """What decides the draws, with a fingerprint of the weights."""
        template = self.tokenizer.chat_template
        # A few numbers of every weight: a model trained further under the same name is another model.
        heads = [weight.detach().flatten()[:8].float().cpu() for weight in self.model.parameters()]
        return {
            "model": self.name,
            # By this mark evaluations see that their templates differ.
            "chat_template": hashlib.sha256(str(template).encode()).hexdigest()[:8] if template else None,
            "prompt_opens_trace": bool(template) and self._reader.opened(self._tokens("Hello!")),
            **vars(self.asked),
            "weights": hashlib.sha256(torch.cat(heads).numpy().tobytes()).hexdigest()[:16],
        }

    def check(self, requests: Sequence[Request]) -> None:
        """Refuses prompts that do not fit the model's context."""
        for request in requests:
            self._encode(request)

    def draw(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Answer]]:
        """The answers in order, batch by batch; the model is left as it was."""
        from dqo.models.rollout import why_not_shared

        reason = why_not_shared(self.model) if requests else None
        if reason is not None:
            print(f"dqo: sampling reads the prompt once per response, because {reason}", file=sys.stderr)
        generate = self._shared if reason is None else self._by_host
        for first in range(0, len(requests), self.batch_size):
            batch = requests[first : first + self.batch_size]
            uniforms = torch.stack([self._uniforms(request) for request in batch])  # (N, T)
            rows = generate([self._encode(request) for request in batch], uniforms)
            yield from zip(batch, map(self._answer, rows), strict=True)

    def _tokens(self, message: str) -> list[int]:
        text = rendered(message, self.tokenizer, self.asked.system_prompt, self.asked.chat_template_kwargs)
        # A template writes the special tokens itself.
        return self.tokenizer(text, add_special_tokens=not self.tokenizer.chat_template)["input_ids"]

    def _encode(self, request: Request) -> list[int]:
        if request.message in self._encoded:
            return self._encoded[request.message]
        ids, config = self._tokens(request.message), self.model.config
        room, longest = getattr(config, "max_position_embeddings", None), self.asked.max_new_tokens
        if not ids or (room and len(ids) + longest > room):
            raise DataError(
                f"Prompt {request.prompt_id!r} must have at least one token and leave {longest} of the model's {room} "
                f"for the response, got {len(ids)} tokens; shorten it or lower `max_new_tokens`."
            )
        self._encoded[request.message] = ids
        return ids

    def _shared(self, prompts: list[list[int]], uniforms: Tensor) -> list[list[int]]:
        from dqo.models.rollout import Sampling, generate_shared

        return generate_shared(
            self.model,
            prompts,
            sampling=Sampling(temperature=self.asked.temperature),
            max_new_tokens=self.asked.max_new_tokens,
            eos_token_ids=self._stops,
            pad_token_id=self._pad,
            uniforms=uniforms,
        )[0]

    def _by_host(self, prompts: list[list[int]], uniforms: Tensor) -> list[list[int]]:
        """Samples by transformers' own `generate`, for models whose prompts cannot be shared."""
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        ids = torch.tensor([[self._pad] * (width - len(row)) + row for row in prompts])  # (N, width)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])  # (N, width)
        was_training, own = self.model.training, self.model.generation_config
        plain = {"max_new_tokens": self.asked.max_new_tokens, "do_sample": False, "pad_token_id": self._pad}
        # In place of the model's own, from which `generate` would fill up what is not given.
        self.model.generation_config = GenerationConfig(eos_token_id=self._stops or None, **plain)
        try:
            whole = self.model.eval().generate(  # (N, width + T)
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                logits_processor=[SeededChoice(uniforms, self.asked.temperature, width)],
            )
        finally:
            self.model.generation_config = own
            self.model.train(was_training)
        return whole[:, width:].tolist()

    def _answer(self, tokens: list[int]) -> Answer:
        length = next((place for place, token in enumerate(tokens) if token in self._stops), None)
        return self._reader.decode(tokens[:length]), "length" if length is None else "eos"

    def _uniforms(self, request: Request) -> Tensor:
        # Numbers of its own make a response independent of its batch, up to the rounding of a batched forward pass:
        # about one token in a million may fall on the other side of a boundary.
        generator = torch.Generator().manual_seed(request.seed(self.asked.seed))
        return torch.rand(self.asked.max_new_tokens, generator=generator, dtype=torch.float64)  # (T,)


class SeededChoice:
    """A logits processor: greedy decoding takes the token that the (N, T) uniforms in [0, 1) choose."""

    def __init__(self, uniforms: Tensor, temperature: float, start: int):
        self.uniforms, self.temperature, self.start = uniforms, temperature, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """All scores -inf, except that of the drawn token."""
        from dqo.models.rollout import inverse_cdf

        probabilities = (scores.float() / self.temperature).softmax(dim=-1)  # (N, V)
        uniforms = self.uniforms[:, input_ids.shape[1] - self.start].to(scores.device)  # (N,)
        token = inverse_cdf(probabilities, uniforms)  # (N,)
        return torch.full_like(scores, float("-inf")).scatter_(1, token[:, None], 0.0)  # (N, V)


class ServedModel(Source):
    """Samples from a server by chat completions, one request per response, many at a time.

    `connection` is `concurrency`, `timeout`, `retries` and `parameters` of `Endpoint`. EndpointError refuses a URL that
    is none or holds a password, and a server that is not there.
    """

    def __init__(self, model: str, url: str, asked: Asked, **connection: Any):
        self._endpoint = Endpoint(url, model, **{"timeout": 600.0, "retries": 5, "concurrency": 32} | connection)
        self.asked, self.server = asked, self._endpoint.models().get(model, "unknown")
        self.adapted = self._endpoint.adapted
        variables = asked.chat_template_kwargs
        self._sent = ({"chat_template_kwargs": variables} if variables else {}) | _NEUTRAL.get(self.server, {})

    def settings(self) -> dict[str, Any]:
        """Where the responses came from and what was asked for."""
        place = {"endpoint": self._endpoint.base_url, "server": self.server, "model": self._endpoint.model}
        given = {"parameters": self._endpoint.parameters} if self._endpoint.parameters else {}
        return place | vars(self.asked) | self._sent | given

    def trust(self, request: Request) -> None:
        """Names a request that the server answered at an earlier start."""
        self._endpoint.trust(self._ask, request)

    def draw(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Answer | Unanswered]]:
        """The answers as they come."""
        for place, answer in self._endpoint.stream(self._ask, requests, lambda request: request.message):
            yield requests[place], answer

    async def _ask(self, client: "AsyncOpenAI", request: Request) -> Reply:
        return await self._endpoint.complete(
            client,
            conversation(request.message, self.asked.system_prompt),
            max_tokens=self.asked.max_new_tokens,
            temperature=self.asked.temperature,
            seed=request.seed(self.asked.seed) % 2**31,
            **self._sent,
        )
