"""Asks servers that speak OpenAI's protocol (vLLM, SGLang, TEI, hosted ones), many requests at once.

The package openai retries, waits between retries and limits the time. What it does not do is here: adapt to a server
that refuses a parameter, and tell a server that is down from a request that gets no answer.
"""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from dqo.errors import EndpointError
from dqo.models.endpoint_replies import NoAnswer, Reply, read_reply, read_usage, read_words, refused_parameter, without
from dqo.models.weights import first_words

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Item = TypeVar("Item")
Answer = TypeVar("Answer")
# The key, the bill, the URL or the model is wrong: no other request would fare better.
_FATAL = (401, 402, 404, 405)
# So many different requests fail before any is answered: the server is down.
_DEAD = 3


@dataclass(frozen=True)
class Unanswered:
    """A request without an answer from a server that answers others: a filtered prompt, or one that is too long.

    Attributes:
        reason: The server's own words.
        error: To raise where the answer is needed.
    """

    reason: str
    error: EndpointError


class Endpoint:
    """Asks one model on one server.

    Args:
        base_url: Such as "http://localhost:8000/v1".
        model: Name of the model there.
        api_key_env: Name of the environment variable with the key; servers without keys need none. The key itself
            cannot be given, so that it ends up in no recipe and no log.
        timeout: Seconds one attempt may take, above 0.
        retries: Attempts after the first, for lost connections, time-outs, status 408, 409, 429 and 5xx.
        concurrency: Requests under way at once, at least 1.
        parameters: Set in every request, in place of what would be sent; None leaves a parameter out.

    Raises:
        EndpointError: A URL that `checked_url` refuses.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        retries: int = 4,
        concurrency: int = 16,
        parameters: Mapping[str, Any] | None = None,
    ):
        self.base_url, self.model, self.api_key_env = checked_url(base_url, api_key_env), model, api_key_env
        self.timeout, self.retries, self.concurrency = timeout, retries, concurrency
        self.parameters = dict(parameters or {})
        # Refused parameter -> what was done about it, in words.
        self.adapted: dict[str, str] = {}
        self._offered: list[str] = []
        # Completions that were answered, and their tokens as far as the server counts them.
        self.spent = Counter(calls=0, tokens_read=0, tokens_written=0)
        # A request that was answered; whether the server is still there is found out by asking it again.
        self._answered: Any = None
        # Different requests that failed before any was answered.
        self._failed: set[str] = set()
        self._begun = False

    @property
    def notes(self) -> list[str]:
        """What the server refused and what was done about it, one sentence per parameter."""
        return list(self.adapted.values())

    def trust(self, ask: Callable[["AsyncOpenAI", Item], Awaitable[Answer]], item: Item) -> None:
        """Names a request that the server answered at an earlier start, so that others can fail alone."""
        self._answered = self._answered or (ask, item)

    def models(self) -> dict[str, str]:
        """Asks the server which models it offers, as name -> owner; empty where it has no such list."""
        from openai import APIConnectionError, OpenAI, OpenAIError

        limits = {"timeout": min(self.timeout, 10.0), "max_retries": min(self.retries, 1)}
        try:
            document = OpenAI(**self._client_options() | limits).get("/models", cast_to=object)
        except (OpenAIError, ValueError) as error:
            # The list is a courtesy: completions may work without it, unless nothing listens.
            if isinstance(error, APIConnectionError) and type(error.__cause__).__name__ == "ConnectError":
                raise self._failure(error) from error
            return {}
        listed = document.get("data") if isinstance(document, dict) else document
        named = [entry for entry in listed or [] if isinstance(entry, dict) and "id" in entry]
        self._offered = sorted(str(entry["id"]) for entry in named)
        return {str(entry["id"]): str(entry.get("owned_by") or "unknown") for entry in named}

    async def complete(self, client: "AsyncOpenAI", messages: list[dict[str, str]], **settings: Any) -> Reply:
        """Asks for one chat completion; NoAnswer for a document without an answer in it."""
        document = await self.post(client, "/chat/completions", {"messages": messages} | settings)
        self.spent.update(calls=1, **read_usage(document))
        return read_reply(document)

    async def post(self, client: "AsyncOpenAI", path: str, settings: Mapping[str, Any]) -> Any:
        """Sends one request without the parameters that the server refuses, and returns the JSON that answers it."""
        from openai import APIStatusError

        wanted = {"model": self.model} | dict(settings) | self.parameters
        body = {name: value for name, value in wanted.items() if value is not None}
        # By this request alone; kept for the others once one without these parameters is answered.
        refused: dict[str, str] = {}
        while True:
            sent = without(body, self.adapted | refused)
            try:
                document = await client.post(path, body=sent, cast_to=object)
            except APIStatusError as error:
                name = refused_parameter(error, sent)
                if name is None or name in refused:
                    raise
                refused[name] = self._note(name, sent, error)
                continue
            except ValueError as error:  # a proxy's page, half an answer, or another encoding
                raise NoAnswer(f"a body that is no JSON ({first_words(error)})") from error
            for name in refused.keys() - self.adapted.keys():
                self.adapted[name] = refused[name]
                print(f"dqo: warning: {refused[name]}", file=sys.stderr)
            return document

    def map(
        self, ask: Callable[["AsyncOpenAI", Item], Awaitable[Answer]], items: Sequence[Item]
    ) -> list[Answer | Unanswered]:
        """Asks for all items and waits; the answers in their order, arguments and errors as for `stream`."""
        answers = dict(self.stream(ask, items))
        return [answers[place] for place in range(len(items))]

    def stream(
        self,
        ask: Callable[["AsyncOpenAI", Item], Awaitable[Answer]],
        items: Sequence[Item],
        distinct: Callable[[Item], str] = str,
    ) -> Iterator[tuple[int, Answer | Unanswered]]:
        """Asks for all items and yields the answers as they come, each with the place of its item.

        Ctrl-C, or closing the iterator, ends the requests under way.
        """
        if not items:
            return
        from anyio.from_thread import start_blocking_portal

        arrived: SimpleQueue[Any] = SimpleQueue()
        # The loop has a thread of its own, so that a notebook, which runs one already, can call this too.
        with start_blocking_portal() as portal:
            work = portal.start_task_soon(self._ask_all, ask, items, distinct, arrived.put)
            work.add_done_callback(arrived.put)
            while isinstance(arrival := arrived.get(), tuple):
                yield arrival
        if error := work.exception():
            raise self._failure(error) from error

    async def _ask_all(self, ask: Any, items: Sequence[Any], distinct: Any, put: Any) -> None:
        from openai import AsyncOpenAI

        waiting = iter(enumerate(items))

        async def work(places: Iterable[tuple[int, Any]]) -> None:
            for place, item in places:
                put((place, await self._answer(client, ask, item, distinct)))

        async with AsyncOpenAI(**self._client_options()) as client:
            # The first request goes alone, so that a refused parameter is refused once.
            if not self._begun:
                self._begun = True
                await work(islice(waiting, 1))
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(items))):
                    group.create_task(work(waiting))

    async def _answer(self, client: "AsyncOpenAI", ask: Any, item: Any, distinct: Any) -> Any:
        """The answer or `Unanswered`; the error where the server is down, or refuses whatever it is asked."""
        from openai import OpenAIError

        try:
            answer = await ask(client, item)
        except (OpenAIError, NoAnswer) as failure:
            error: Exception = failure
        else:
            self._answered = (ask, item)
            self._failed.clear()
            return answer
        status = getattr(error, "status_code", None)
        if self._answered is None and (_is_passing(error) or status == 403):  # 403 means the key or a filter
            self._failed.add(distinct(item))
        elif _is_passing(error):
            known, good = self._answered
            try:
                await known(client, good)
            except (OpenAIError, NoAnswer):
                raise error from None
        if status in _FATAL or len(self._failed) >= _DEAD:
            raise error
        return Unanswered(self._said(error), self._failure(error))

    def _client_options(self) -> dict[str, Any]:
        key = os.environ.get(self.api_key_env) or "none"
        return {"base_url": self.base_url, "api_key": key, "timeout": self.timeout, "max_retries": self.retries}

    def _said(self, error: BaseException) -> str:
        """What the server said about an error, on one line; some servers repeat the key in it."""
        words = read_words(error)
        key = os.environ.get(self.api_key_env)
        return words.replace(key, f"<{self.api_key_env}>") if key else words

    def _note(self, name: str, sent: Mapping[str, Any], error: Exception) -> str:
        """Says what is done about a refused parameter."""
        value = sent[name]
        came = f"{name}={value!r}" if isinstance(value, int | float) and name != "seed" else name
        new = [f"{other}={value!r} was sent instead" for other in without(sent, [*self.adapted, name]).keys() - sent]
        done = new[0] if new else f"it was left out, so that the server's own default {name} holds"
        return f"endpoint {self.base_url} refused {came} ({self._said(error)}): {done}."

    def _failure(self, error: BaseException) -> EndpointError:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, EndpointError):
            return error
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            advice = f"set the environment variable {self.api_key_env} to a key that it accepts"
        elif status in (404, 405):
            offered = f" (the server lists {', '.join(self._offered[:20])})" if self._offered else ""
            advice = f"check the URL, which mostly ends in /v1, and the name of the model {self.model!r}{offered}"
        elif status is not None and not _is_passing(error):
            advice = "change what the server complains about; an option can set or leave out any parameter"
        elif isinstance(error, NoAnswer):
            advice = f"check that the server answers for the model {self.model!r}"
        else:
            advice = (
                "start the server or check the URL, then continue the run with --resume, or an evaluation with the "
                "same command"
            )
        tries = f" after {self.retries} retries" if _is_passing(error) else ""
        return EndpointError(
            f"endpoint {self.base_url}: expected an answer, got {type(error).__name__}: {self._said(error)}{tries}; "
            f"{advice}."
        )


def checked_url(url: str, key_env: str) -> str:
    """Refuses a base URL that holds a secret, or would carry one in the open; returns it without a slash at its end."""
    expected = "endpoint: expected a URL such as http://localhost:8000/v1 without user, password or query"
    remedy = f"a key goes into the environment variable {key_env}"
    try:
        parts = urlsplit(str(url))
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or "@" in parts.netloc or parts.query or parts.fragment:
        # Such a part may be a secret, which must not be shown.
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


def _is_local(host: str) -> bool:
    """Whether a host is this machine or on its network: a private address, or a name that no public DNS has."""
    try:
        address = ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal", ".lan", ".svc"))
    return address.is_private or address.is_link_local


def _is_passing(error: BaseException) -> bool:
    """Whether another try may fare better."""
    from openai import APIConnectionError

    status = getattr(error, "status_code", None)
    if status is None:
        return isinstance(error, APIConnectionError)
    return status in (408, 409, 429) or status >= 500
