"""Responses to prompts: n a prompt from any source, each prompt written to disk when it is finished.

A source is a model in this process, a vLLM engine or an endpoint. Every request carries a seed of its own, from (seed,
prompt id, number), so that a sample does not depend on n, on the other prompts or on a restart.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tqdm.auto import tqdm

from dqo.errors import DataError
from dqo.files.evaluation import SamplingFolder
from dqo.files.records import Group, Prompt
from dqo.files.run import owning
from dqo.models.endpoint import Unanswered
from dqo.models.response import DEFAULT_MARKERS, TraceMarkers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Answer = tuple[str, str]  # text and finish: "eos", "length", or what a server says beside these
_ROUNDS = 3  # of calls, for the responses that a server failed to give
_REFUSED = 50  # prompts without any answer, before the server is to blame and not the prompts


@dataclass(frozen=True)
class Request:
    """One call of the model: the message, whose it is, and which of that prompt's calls."""

    prompt_id: str
    number: int
    message: str

    def seed(self, seed: int) -> int:
        """Seed of this request alone, in [0, 2^63), from that of the run."""
        digest = hashlib.sha256(json.dumps([seed, self.prompt_id, self.number]).encode()).digest()
        return int.from_bytes(digest[:8]) >> 1


def template_mark(template: Any) -> str | None:
    """A short mark of a chat template, by which evaluations see that theirs differ; None without one."""
    return hashlib.sha256(str(template).encode()).hexdigest()[:8] if template else None


class Source(Protocol):
    """What answers requests."""

    def settings(self) -> dict[str, Any]:
        """What two runs must have in common for their samples to be of one kind."""
        ...

    def check(self, requests: Sequence[Request]) -> None:
        """Refuse what could not be answered, before anything is."""
        ...

    def draw(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Answer | Unanswered]]:
        """The answer of every request, in any order, each as soon as it is there."""
        ...


class Plain:
    """The prompt as it is; one call gives one response."""

    name, rounds = "plain", 1

    def message(self, prompt: str) -> str:
        """What the model is asked."""
        return prompt

    def calls(self, missing: int) -> int:
        """Calls for that many responses."""
        return missing

    def read(self, answer: Answer, in_trace: bool) -> list[Answer]:
        """The responses of one call."""
        return [answer]


def sample_from(
    source: Source, prompts: Sequence[Prompt], n: int, *, out: str | Path | None = None, form: Any = None
) -> list[Group]:
    """Draw n responses a prompt from a source.

    Args:
        source: A `LocalModel`, `VllmEngine` or `ServedModel`.
        prompts: What to ask, ids unique.
        n: Responses a prompt.
        out: Folder for groups.jsonl and sampling.json; an unfinished run of the same settings in it is continued.
        form: `Plain` or `Verbalized`; plain where not given.

    Returns:
        One group a prompt, in the prompts' order, rewards None. A prompt whose n responses a server does not give
        is left out; sampling.json holds its id and the server's reason.

    Raises:
        DataError: An n below 1, a prompt the source cannot take, or a folder that holds another run.
        EndpointError: An endpoint that fails for good or answers no prompt; what is finished stays in the folder.
        FolderBusyError: Another process writes to the folder.
    """
    if not n == int(n) >= 1:
        raise DataError(f"`n` must be a whole number of 1 or more to sample, got {n}.")
    form = form or Plain()
    source.check([Request(prompt.id, 0, form.message(prompt.prompt)) for prompt in prompts])
    with nullcontext() if out is None else owning(out):
        return _sample(source, prompts, n, out, form)


def _sample(source: Source, prompts: Sequence[Prompt], n: int, out: str | Path | None, form: Any) -> list[Group]:
    """Draws what a folder of this thread lacks."""
    settings = source.settings() | {"form": form.name, "n": n}
    in_trace = bool(settings.get("prompt_opens_trace"))
    folder = SamplingFolder(out, settings, prompts)
    if folder.done and hasattr(source, "trust"):
        known = next(iter(folder.done.values()))
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
                    folder.record(getattr(source, "adapted", {}))
                elif isinstance(answer, Unanswered) and not folder.done:
                    _check_any_answer(waiting)
    left_out = {prompt.prompt.id: prompt.unanswered.reason for prompt in waiting.values()}
    folder.record(getattr(source, "adapted", {}), left_out)
    return folder.finish(prompts)


def _check_any_answer(waiting: dict[str, "_Waiting"]) -> None:
    """Raise what the server said where it has answered nothing so far, to many prompts or to all."""
    refused = [prompt for prompt in waiting.values() if prompt.unanswered and not prompt.asked]
    if len(refused) >= min(_REFUSED, len(waiting)) and not any(prompt.read for prompt in waiting.values()):
        raise refused[0].unanswered.error


