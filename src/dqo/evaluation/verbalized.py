"""Verbalized Sampling: ask the model for several responses with their probabilities in one call, as a baseline.

The baseline needs no training: it undoes part of the collapse by the prompt alone. Whoever trains for diversity should
beat it, in quality too.
"""

import re
from typing import Any

from dqo.evaluation.sample import Answer
from dqo.response import DEFAULT_MARKERS, TraceMarkers

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
