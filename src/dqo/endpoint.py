"""Servers that speak OpenAI's protocol (vLLM, TEI, SGLang, hosted ones): many requests in one call, retried."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

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
        EndpointError: A URL that `checked_url` refuses.
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
                "`pip install -e '.[endpoint]'`."
            ) from error
        base_url = checked_url(base_url, api_key_env)
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
            advice = "check the URL, the name of the model and what the server supports"
        else:
            advice = "start the server or check the URL, then continue the run with --resume"
        tries = f" after {self.retries} retries" if is_retried(error) else ""
        return EndpointError(
            f"endpoint {self.base_url}: expected an answer, got {without_key(first_words(error), self.api_key_env)}"
            f"{tries}; {advice}."
        )


def checked_url(url: str, key_env: str) -> str:
    """The base URL of a server, refused where it holds a secret or would carry one in the open.

    Args:
        url: Such as "http://localhost:8000/v1".
        key_env: Environment variable with the key; the key itself is not looked at.

    Returns:
        The URL without a slash at its end. Where plain http leaves the machine and its network, stderr says so.

    Raises:
        EndpointError: Another scheme than http and https; a user, password, query or fragment, which would end up in
            logs and configs; or a key that plain http would carry past the local network.
    """
    expected = "endpoint: expected a URL such as http://localhost:8000/v1 without user, password or query"
    remedy = f"a key goes into the environment variable {key_env}"
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        host, _ = parts.hostname, parts.port  # both may raise
    except ValueError as error:
        raise EndpointError(f"{expected}, got one that cannot be read ({error}); {remedy}.") from error
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or parts.query or parts.fragment:
        came = "one with such a part" if host or "@" in str(url) else repr(url)
        raise EndpointError(f"{expected}, got {came}; {remedy}.")
    if parts.scheme == "http" and not _is_local(host):
        if os.environ.get(key_env):
            raise EndpointError(
                f"endpoint {url}: expected https, because {key_env} is set and anyone on the way could read it, got "
                f"http; use https, or unset {key_env} where the server asks for no key."
            )
        print(f"dqo: warning: prompts and responses travel readable to {url}; use https", file=sys.stderr)
    return url.rstrip("/")


def is_retried(error: BaseException) -> bool:
    """Whether the client sends a request again that failed so: lost connections, time-outs, 408, 409, 429 and 5xx.

    Args:
        error: Of the package openai, or another.

    Returns:
        True for those.
    """
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, APIConnectionError)


def without_key(text: str, key_env: str) -> str:
    """A text to be shown, the key in it blotted out: some servers repeat it in their complaint.

    Args:
        text: Any text.
        key_env: Environment variable with the key.

    Returns:
        The text.
    """
    key = os.environ.get(key_env)
    return text.replace(key, f"<{key_env}>") if key else text


def _is_local(host: str) -> bool:
    """This machine or its own network: private addresses, and names that no public DNS has."""
    try:
        address = ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal", ".lan", ".svc"))
    return address.is_private or address.is_link_local
