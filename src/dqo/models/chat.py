"""Writes what a policy reads, by its chat template, and reads the one text of what it wrote.

That text is what is judged and embedded, in training and in evaluation: everything the assistant wrote over all its
turns, tool calls included, without reasoning traces and without what tools or users said. Four forms of a trace are
known: between two markers; up to a closing marker, where the prompt holds the opening one; opened and never closed,
which leaves what stood before it; and several of them.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from dqo.errors import DataError, ModelError, RecipeError
from dqo.files.records import Conversation
from dqo.models.weights import first_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pair = tuple[str, str]  # opening and closing marker

DEFAULT_PAIRS: tuple[Pair, ...] = (
    ("<think>", "</think>"),  # DeepSeek, Qwen, GLM, SmolLM, Nemotron
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),  # Magistral, Ministral
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker, Sky-T1
)
_FENCE = re.compile(r"^[ \t]*(```|~~~).*?^[ \t]*\1", re.MULTILINE | re.DOTALL)
_WITHIN_A_SENTENCE = re.compile(r"[,.;:!?)](\s|$)")  # behind a marker that is talked about
_QUOTES = frozenset("`'\"\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"
                    "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}")  # fmt: skip
_TAIL = 512  # tokens of a context in which an open trace is looked for


def chat_text(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, str]],
    *,
    answer_next: bool = True,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Renders messages, {"role", "content"} each, with special tokens written out; ModelError where that fails."""
    # A template is a program of whoever published the model. transformers runs it in Jinja's sandbox, where it can
    # reach no Python object but the conversation.
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=answer_next, **options or {}
        )
    except Exception as error:
        # Jinja's, or whatever the template's own arithmetic raises.
        remedy = "leave the system_prompt out, or " if messages[0]["role"] == "system" else ""
        raise ModelError(
            f"expected the chat template of {tokenizer.name_or_path!r} to render a conversation, but it failed "
            f"({first_words(error)}); {remedy}fix chat_template in its tokenizer_config.json, or chat_template.jinja."
        ) from error


def conversation(prompt: str, system: str | None = None) -> list[dict[str, str]]:
    """Makes messages of a prompt; without a system prompt the template may have one of its own."""
    messages = prompt.messages if isinstance(prompt, Conversation) else [{"role": "user", "content": prompt}]
    if system is None:
        return messages
    if messages[0]["role"] == "system":
        raise DataError(
            f"system_prompt: expected prompts without a system message, got {messages[0]['content'][:80]!r} in one; "
            "remove either."
        )
    return [{"role": "system", "content": system}, *messages]


