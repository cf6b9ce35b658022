"""Servers that speak OpenAI's protocol (vLLM, TEI, SGLang, hosted ones): many requests in one call, retried."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from dqo.errors import EndpointError, RecipeError
from dqo.hub import first_words

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Endpoint:
    """One server. A request that fails is tried again after growing waits; one that keeps failing is an error.

    Args:
        base_url: Such as "http://localhost:8000/v1".
        api_key_env: Name of the environment variable with the key; servers without keys need none. The key itself
            cannot be given, so that it ends up in no recipe and no log.
        timeout: Seconds one attempt may take.
        retries: Attempts after the first, for lost connections, time-outs, status 408, 409, 429 and 5xx.
        concurrency: Requests under way at once.

    Raises:
        RecipeError: A setting out of range, or the package openai is missing.
    """

    def __init__(
        self,
        base_url: str,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        retries: int = 4,
        concurrency: int = 16,
    ):
        try:
            import openai  # noqa: F401
        except ImportError as error:
            raise RecipeError(
                f"an endpoint needs the package openai, which failed to import ({first_words(error)}); run "
                "`pip install 'dqo[endpoint]'`."
            ) from error
        if not isinstance(base_url, str) or not base_url.startswith(("http://", "https://")) or "@" in base_url:
            raise RecipeError(
                f"base_url: expected a URL such as 'http://localhost:8000/v1' without user and password, got "
                f"{base_url!r}; put secrets into the environment."
            )
        if not timeout > 0 or retries < 0 or concurrency < 1:
            raise RecipeError(
                f"endpoint: expected timeout above 0, retries of at least 0 and concurrency of at least 1, got "
                f"{timeout!r}, {retries!r} and {concurrency!r}."
            )
        self.base_url, self.api_key_env = base_url, api_key_env
        self.timeout, self.retries, self.concurrency = timeout, retries, concurrency

    def map(self, call: Callable[["AsyncOpenAI", Item], Awaitable[Answer]], items: Sequence[Item]) -> list[Answer]:
        """The answers to all items, in their order.

        It runs an event loop in a thread of its own, so that it can be called from anywhere, a notebook included.

        Args:
            call: One request with the client of the package openai.
            items: What to ask.

        Returns:
            One answer an item.

        Raises:
            EndpointError: A request that failed for good; the others are dropped.
        """
        if not items:
            return []
        with ThreadPoolExecutor(1) as thread:
            try:
                return thread.submit(asyncio.run, self._all(call, items)).result()
            except EndpointError:
                raise
            except Exception as error:
                raise self._failure(error) from error

    async def _all(self, call: Callable[..., Awaitable[Answer]], items: Sequence[Item]) -> list[Answer]:
        from openai import AsyncOpenAI

        slots = asyncio.Semaphore(self.concurrency)

        async def limited(item: Item) -> Answer:
            async with slots:
                return await call(client, item)

        client = AsyncOpenAI(
            base_url=self.base_url,
            api_key=os.environ.get(self.api_key_env) or "none",
            timeout=self.timeout,
            max_retries=self.retries,
        )
        async with client, asyncio.TaskGroup() as group:
            tasks = [group.create_task(limited(item)) for item in items]
        return [task.result() for task in tasks]

    def _failure(self, error: BaseException) -> EndpointError:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, EndpointError):
            return error
        status: Any = getattr(error, "status_code", None)
        if status in (401, 403):
            advice = f"set the environment variable {self.api_key_env} to a key that it accepts"
        elif status in (400, 404, 422):
            advice = "check base_url, the name of the model and what the server supports"
        else:
            advice = "start the server or check base_url, then continue the run with --resume"
        return EndpointError(
            f"endpoint {self.base_url}: expected an answer, but after {self.retries} retries of {self.timeout:g} s it "
            f"failed with {first_words(error)}; {advice}."
        )
