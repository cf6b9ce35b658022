"""Draws n responses per prompt from any source; each prompt is written to disk when it is finished.

Every request carries a seed of its own, from (seed, prompt id, number).
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dqo.files.evaluation import SamplingFolder
from dqo.files.records import Conversation, Group, Prompt
from dqo.files.run import owning
from dqo.models.chat import DEFAULT_MARKERS, TraceMarkers
from dqo.models.endpoint import Unanswered

Answer = tuple[str, str]  # text and finish: "eos", "length", or what a server says beside these
# Rounds of calls, for the responses that a server failed to give.
_ROUNDS = 3
# Prompts without any answer, before the server is to blame and not the prompts.
_REFUSED = 50


@dataclass(frozen=True)
class Request:
    """One call of the model: the message, whose it is, and which of that prompt's calls."""

    prompt_id: str
    number: int
    message: str

    def seed(self, seed: int) -> int:
        """Seed of this request alone, in [0, 2^63), from that of the run."""
        # Of these three alone, so that a sample does not depend on n, on the other prompts or on a restart.
        digest = hashlib.sha256(json.dumps([seed, self.prompt_id, self.number]).encode()).digest()
        return int.from_bytes(digest[:8]) >> 1


class Source:
    """Answers requests; `dqo.evaluation.engines` has the two there are."""

    # Parameters that a server refused -> what was done about each.
    adapted: Mapping[str, str] = {}

    def settings(self) -> dict[str, Any]:
        """What two runs must have in common for their samples to be of one kind."""

    def check(self, requests: Sequence[Request]) -> None:
        """Refuses what could not be answered, before anything is; some engines know only when they come to it."""

    def trust(self, request: Request) -> None:
        """Takes note of a request that was answered at an earlier start."""

    def draw(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Answer | Unanswered]]:
        """Answers every request, in any order, each as soon as it is there."""


# The published prompt, with the number of responses as its one blank.
_PROMPT = """<instructions>
Generate {count} responses to the user query, each within a separate <response> tag. Each <response> must include a \
<text> and a numeric <probability>. Randomly sample responses from the full distribution.
</instructions>

{prompt}"""
_TEXT = re.compile(r"<text>(.*?)</text>", re.DOTALL | re.IGNORECASE)


