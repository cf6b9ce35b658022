"""An OpenAI-compatible endpoint as a source of responses: a vLLM server, or any other that completes chats."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dqo.errors import ModelError
from dqo.evaluation.sampling import Answer, Request, check_settings, template_mark
from dqo.models.chat import check_system, conversation, rendered
from dqo.models.endpoint import Endpoint, Unanswered
from dqo.models.endpoint_replies import Reply
from dqo.models.policy import resolve_policy
from dqo.models.response import ResponseReader, TraceMarkers
from dqo.models.weights import first_words

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# Neutral values of what these servers take from the model's generation_config.json, or from defaults of their own.
# Elsewhere top_p is 1 by the definition of the API and is not sent.
_NEUTRAL = {
    "vllm": {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "sglang": {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "llamacpp": {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
    "library": {"top_p": 1.0},  # Ollama
}


class ServedModel:
    """Draws by chat completions, one request a response, many at a time.

    The prompt is sent as a user message, with temperature, length and a seed of its own; a server that is known to
    have defaults of its own also gets neutral ones, so that it samples from the model's own distribution. What a server
    refuses is renamed or left out, and `adapted` says so. The key comes from the environment variable OPENAI_API_KEY
    and is recorded nowhere. Of models that think aloud in a field of their own only the answer is read.

    Args:
        model: Name under which the server offers the model.
        url: Base of the API, such as http://localhost:8000/v1.
        seed: Any whole number.
        max_new_tokens: Longest response in tokens.
        temperature: Above 0.
        concurrency: Requests at a time.
        timeout: Seconds until an unanswered request is given up.
        retries: How often a failed request is sent again.
        system_prompt: Message before the prompt; None leaves it to the server's chat template.
        chat_template_kwargs: Variables of the server's chat template, such as enable_thinking; vLLM and SGLang take
            them.
        parameters: Set in every request, in place of what would be sent; None leaves a parameter out.

    Raises:
        EndpointError: A URL that is none or holds a password, or a server that is not there.
        DataError: A number out of range.
    """

    def __init__(
        self,
        model: str,
        url: str,
        *,
        seed: int,
        max_new_tokens: int,
        temperature: float,
        concurrency: int = 32,
        timeout: float = 600.0,
        retries: int = 5,
        system_prompt: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ):
        check_settings(max_new_tokens=max_new_tokens, temperature=temperature, concurrency=concurrency)
        self._endpoint = Endpoint(
            url, model, timeout=timeout, retries=retries, concurrency=concurrency, parameters=parameters
        )
        self.seed, self.temperature, self.max_new_tokens = seed, temperature, max_new_tokens
        self.system_prompt = system_prompt
        self.server = self._endpoint.models().get(model, "unknown")
        asked = {"chat_template_kwargs": chat_template_kwargs} if chat_template_kwargs else {}
        self._neutral = asked | _NEUTRAL.get(self.server, {})

    def settings(self) -> dict[str, Any]:
        """Where the responses came from and what was asked for."""
        given = {"parameters": self._endpoint.parameters} if self._endpoint.parameters else {}
        return {
            "endpoint": self._endpoint.base_url,
            "server": self.server,
            "model": self._endpoint.model,
            "seed": self.seed,
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "system_prompt": self.system_prompt,
            **self._neutral,
            **given,
        }

    def trust(self, request: Request) -> None:
        """Name a request that the server answered at an earlier start."""
        self._endpoint.trust(self._ask, request)

    @property
    def adapted(self) -> dict[str, str]:
        """Parameters that the server refused, each with what was sent in its place."""
        return self._endpoint.adapted

    def check(self, requests: Sequence[Request]) -> None:
        """Nothing: the server alone knows its model's context, and refuses the prompt that does not fit."""

    def draw(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Answer | Unanswered]]:
        """The answers as they come."""
        for place, answer in self._endpoint.stream(self._ask, requests, lambda request: request.message):
            yield requests[place], answer

    async def _ask(self, client: "AsyncOpenAI", request: Request) -> Reply:
        return await self._endpoint.complete(
            client,
            conversation(request.message, self.system_prompt),
            max_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=request.seed(self.seed) % 2**31,
            **self._neutral,
        )


# A vLLM engine in this process as a source of responses.

_REQUESTS_AT_ONCE = 2048  # what a kill may cost; the engine batches inside


