"""A language model behind an endpoint as judge: how good a response is, and whether two say the same.

A judge reads what it judges: a response may try to talk it into a rating. Read some by hand, and keep the judge's model
another than the policy's.
"""

import re
from collections.abc import Sequence
from typing import Any

from dqo.errors import EndpointError
from dqo.evaluation.sample import Request
from dqo.evaluation.served_model import ServedModel

_SAME = """Two responses to the same request follow. Would a reader who has seen the first gain nothing new from the \
second, because both say the same? Answer with one word, "same" or "different".

<first>
{first}
</first>

<second>
{second}
</second>"""
_RATE = """Rate how well the response answers the request: correct, complete, clear and fluent. Answer with one whole \
number from 1 (useless) to 10 (could not be better) and nothing else.

<request>
{prompt}
</request>

<response>
{response}
</response>"""
_RATING = re.compile(r"\s*(10|[1-9])\s*(?:/\s*10)?\s*\.?\s*")
_VERDICT = re.compile(r"\W*(same|different)\b", re.IGNORECASE)
_NEARLY_GREEDY = 0.01  # some servers refuse 0


class Judge:
    """Asks one model both questions.

    Args:
        model: Name under which the server offers the judge.
        url: Base of the API, such as http://localhost:8001/v1.
        **settings: `concurrency`, `timeout` and `retries`, as `ServedModel` takes them.

    Raises:
        EndpointError: A server that does not answer or does not offer the model.
    """

    def __init__(self, model: str, url: str, **settings: Any):
        self.name = f"judge:{model}"
        self._endpoint = ServedModel(model, url, seed=0, max_new_tokens=16, temperature=_NEARLY_GREEDY, **settings)

    def same(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether the second text of each pair says the same as the first.

        Args:
            pairs: Pairs of responses.

        Returns:
            One answer a pair.

        Raises:
            EndpointError: An answer that is neither "same" nor "different", or an endpoint that fails.
        """
        answers = self._ask([_SAME.format(first=first, second=second) for first, second in pairs])
        found = [_VERDICT.match(answer) for answer in answers]
        for answer, verdict in zip(answers, found, strict=True):
            if verdict is None:
                raise EndpointError(
                    f"{self.name}: expected 'same' or 'different', got {answer[:60]!r}; choose a judge that follows "
                    "instructions and answers without thinking aloud."
                )
        return [verdict[1].lower() == "same" for verdict in found]

    def quality(self, prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float | None]:
        """How good each completion is, as a reward function.

        Args:
            prompts: N prompts.
            completions: N responses.
            **columns: What else a reward function is given; not read.

        Returns:
            N ratings divided by 10, in [0.1, 1]; 0 for a blank response, which is not shown; None where the judge gave
            no rating.

        Raises:
            EndpointError: An endpoint that fails.
        """
        shown = [i for i, text in enumerate(completions) if text.strip()]
        asked = [_RATE.format(prompt=prompts[i], response=completions[i]) for i in shown]
        ratings: list[float | None] = [0.0] * len(completions)
        for i, answer in zip(shown, self._ask(asked), strict=True):
            rating = _RATING.fullmatch(answer)
            ratings[i] = int(rating[1]) / 10 if rating else None
        return ratings

    def _ask(self, messages: list[str]) -> list[str]:
        requests = [Request(f"pair or response {i}", 0, message) for i, message in enumerate(messages)]
        answers = {request: answer[0] for request, answer in self._endpoint.draw(requests)}
        return [answers[request] for request in requests]


class SameByJudge:
    """A judge as what decides that two responses mean the same.

    Args:
        judge: The judge.
    """

    def __init__(self, judge: Judge):
        self.name, self._judge = judge.name, judge

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """One answer a pair."""
        return self._judge.same(pairs)