def rendered(
    prompt: str,
    tokenizer: "PreTrainedTokenizerBase",
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Writes a prompt as the policy reads it; text stays as it is without a chat template."""
    if not tokenizer.chat_template and isinstance(prompt, Conversation):
        raise ModelError(
            f"expected a model with a chat template for prompts of several messages, got {tokenizer.name_or_path!r}, "
            "which reads plain text; choose another model, or write each prompt as one text."
        )
    if not tokenizer.chat_template:
        return prompt
    return chat_text(tokenizer, conversation(prompt, system), options=options)


def check_system(system: str | None, template: str | None, model: str) -> None:
    """Refuses, with ModelError, a system prompt for a model that would not see it, having no chat template."""
    if system is not None and not template:
        raise ModelError(
            f"system_prompt: expected a model with a chat template, got {model!r}, which reads plain text; remove "
            "it, or write it into the prompts."
        )


class Response(str):
    """The text of a response as it is judged. `completion_text` returns it unchanged, so traces are removed once.

    Attributes:
        traced: Whether there was a reasoning trace.
        unclosed: Whether a trace was opened and never closed.
        sampled: What the model wrote, traces included; the text itself where not given.
    """

    traced: bool
    unclosed: bool
    sampled: str

    def __new__(cls, text: str, traced: bool = False, unclosed: bool = False, sampled: str | None = None) -> "Response":
        """Attaches what was found to the text."""
        response = super().__new__(cls, text)
        response.traced, response.unclosed, response.sampled = traced, unclosed, text if sampled is None else sampled
        return response


# Completions as TRL decodes or parses them, with the `Response` that was read from their tokens.
class SampledText(str):
    """A completion that is text."""

    response: Response


class SampledMessages(list):
    """A completion that is messages."""

    response: Response


class Cut(NamedTuple):
    """A turn without its traces.

    Attributes:
        text: What is left.
        traced: Whether there was a trace with anything in it, or one that was not closed.
        unclosed: Whether a trace was opened and never closed.
        from_prompt: Whether a closing marker came first, so that the prompt must hold the opening one.
    """

    text: str
    traced: bool
    unclosed: bool
    from_prompt: bool


class _Mark(NamedTuple):
    start: int
    end: int
    pair: Pair
    opens: bool


@dataclass(frozen=True)
class TraceMarkers:
    """Opening and closing markers of reasoning traces; no pair at all leaves every text as it is."""

    pairs: tuple[Pair, ...] = DEFAULT_PAIRS

    @classmethod
    def parse(cls, setting: str) -> "TraceMarkers":
        """Reads the setting `trace_markers`; RecipeError for what is no such setting."""
        # "default", "off", or pairs OPEN...CLOSE separated by commas, such as "default, <plan>...</plan>".
        if setting.strip() == "off":
            return cls(())
        pairs: list[Pair] = []
        for part in setting.split(","):
            opening, dots, closing = (piece.strip() for piece in part.partition("..."))
            if part.strip() == "default":
                pairs += DEFAULT_PAIRS
            elif opening and dots and closing and opening != closing:
                pairs.append((opening, closing))
            else:
                raise RecipeError(
                    "trace_markers: expected 'default', 'off' or pairs such as '<plan>...</plan>', got "
                    f"{part.strip()!r} in {setting!r}; write OPEN...CLOSE, several separated by commas."
                )
        return cls(tuple(pairs))

    def cut(self, text: str, opened: bool = False) -> Cut:
        """Removes the traces of what the assistant wrote in one turn; `opened` where the prompt opened one."""
        marks = list(self._marks(text))
        if not marks and not opened:
            return Cut(text, False, False, False)
        last_closing = {mark.pair: i for i, mark in enumerate(marks) if not mark.opens}  # of each kind
        kept: list[str] = []
        place, inside, cuts, traced, from_prompt, mentioned = 0, opened, 0, False, False, False
        closing: str | None = None  # the marker that ends the trace; None where any does
        fences = _find_fences(text, 0)
        for i, mark in enumerate(marks):
            starts_line = not text[place : mark.start].rpartition("\n")[2].strip()
            if inside:
                # A marker in an open trace counts wherever it stands.
                ends = not mark.opens and closing in (None, mark.pair[1])
            elif any(start <= mark.start < end for start, end in fences):
                # In a code block of the answer it is a mention.
                continue
            elif mark.opens:
                # It counts at the beginning of a line, and behind a first trace where its closing marker follows.
                if starts_line or (cuts and last_closing.get(mark.pair, -1) > i):
                    kept.append(text[place : mark.start])
                    place, inside, closing = mark.end, True, mark.pair[1]
                else:
                    mentioned = True
                continue
            else:
                # Nothing opened it, so the prompt did, unless the text talks about it ("… ends with </think>, then").
                ends = starts_line or not (cuts or mentioned or _WITHIN_A_SENTENCE.match(text, mark.end))
                if ends:
                    kept.clear()
                    from_prompt = from_prompt or not cuts
            if ends:
                traced = traced or bool(text[place : mark.start].strip())
                place, inside, closing, cuts, mentioned = mark.end, False, None, cuts + 1, False
                fences = _find_fences(text, place)
        if not inside:
            kept.append(text[place:])
        rest = "".join(kept)
        return Cut(rest.lstrip() if cuts or inside else rest, traced or inside, inside, from_prompt)

    def opened_by(self, context: str) -> bool:
        """Tells whether what the model read of its turn ends within a trace, to which its next token then belongs."""
        # The opening marker is then the last one, and stands at the end or at the beginning of a line.
        last = max(self._marks(context), default=None)
        if last is None or not last.opens:
            return False
        starts_line = not context[: last.start].rpartition("\n")[2].strip()
        return starts_line or not context[last.end :].strip()

    @cached_property
    def _pattern(self) -> re.Pattern:
        markers = sorted({marker for pair in self.pairs for marker in pair}, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, markers)) or r"(?!)", re.IGNORECASE)

    @cached_property
    def _kinds(self) -> dict[str, tuple[Pair, bool]]:
        return {pair[side].lower(): (pair, side == 0) for pair in reversed(self.pairs) for side in (1, 0)}

    @cached_property
    def _starts(self) -> str:
        """The characters that markers begin with; none where one is a letter, whose case does not count."""
        starts = {marker[0] for pair in self.pairs for marker in pair}
        return "" if any(map(str.isalpha, starts)) else "".join(starts)

    def _marks(self, text: str) -> Iterator[_Mark]:
        """Markers in order, those in quotes left out."""
        # Most texts hold none, and this says so in a tenth of the time.
        if self._starts and not any(start in text for start in self._starts):
            return
        for match in self._pattern.finditer(text):
            start, end = match.span()
            if not (start and text[start - 1] in _QUOTES and text[end : end + 1] in _QUOTES):
                yield _Mark(start, end, *self._kinds[match[0].lower()])


def _find_fences(text: str, start: int) -> list[tuple[int, int]]:
    """Code blocks that are closed."""
    return [match.span() for match in _FENCE.finditer(text, start)]


DEFAULT_MARKERS = TraceMarkers()


def completion_text(completion: Any, markers: TraceMarkers = DEFAULT_MARKERS) -> Response:
    """Reads the text of a completion, a string or messages, as TRL passes it to reward functions, without traces.

    Of messages those of the assistant count. A `Response`, and what DQO's trainers sampled, was read before.
    """
    if isinstance(completion, Response):
        return completion
    if isinstance(completion, SampledText | SampledMessages):
        return completion.response
    if isinstance(completion, str):
        return joined([completion], [markers.cut(completion)])
    turns = [message for message in completion or () if message.get("role", "assistant") == "assistant"]
    texts = [_message_text(message) for message in turns]
    cuts = [markers.cut(text) for text in texts]
    for i, message in enumerate(turns):
        if _has_trace_of_its_own(message):  # the parser has taken the trace out of the content
            cuts[i] = cuts[i]._replace(traced=True, unclosed=cuts[i].unclosed or not texts[i].strip())
    return joined(texts, cuts)


def with_response(completion: str | list, response: Response) -> SampledText | SampledMessages:
    """Copies a completion, a string or messages, so that `completion_text` reads the response given here."""
    found = SampledText(completion) if isinstance(completion, str) else SampledMessages(completion)
    found.response = response
    return found


def joined(texts: Sequence[str], cuts: Sequence[Cut]) -> Response:
    """Joins what the assistant wrote in each turn, and the same without traces; turns without text are left out."""
    parts = [cut.text for cut in cuts if cut.text.strip()] if len(cuts) > 1 else [cut.text for cut in cuts]
    traced, unclosed = any(cut.traced for cut in cuts), any(cut.unclosed for cut in cuts)
    return Response("\n".join(parts), traced, unclosed, "\n".join(texts))


def prompt_text(prompt: Any) -> str:
    """Writes a prompt, a string or chat messages, as a judge reads it, without the system's words.

    Of several messages each has its role before it.
    """
    if isinstance(prompt, str):
        return prompt
    messages = [message for message in prompt if message.get("role") != "system"] or list(prompt)
    if len(messages) == 1:
        return _message_text(messages[0])
    return "\n\n".join(f"{message.get('role', 'user')}: {_message_text(message)}" for message in messages)


def _message_text(message: Mapping[str, Any]) -> str:
    """Content and tool calls; the calls as most models write them themselves."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text", "") for part in content if part.get("type") == "text")
    calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
    written = [f"<tool_call>\n{_call_text(call)}\n</tool_call>" for call in calls]
    return "\n".join([content, *written] if content else written)


