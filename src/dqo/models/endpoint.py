"""The client of servers that speak OpenAI's protocol (vLLM, TEI, SGLang, hosted ones): many requests at once, retried.

A server that refuses a parameter is adapted to once: the parameter is renamed or left out, and `notes` says so.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from dqo.errors import EndpointError, RecipeError
from dqo.models.endpoint_replies import NoAnswer, Reply, detail, read_models, read_reply, refused_parameter, without
from dqo.models.weights import first_words

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_FATAL = (401, 402, 404, 405)  # the key, the bill, the URL, the model: no other request would fare better
_DEAD = 3  # different requests in a row that fail before any is answered: the server is down
_PATIENCE = 2.0  # seconds that requests under way have to end after Ctrl-C


@dataclass(frozen=True)
class Unanswered:
    """A request that the server gave no answer to, though it is there: a filtered prompt, or one that is too long.

    Attributes:
        reason: The server's own words.
        error: To raise where an answer cannot be done without.
    """

    reason: str
    error: EndpointError


class Endpoint:
    """One model on one server. A request that fails is tried again after growing waits.

    Args:
        base_url: Such as "http://localhost:8000/v1".
        model: Name of the model there.
        api_key_env: Name of the environment variable with the key; servers without keys need none. The key itself
            cannot be given, so that it ends up in no recipe and no log.
        timeout: Seconds one attempt may take.
        retries: Attempts after the first, for lost connections, time-outs, status 408, 409, 429 and 5xx.
        concurrency: Requests under way at once.
        parameters: Set in every request, in place of what would be sent; None leaves a parameter out.

    Raises:
        RecipeError: A setting out of range, or the package openai is missing.
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
        self.base_url, self.model, self.api_key_env = base_url, model, api_key_env
        self.timeout, self.retries, self.concurrency = timeout, retries, concurrency
        self.parameters = dict(parameters or {})
        self._offered: list[str] = []
        self._refused: dict[str, str] = {}  # parameter -> what was done about it, in words
        self._answered: Any = None  # a request that the server has answered, to ask again whether it is still there
        self._begun = False

    def trust(self, ask: Callable[["AsyncOpenAI", Item], Awaitable[Answer]], item: Item) -> None:
        """Name a request that the server answered at an earlier start: what fails where this does not, fails alone.

        Args:
            ask: As for `stream`.
            item: What was asked.
        """
        self._answered = self._answered or (ask, item)

    @property
    def notes(self) -> list[str]:
        """What the server refused and what was done about it, one sentence per parameter."""
        return list(self._refused.values())

    @property
    def adapted(self) -> dict[str, str]:
        """The same by parameter."""
        return dict(self._refused)

    def models(self) -> dict[str, str]:
        """Names of the models that the server lists.

        Returns:
            Name -> owner; empty where the server has no such list.

        Raises:
            EndpointError: Nothing listens at the URL.
        """

        async def listed(client: "AsyncOpenAI", _: None) -> dict[str, str]:
            from openai import APIConnectionError, OpenAIError

            try:
                quick = client.with_options(timeout=min(self.timeout, 10.0), max_retries=min(self.retries, 1))
                return read_models(await quick.get("/models", cast_to=object))
            except APIConnectionError as error:
                if type(error.__cause__).__name__ == "ConnectError":
                    raise
            except (OpenAIError, ValueError):  # the list is a courtesy: completions may work without it
                pass
            return {}

        [(_, models)] = self._stream(listed, [None], alone=True)
        self._offered = sorted(models)
        if models and self.model not in models:
            print(
                f"dqo: warning: endpoint {self.base_url} does not list {self.model!r} but "
                f"{', '.join(self._offered[:20])}; asking it all the same",
                file=sys.stderr,
            )
        return models

    async def complete(self, client: "AsyncOpenAI", messages: list[dict[str, str]], **settings: Any) -> Reply:
        """One chat completion.

        Args:
            client: As `stream` gives it.
            messages: The conversation.
            **settings: Parameters of the request.

        Returns:
            Text and finish reason.

        Raises:
            NoAnswer: A document without an answer in it.
        """
        return read_reply(await self.post(client, "/chat/completions", {"messages": messages} | settings))

    async def post(self, client: "AsyncOpenAI", path: str, settings: Mapping[str, Any]) -> Any:
        """The document that answers one request, without the parameters that the server refuses.

        Args:
            client: As `stream` gives it.
            path: Such as "/embeddings".
            settings: Body of the request without the model.

        Returns:
            JSON as it came.
        """
        from openai import APIStatusError

        wanted = {"model": self.model} | dict(settings) | self.parameters
        body = {name: value for name, value in wanted.items() if value is not None}
        refused: dict[str, str] = {}  # by this request; kept for the others once one without them is answered
        while True:
            sent = without(body, self._refused | refused)
            try:
                document = await client.post(path, body=sent, cast_to=object)
            except APIStatusError as error:
                name = refused_parameter(error, sent)
                if name is None or name in refused:
                    raise
                refused[name] = self._note(name, sent, error)
                continue
            except ValueError as error:  # of the JSON, or of its UTF-8: a proxy's page, or half an answer
                raise NoAnswer(f"a body that is no JSON ({first_words(error)})") from error
            for name in refused.keys() - self._refused.keys():
                self._refused[name] = refused[name]
                print(f"dqo: warning: {refused[name]}", file=sys.stderr)
            return document

    def stream(
        self,
        ask: Callable[["AsyncOpenAI", Item], Awaitable[Answer]],
        items: Sequence[Item],
        distinct: Callable[[Item], str] = str,
    ) -> Iterator[tuple[int, Answer | Unanswered]]:
        """Answers as they come, each with the place of its item.

        The requests run in a thread of their own, so that this can be called from anywhere, a notebook included.
        Ctrl-C, or closing the iterator, ends them.

        Args:
            ask: One request with the client of the package openai.
            items: What to ask.
            distinct: What makes two items the same question.

        Returns:
            Place and answer; `Unanswered` for an item that the server does not answer although it answers others.

        Raises:
            EndpointError: The server is down, or refuses key, URL or model.
        """
        return self._stream(ask, items, distinct)

    def map(
        self, ask: Callable[["AsyncOpenAI", Item], Awaitable[Answer]], items: Sequence[Item]
    ) -> list[Answer | Unanswered]:
        """The answers to all items, in their order; arguments and errors as for `stream`."""
        answers = dict(self.stream(ask, items))
        return [answers[place] for place in range(len(items))]

    def _stream(
        self, ask: Any, items: Sequence[Any], distinct: Any = None, alone: bool = False
    ) -> Iterator[tuple[int, Any]]:
        if not items:
            return
        arrived: SimpleQueue[Any] = SimpleQueue()
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._run(ask, items, distinct, alone, arrived.put))

        def work() -> None:
            end: BaseException | None = None
            try:
                loop.run_until_complete(task)
            except BaseException as error:  # handed to the thread that asked
                end = error
            finally:
                loop.close()
                arrived.put(end)

        thread = Thread(target=work, name="endpoint", daemon=True)
        thread.start()
        try:
            while isinstance(arrival := arrived.get(), tuple):
                yield arrival
            if arrival is not None:
                raise self._failure(arrival) from arrival
        finally:
            with contextlib.suppress(RuntimeError):  # the loop may have just closed
                loop.call_soon_threadsafe(task.cancel)
            thread.join(_PATIENCE)

    async def _run(self, ask: Any, items: Sequence[Any], distinct: Any, alone: bool, put: Any) -> None:
        from openai import AsyncOpenAI, OpenAIError

        held: dict[int, Exception] = {}  # failed before anything was answered: asked again at the end
        waiting = iter(range(len(items)))
        client = AsyncOpenAI(
            base_url=self.base_url,
            api_key=os.environ.get(self.api_key_env) or "none",
            timeout=self.timeout,
            max_retries=self.retries,
        )

        async def one(place: int) -> None:
            try:
                answer = await ask(client, items[place])
                self._answered = self._answered if alone else (ask, items[place])
            except (OpenAIError, NoAnswer) as error:
                doubtful = is_retried(error) or getattr(error, "status_code", None) == 403  # 403: the key, or a filter
                if doubtful and self._answered is None:
                    held[place] = error
                    if alone or len({distinct(items[other]) for other in held}) >= _DEAD:
                        raise
                    return
                answer = await self._settled(client, ask, items[place], error)
            put((place, answer))

        async def several() -> None:
            for place in waiting:
                await one(place)

        async with client:
            if not (self._begun or alone):  # alone, so that a refused parameter is refused once
                self._begun = True
                await one(next(waiting))
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(items))):
                    group.create_task(several())
            if held and self._answered is None:
                raise next(iter(held.values()))
            for place in held:
                await one(place)

    async def _settled(self, client: "AsyncOpenAI", ask: Any, item: Any, error: Exception) -> Any:
        """What a failed request comes to, where the server still answers: a late answer, or none."""
        from openai import OpenAIError

        if is_retried(error):
            known, good = self._answered
            try:
                await known(client, good)
            except (OpenAIError, NoAnswer):
                raise error from None
            try:
                return await ask(client, item)
            except (OpenAIError, NoAnswer) as again:
                error = again
        status = getattr(error, "status_code", None)
        if status in _FATAL:
            raise error
        return Unanswered(without_key(detail(error), self.api_key_env), self._failure(error))

    def _note(self, name: str, sent: Mapping[str, Any], error: Exception) -> str:
        """What is done about a refused parameter, for people."""
        said = without_key(detail(error), self.api_key_env)
        parameter = name.split(" ")[0]
        value = sent[parameter]
        came = f"{parameter}={value!r}" if isinstance(value, int | float) and parameter != "seed" else parameter
        after = without(sent, [*self._refused, name])
        new = [f"{other}={after[other]!r} was sent instead" for other in after if sent.get(other) != after[other]]
        done = new[0] if new else f"it was left out, so that the server's own default {parameter} holds"
        return f"endpoint {self.base_url} refused {came} ({said}): {done}."

    def _failure(self, error: BaseException) -> EndpointError:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, EndpointError):
            return error
        status: Any = getattr(error, "status_code", None)
        if status in (401, 403):
            advice = f"set the environment variable {self.api_key_env} to a key that it accepts"
        elif status in (404, 405):
            offered = f" (the server lists {', '.join(self._offered[:20])})" if self._offered else ""
            advice = f"check the URL, which mostly ends in /v1, and the name of the model {self.model!r}{offered}"
        elif status is not None and not is_retried(error):
            advice = "change what the server complains about; an option can set or leave out any parameter"
        elif isinstance(error, NoAnswer):
            advice = f"check that the server answers for the model {self.model!r}"
        else:
            advice = (
                "start the server or check the URL, then continue the run with --resume, or an evaluation with the "
                "same command"
            )
        said = without_key(detail(error), self.api_key_env)
        tries = f" after {self.retries} retries" if is_retried(error) else ""
        return EndpointError(
            f"endpoint {self.base_url}: expected an answer, got {type(error).__name__}: {said}{tries}; {advice}."
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
    """Whether another try may fare better: after lost connections, time-outs, 408, 409, 429 and 5xx.

    Args:
        error: Of the package openai, or another.

    Returns:
        True for those.
    """
    from openai import APIConnectionError, APIStatusError

    status = error.code if isinstance(error, NoAnswer) else getattr(error, "status_code", None)
    if isinstance(error, NoAnswer | APIStatusError):
        return status is not None and (status in (408, 409, 429) or status >= 500)
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