class _Waiting:
    """A prompt that is not finished: what it was asked and what came back, by number of the call."""

    def __init__(self, prompt: Prompt):
        self.prompt, self.asked, self.calls = prompt, 0, 0
        self.read: dict[int, list[Answer]] = {}
        self.unanswered: Unanswered | None = None  # the last call of the round that had no answer

    def requests(self, form: Any, n: int) -> list[Request]:
        if self.calls and not self.read:  # none of its calls was answered: asking again would change nothing
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

    def group(self, n: int, form: Any) -> Group:
        found = self.responses()
        # What a model failed to give counts as empty responses: leaving it out would hide the failure.
        answers = (found + [("", "eos")] * n)[:n]
        texts, finish = [text for text, _ in answers], [end for _, end in answers]
        prompt = self.prompt
        meta = prompt.meta
        if form.name != Plain.name:
            meta = meta | {"sampling": {"form": form.name, "calls": len(self.read), "responses": len(found)}}
        return Group(prompt.id, prompt.prompt, prompt.reference, texts, finish, None, meta)


def sample_groups(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    n: int,
    *,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 1.0,
    out: str | Path | None = None,
) -> list[Group]:
    """Draw n responses a prompt from a model in memory: `sample_from` a `LocalModel`.

    Args:
        model: A causal language model, on the device it shall run on.
        tokenizer: Its tokenizer.
        prompts: What to ask, ids unique.
        n: Responses a prompt.
        seed: Any whole number.
        max_new_tokens: Longest response in tokens; one that reaches it has `finish` "length", the others "eos".
        batch_size: Responses generated at a time.
        temperature: Above 0.
        out: As for `sample_from`.

    Returns:
        One group a prompt, in the prompts' order, rewards None.

    Raises:
        DataError: If a number is out of range, a prompt does not fit the model's context, or the folder holds a run
            of other settings, weights or prompts.
    """
    from dqo.evaluation.local_model import LocalModel

    source = LocalModel(model, tokenizer, seed, max_new_tokens, temperature, batch_size)
    return sample_from(source, prompts, n, out=out)


def check_settings(**settings: float) -> None:
    """Refuse numbers that cannot be sampled with.

    Args:
        **settings: `temperature`, a finite number above 0; whole numbers of 1 or more under any other name.

    Raises:
        DataError: Names the setting.
    """
    for name, value in settings.items():
        if not (0 < value < float("inf") if name == "temperature" else value == int(value) >= 1):
            kind = "a finite number above 0" if name == "temperature" else "a whole number of 1 or more"
            raise DataError(f"`{name}` must be {kind} to sample, got {value}.")


# Verbalized Sampling: ask the model for several responses with their probabilities in one call, as a baseline.
#
# The baseline needs no training: it undoes part of the collapse by the prompt alone. Whoever trains for diversity
# should
# beat it, in quality too.

# The published prompt, with the number of responses as its one blank.
_PROMPT = """<instructions>
Generate {count} responses to the user query, each within a separate <response> tag. Each <response> must include a \
<text> and a numeric <probability>. Randomly sample responses from the full distribution.
</instructions>

{prompt}"""
_TEXT = re.compile(r"<text>(.*?)</text>", re.DOTALL | re.IGNORECASE)


class Verbalized:
    """Several responses a call, read from their <text> tags; calls repeat until there are enough.

    A response that the token limit cut off, or that has no tags, is not read. After `rounds` rounds of calls what is
    still missing is recorded as empty responses, and the number of responses read is in `meta["sampling"]`.

    Args:
        per_call: Responses asked for in one call; 5 in the paper.
        markers: Of reasoning traces; what a model drafts in one is no response.

    Source: Zhang et al. 2025, "Verbalized Sampling", arXiv 2510.01171.
    """

    rounds = 3

    def __init__(self, per_call: int = 5, markers: TraceMarkers = DEFAULT_MARKERS):
        self.per_call, self.markers = per_call, markers
        self.name = f"verbalized:{per_call}"

    def message(self, prompt: str) -> str:
        """What the model is asked."""
        return _PROMPT.format(count=self.per_call, prompt=prompt)

    def calls(self, missing: int) -> int:
        """Calls for that many responses."""
        return -(-missing // self.per_call)

    def read(self, answer: Answer, in_trace: bool = False) -> list[Answer]:
        """The responses of one call, as many as were asked for at most; each ended by itself.

        Args:
            answer: Text and finish of the call.
            in_trace: Whether the prompt opened a reasoning trace.

        Returns:
            Text and finish of each response.
        """
        texts = [text.strip() for text in _TEXT.findall(self.markers.cut(answer[0], in_trace).text)]
        return [(text, "eos") for text in texts if text][: self.per_call]

    def call_length(self, max_new_tokens: int) -> int:
        """Tokens of a call whose responses may have `max_new_tokens` each, tags and probabilities included."""
        return self.per_call * (max_new_tokens + 32)


def length_of_call(form: Any, max_new_tokens: int) -> int:
    """Tokens of a call, by the name of the form that sampling.json has, for responses of `max_new_tokens` each.

    Args:
        form: Such as "verbalized:5"; any other calls once a response.
        max_new_tokens: Longest response.

    Returns:
        What sampling.json has under `max_new_tokens`.
    """
    kind, _, per_call = str(form).partition(":")
    verbalized = kind == "verbalized" and per_call.isdecimal()
    return Verbalized(int(per_call)).call_length(max_new_tokens) if verbalized else max_new_tokens