def _call_text(call: Mapping[str, Any]) -> str:
    arguments = call.get("arguments", {})
    if isinstance(arguments, str):  # as servers send them
        with suppress(ValueError):  # what the model wrote may be no JSON: then it stands as it is
            arguments = json.loads(arguments)
    return json.dumps({"name": call.get("name"), "arguments": arguments}, ensure_ascii=False, default=str)


def _has_trace_of_its_own(message: Mapping[str, Any]) -> bool:
    if any(message.get(name) for name in ("reasoning_content", "reasoning", "thinking")):
        return True
    content = message.get("content")
    return isinstance(content, list) and any(part.get("type") in ("thinking", "reasoning") for part in content)


class ResponseReader:
    """Reads responses from their tokens, so that markers which are special tokens are seen."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", markers: TraceMarkers = DEFAULT_MARKERS) -> None:
        self.tokenizer, self.markers = tokenizer, markers
        special = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        parts = [marker for pair in markers.pairs for marker in pair]
        self._kept = {i for i, token in special.items() if any(token in part for part in parts)}
        self._dropped = set(special) - self._kept

    def __call__(self, prompt_ids: Sequence[int], ids: Sequence[int], mask: Sequence[int] | None = None) -> Response:
        """Reads a response from its (T,) tokens and those of the prompt, in which padding may stand first."""
        # The mask, (T,), is 1 where the model wrote the token, 0 where a tool or a user did; None where it wrote all.
        turns = _written(len(ids), mask)
        texts = [self.decode(ids[start:end]) for start, end in turns]
        opened = [self.opened([*prompt_ids[-_TAIL:], *ids[:start]]) for start, _ in turns]
        return joined(texts, [self.markers.cut(*turn) for turn in zip(texts, opened, strict=True)])

    def decode(self, ids: Sequence[int]) -> str:
        """Writes (T,) tokens as text, without special tokens other than markers of traces."""
        if self._kept.isdisjoint(ids):
            return self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return self.tokenizer.decode([i for i in ids if i not in self._dropped], skip_special_tokens=False)

    def opened(self, context: Sequence[int]) -> bool:
        """Tells from all tokens that the model has read whether it is within a trace before it writes anything."""
        tail = list(context[-_TAIL:])
        turn = next((i + 1 for i in reversed(range(len(tail))) if tail[i] in self._dropped), 0)
        return self.markers.opened_by(self.decode(tail[turn:]))


def _written(length: int, mask: Sequence[int] | None) -> list[tuple[int, int]]:
    """Finds where each turn of the model begins and ends among the tokens."""
    if mask is None or not length:
        return [(0, length)]
    edges = [i for i in range(length) if mask[i] and (i == 0 or not mask[i - 1])]
    ends = [i + 1 for i in range(length) if mask[i] and (i + 1 == length or not mask[i + 1])]
    return list(zip(edges, ends, strict=True))