class VllmEngine:
    """Draws from the model's own distribution; vLLM's prefix cache reads a prompt once for its n responses.

    Args:
        model: Folder, hub name, or the default policy, whose package is converted as everywhere.
        seed: Any whole number.
        max_new_tokens: Longest response in tokens.
        temperature: Above 0.
        system_prompt: Message before the prompt; None leaves it to the chat template.
        chat_template_kwargs: Variables of the chat template, such as enable_thinking.
        trace_markers: As for `LocalModel`.

    Raises:
        ModelError: vLLM is not installed, or cannot load the model; a system prompt without a chat template.
        DataError: A number out of range.
    """

    def __init__(
        self,
        model: str,
        *,
        seed: int,
        max_new_tokens: int,
        temperature: float,
        system_prompt: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        trace_markers: str = "default",
    ):
        check_settings(max_new_tokens=max_new_tokens, temperature=temperature)
        try:
            import vllm
        except ModuleNotFoundError as error:
            raise ModelError(
                "--backend vllm needs the package vllm, which is not installed; run `pip install vllm`, leave "
                "--backend out, or give the URL of a vLLM server as --endpoint."
            ) from error
        self.model, self.seed, self.max_new_tokens, self.temperature = model, seed, max_new_tokens, temperature
        self._vllm, self.system_prompt = vllm, system_prompt
        folder = resolve_policy(model)
        try:  # generation_config="vllm" sets the model's own defaults (top-k, penalties) aside
            self._engine = vllm.LLM(
                model=folder, seed=seed % 2**31, generation_config="vllm", load_format="safetensors"
            )
        except Exception as error:  # the engine's, the hub's or the device's: all of them mean the same to the user
            raise ModelError(
                f"expected vLLM to load {model!r}, but it failed ({first_words(error)}); check name and memory."
            ) from error
        tokenizer = self._engine.get_tokenizer()
        self._chat = bool(tokenizer.chat_template)
        check_system(system_prompt, tokenizer.chat_template, model)
        self.chat_template_kwargs, self.trace_markers = chat_template_kwargs, trace_markers
        self._reader = ResponseReader(tokenizer, TraceMarkers.parse(trace_markers))

    def at(self, temperature: float) -> "VllmEngine":
        """The same engine at another temperature.

        Args:
            temperature: Above 0.

        Returns:
            A source that shares the loaded model.
        """
        check_settings(temperature=temperature)
        other = copy.copy(self)
        other.temperature = temperature
        return other

    def settings(self) -> dict[str, Any]:
        """The model and what decides the draws."""
        return {
            "backend": f"vllm {self._vllm.__version__}",
            "model": self.model,
            "chat_template": template_mark(self._engine.get_tokenizer().chat_template),
            "system_prompt": self.system_prompt,
            "chat_template_kwargs": self.chat_template_kwargs,
            "trace_markers": self.trace_markers,
            "prompt_opens_trace": self._opens_trace(),
            "seed": self.seed,
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
        }

    def _opens_trace(self) -> bool:
        tokenizer = self._engine.get_tokenizer()
        if not self._chat:
            return False
        text = rendered("Hello!", tokenizer, self.system_prompt, self.chat_template_kwargs)
        return self._reader.opened(tokenizer(text, add_special_tokens=False)["input_ids"])

    def check(self, requests: Sequence[Request]) -> None:
        """Nothing: the engine refuses a prompt that does not fit when it comes to it."""

    def draw(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Answer]]:
        """The answers, some thousand requests at a time."""
        for start in range(0, len(requests), _REQUESTS_AT_ONCE):
            batch = requests[start : start + _REQUESTS_AT_ONCE]
            settings = [
                self._vllm.SamplingParams(
                    temperature=self.temperature, top_p=1.0, max_tokens=self.max_new_tokens,
                    seed=request.seed(self.seed) % 2**31,
                )
                for request in batch
            ]  # fmt: skip
            if self._chat:
                messages = [conversation(request.message, self.system_prompt) for request in batch]
                outputs = self._engine.chat(
                    messages, settings, use_tqdm=False, chat_template_kwargs=self.chat_template_kwargs
                )
            else:
                outputs = self._engine.generate([request.message for request in batch], settings, use_tqdm=False)
            for request, output in zip(batch, outputs, strict=True):
                answer = output.outputs[0]
                finish = "length" if answer.finish_reason == "length" else "eos"
                yield request, (self._reader.decode(answer.token_ids), finish)