class Form:
    """What is asked for in one call: a response to the prompt as it is, or `per_call` by Verbalized Sampling.

    Verbalized Sampling (arXiv 2510.01171) reads responses from their <text> tags. One that the token limit cut off, or
    that has no tags, is not read. What is missing after three rounds of calls is recorded as empty responses.
    """

    def __init__(self, per_call: int | None = None, markers: TraceMarkers = DEFAULT_MARKERS):
        self.per_call, self.markers = per_call, markers
        self.name = "plain" if per_call is None else f"verbalized:{per_call}"
        self.rounds = 1 if per_call is None else _ROUNDS

    @classmethod
    def named(cls, name: Any) -> "Form":
        """The form that sampling.json names, plain where it names none."""
        kind, _, per_call = str(name).partition(":")
        return cls(int(per_call) if kind == "verbalized" and per_call.isdecimal() else None)

    def message(self, prompt: str) -> str:
        """What the model is asked."""
        if self.per_call is None:
            return prompt
        if not isinstance(prompt, Conversation):
            return _PROMPT.format(count=self.per_call, prompt=prompt)
        *before, last = prompt.messages
        return Conversation([*before, last | {"content": self.message(last["content"])}])

    def calls(self, missing: int) -> int:
        """Calls for that many responses."""
        return -(-missing // (self.per_call or 1))

    def read(self, answer: Answer, in_trace: bool = False) -> list[Answer]:
        """The responses of one call, as many as were asked for at most; verbalized ones ended by themselves."""
        if self.per_call is None:
            return [answer]
        # What a model drafts in a reasoning trace is no response.
        texts = [text.strip() for text in _TEXT.findall(self.markers.cut(answer[0], in_trace).text)]
        return [(text, "eos") for text in texts if text][: self.per_call]

    def call_length(self, max_new_tokens: int) -> int:
        """Tokens of a call whose responses may have `max_new_tokens` each, tags and probabilities included."""
        return max_new_tokens if self.per_call is None else self.per_call * (max_new_tokens + 32)


def sample_from(
    source: Source, prompts: Sequence[Prompt], n: int, *, out: str | Path | None = None, form: Form | None = None
) -> list[Group]:
    """Draws n responses per prompt from a source.

    Args:
        source: A `LocalModel` or a `ServedModel`.
        prompts: What to ask, ids unique.
        n: Responses per prompt.
        out: Folder for groups.jsonl and sampling.json; an unfinished run of the same settings in it is continued.
        form: Plain where not given.

    Returns:
        One group per prompt, in order, rewards None.

    Raises:
        DQOError: A prompt the source cannot take, a folder that holds another run or is in use, or an endpoint that
            fails for good or answers no prompt; what is finished stays in the folder.
    """
    form = form or Form()
    source.check([Request(prompt.id, 0, form.message(prompt.prompt)) for prompt in prompts])
    with nullcontext() if out is None else owning(out):
        return _sample(source, prompts, n, out, form)


def _sample(source: Source, prompts: Sequence[Prompt], n: int, out: str | Path | None, form: Form) -> list[Group]:
    """Draws what a folder lacks."""
    settings = source.settings() | {"form": form.name, "n": n}
    in_trace = bool(settings.get("prompt_opens_trace"))
    folder = SamplingFolder(out, settings, prompts)
    for known in list(folder.done.values())[:1]:
        source.trust(Request(known.id, 0, form.message(known.prompt)))
    waiting = {prompt.id: _Waiting(prompt) for prompt in prompts if prompt.id not in folder.done}
    with tqdm(total=len(waiting) * n, desc="sampling", unit="response", disable=not waiting) as bar:
        for number in range(1, _ROUNDS + 1):
            requests = [request for prompt in waiting.values() for request in prompt.requests(form, n)]
            for request, answer in source.draw(requests):
                prompt = waiting[request.prompt_id]
                before = len(prompt.responses())
                prompt.take(request, answer if isinstance(answer, Unanswered) else form.read(answer, in_trace))
                bar.update(min(n, len(prompt.responses())) - min(n, before))
                if prompt.is_done(n, last=number >= form.rounds):
                    folder.add(prompt.group(n, form))
                    del waiting[request.prompt_id]
                    folder.record(source.adapted)
                elif isinstance(answer, Unanswered) and not folder.done:
                    _raise_where_none_is_answered(waiting)
    # A prompt that a server does not answer is left out, with the server's reason.
    left_out = {prompt.prompt.id: prompt.unanswered.reason for prompt in waiting.values()}
    folder.record(source.adapted, left_out)
    return folder.finish(prompts)


def _raise_where_none_is_answered(waiting: Mapping[str, "_Waiting"]) -> None:
    """Raises what the server said where it has answered nothing so far, to many prompts or to all."""
    refused = [prompt for prompt in waiting.values() if prompt.unanswered and not prompt.asked]
    if len(refused) >= min(_REFUSED, len(waiting)) and not any(prompt.read for prompt in waiting.values()):
        raise refused[0].unanswered.error


@dataclass
class _Waiting:
    """A prompt that is not finished: what it was asked and what came back, by number of the call."""

    prompt: Prompt
    asked: int = 0  # calls under way
    calls: int = 0
    read: dict[int, list[Answer]] = field(default_factory=dict)
    unanswered: Unanswered | None = None  # the last call of the round that had no answer

    def requests(self, form: Form, n: int) -> list[Request]:
        # None of its calls was answered: asking again would change nothing.
        if self.calls and not self.read:
            return []
        first, self.asked, self.unanswered = self.calls, form.calls(n - len(self.responses())), None
        self.calls += self.asked
        message = form.message(self.prompt.prompt)
        return [Request(self.prompt.id, first + i, message) for i in range(self.asked)]

    def take(self, request: Request, came: list[Answer] | Unanswered) -> None:
        self.asked -= 1
        if isinstance(came, Unanswered):
            self.unanswered = came
        else:
            self.read[request.number] = came

    def is_done(self, n: int, last: bool) -> bool:
        """Whether all calls are back and give n responses, or what is missing is the model's own failure."""
        enough = len(self.responses()) >= n or (last and self.unanswered is None)
        return self.asked == 0 and enough

    def responses(self) -> list[Answer]:
        return [response for number in sorted(self.read) for response in self.read[number]]

    def group(self, n: int, form: Form) -> Group:
        found, prompt, meta = self.responses(), self.prompt, self.prompt.meta
        # What a model failed to give counts as empty responses: leaving it out would hide the failure.
        texts, finish = zip(*(found + [("", "eos")] * n)[:n], strict=True)
        if form.per_call is not None:
            meta = meta | {"sampling": {"form": form.name, "calls": len(self.read), "responses": len(found)}}
        return Group(prompt.id, prompt.prompt, prompt.reference, list(texts), list(finish), None, meta)
