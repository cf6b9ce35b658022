"""Responses of groups as they are judged: without reasoning traces, which the files keep as they were sampled."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dqo.records import Group
from dqo.response import DEFAULT_MARKERS, Response, TraceMarkers, joined


def judged(
    groups: Sequence[Group], markers: TraceMarkers = DEFAULT_MARKERS, sampling: Mapping[str, Any] | None = None
) -> list[Group]:
    """The groups with every response as a `Response`; those that are one already stay as they are.

    Where a prompt opens the trace, a response that was cut off within it shows no marker at all. Who sampled here knows
    whether prompts do (`prompt_opens_trace` in sampling.json). Of other responses it is inferred: they do where most
    responses that ended by themselves hold a closing marker that nothing opened.

    Args:
        groups: As they were sampled.
        markers: Of reasoning traces.
        sampling: The content of sampling.json; None where it is not known.

    Returns:
        The same groups with the text that is judged.
    """
    known = sampling or {}
    if str(known.get("form", "plain")) != "plain":  # several responses a call, read from what stood after the trace
        opened = False
    else:
        opened = known.get("prompt_opens_trace")
        opened = _inferred(groups, markers) if opened is None else opened
    return [
        replace(group, responses=[_read(text, markers, opened or _opens(group, markers, known))
                                  for text in group.responses])
        for group in groups
    ]  # fmt: skip


def trace_notes(groups: Sequence[Group]) -> list[str]:
    """How many responses had a trace, for the notes of an evaluation.

    Args:
        groups: As `judged` returns them.

    Returns:
        One sentence or none.
    """
    responses = [response for group in groups for response in group.responses]
    traced = sum(response.traced for response in responses)
    unclosed = sum(response.unclosed for response in responses)
    if not traced:
        return []
    return [
        f"{traced / len(responses):.1%} of {len(responses)} responses have a reasoning trace, which is neither judged "
        f"nor measured; {unclosed / len(responses):.1%} never close it, so that they hold no answer."
    ]


def _read(text: str, markers: TraceMarkers, opened: bool) -> Response:
    return text if isinstance(text, Response) else joined([text], [markers.cut(text, opened)])


def _opens(group: Group, markers: TraceMarkers, sampling: Mapping[str, Any]) -> bool:
    """Whether a prompt that is no chat message ends with an opening marker."""
    return not sampling.get("chat_template") and markers.opened_by(group.prompt)


def _inferred(groups: Sequence[Group], markers: TraceMarkers) -> bool:
    ended = [
        text
        for group in groups
        for text, finish in zip(group.responses, group.finish, strict=True)
        if finish == "eos" and not isinstance(text, Response)
    ]
    return sum(markers.cut(text).from_prompt for text in ended) > len(ended) / 2
