"""An OpenAI-compatible endpoint as a source of responses: a vLLM server, or any other that completes chats."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from dqo.chat import conversation
from dqo.endpoint import checked_url, is_retried, without_key
from dqo.errors import EndpointError
from dqo.evaluation.sample import Answer, Request, check_settings
from dqo.hub import first_words

KEY = "OPENAI_API_KEY"
# A vLLM server takes what the request leaves out from the model's generation_config.json; these are the neutral values.
_NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


class ServedModel:
    """Draws by chat completions, one request a response, many at a time.

    The prompt is sent as a user message with top_p 1; a vLLM server is also told top-k -1, min-p 0 and repetition
    penalty 1, so that it samples from the model's own distribution. Every request carries a seed of its own, which a
    server may ignore. Failed connections, timeouts and answers 408, 409, 429 and 5xx are tried again after a growing
    pause. The key comes from the environment variable OPENAI_API_KEY and is recorded nowhere. Of models that think
    aloud in a field of their own only the answer is read.

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

    Raises:
        EndpointError: A URL that is none or holds a password, a server that does not answer, or one that does not
            offer the model.
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
    ):
        check_settings(max_new_tokens=max_new_tokens, temperature=temperature, concurrency=concurrency)
        self.model, self.url, self.seed, self.temperature = model, checked_url(url, KEY), seed, temperature
        self.max_new_tokens, self.concurrency, self.retries = max_new_tokens, concurrency, retries
        self.system_prompt, self.chat_template_kwargs = system_prompt, chat_template_kwargs
        self._client = _client(self.url, timeout, retries)
        self.server = self._find_model()

    def settings(self) -> dict[str, Any]:
        """Where the responses came from and what was asked for."""
        return {
            "endpoint": self.url,
            "server": self.server,
            "model": self.model,
            "seed": self.seed,
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "top_p": 1.0,
            "system_prompt": self.system_prompt,
            **self._neutral(),
        }

    def check(self, requests: Sequence[Request]) -> None:
        """Nothing: the server alone knows its model's context, and names the prompt that does not fit."""

    def draw(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Answer]]:
        """The answers as they come; the first request that fails for good ends the run."""
        rest = iter(requests)
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="endpoint")
        running: set[Future] = set()
        try:
            while True:
                for request in rest:
                    running.add(pool.submit(self._ask, request))
                    if len(running) == self.concurrency:
                        break
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                failed = [future for future in done if future.exception()]
                yield from (future.result() for future in done if not future.exception())
                if failed:  # after the answers that came with it, which may finish a prompt
                    failed[0].result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _neutral(self) -> dict[str, Any]:
        asked = {"chat_template_kwargs": self.chat_template_kwargs} if self.chat_template_kwargs else {}
        return asked | (_NEUTRAL if self.server == "vllm" else {})

    def _find_model(self) -> str:
        import openai

        try:
            served = {
                str(entry.id): str(getattr(entry, "owned_by", None) or "unknown")
                for entry in self._client.models.list()
            }
        except openai.APIStatusError as error:
            raise self._error("to list its models", error) from error
        except openai.OpenAIError as error:
            raise self._error("to be up", error) from error
        except (TypeError, ValueError, AttributeError) as error:  # a page of something else
            raise self._error("to speak the OpenAI protocol", error) from error
        if self.model not in served:
            raise EndpointError(
                f"endpoint {self.url}: expected it to serve {self.model!r}, but it offers "
                f"{', '.join(sorted(served)[:20]) or 'nothing'}; give --model one of these."
            )
        return served[self.model]

    def _ask(self, request: Request) -> tuple[Request, Answer]:
        import openai

        what = f"to answer prompt {request.prompt_id!r}"
        try:
            reply = self._client.chat.completions.create(
                model=self.model,
                messages=conversation(request.message, self.system_prompt),
                max_tokens=self.max_new_tokens,
                temperature=self.temperature,
                top_p=1.0,
                seed=request.seed(self.seed) % 2**31,
                extra_body=self._neutral() or None,
            )
            choice = reply.choices[0]
            return request, (_whole(choice.message.content), "length" if choice.finish_reason == "length" else "eos")
        except openai.OpenAIError as error:
            raise self._error(what, error) from error
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            raise self._error(f"{what} with a chat completion", error) from error

    def _error(self, expected: str, error: Exception) -> EndpointError:
        advice = "start the server or check the URL, then run the same command again: finished prompts are kept"
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            advice = f"set the environment variable {KEY}"
        elif status == 404:
            advice = "check the URL, which mostly ends in /v1, and the name of the model"
        elif status is not None and not is_retried(error):
            advice = "shorten the prompt, lower --max-new-tokens, or check what the server takes"
        tries = f" after {self.retries} retries" if is_retried(error) else ""
        return EndpointError(
            f"endpoint {self.url}: expected it {expected}, got {without_key(first_words(error), KEY)}{tries}; {advice}."
        )


def _whole(content: str | None) -> str:
    """The text of an answer; half characters, which JSON can hold and UTF-8 cannot, become the replacement character.

    Some servers cut a stream in the middle of a character. Tokenizers read such bytes the same way.
    """
    if content is None:  # a refusal, or nothing but thoughts
        return ""
    if not isinstance(content, str):
        raise TypeError(f"content of type {type(content).__name__}")
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _client(url: str, timeout: float, retries: int) -> Any:
    try:
        import openai
    except ModuleNotFoundError as error:
        raise EndpointError(
            "an endpoint needs the package openai, which is not installed; run `pip install -e '.[endpoint]'`."
        ) from error
    # A server of one's own asks for no key, but the client does.
    return openai.OpenAI(base_url=url, api_key=os.environ.get(KEY) or "none", timeout=timeout, max_retries=retries)
