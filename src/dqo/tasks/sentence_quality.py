"""Quality of one sentence that uses given words, shared by the tasks that ask for one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dqo.models import DEFAULT_POLICY
from dqo.records import Prompt
from dqo.rewards.coverage import coverage
from dqo.tasks.fields import meta_field

if TYPE_CHECKING:
    from dqo.rewards.fluency import Fluency

UNPUNCTUATED = 0.5  # a response that ended by itself, but without . ! or ?


class SentenceQuality:
    """coverage × fluency × ended of sentences, the model of the fluency loaded at the first call.

    Args:
        task: Name of the task, for messages.
        fluency_model: Name or folder of the model that judges fluency; None takes fluency as 1.
        fluency_low: Log-probability per word, in nats, worth 0; None for the one measured for the default model.
        fluency_high: The one worth 1, likewise.
    """

    def __init__(
        self,
        task: str,
        fluency_model: str | None = DEFAULT_POLICY,
        fluency_low: float | None = None,
        fluency_high: float | None = None,
    ):
        self._task = task
        self._model = fluency_model
        self._bounds = {"low": fluency_low, "high": fluency_high}
        self._fluency: Fluency | None = None

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float]:
        """The product of the three for each of the N rows, in [0, 1].

        The model of the fluency is what costs time, so it reads a text once however often it was given, and not at all
        where the rules make the product 0.
        """
        rules = self._rules(prompts, responses, ended)
        worth = [c * e for c, e in zip(rules["coverage"], rules["ended"], strict=True)]
        texts = sorted({response for response, value in zip(responses, worth, strict=True) if value > 0})
        fluency = dict(zip(texts, self._fluency_of(texts), strict=True))
        return [
            value * fluency[response] if value > 0 else 0.0 for value, response in zip(worth, responses, strict=True)
        ]

    def _rules(
        self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]
    ) -> dict[str, list[float]]:
        """The factors that no model is needed for."""
        return {
            "coverage": [
                coverage(response, meta_field(prompt, "concepts", list[str], self._task))
                for prompt, response in zip(prompts, responses, strict=True)
            ],
            "ended": [_ended(response, end) for response, end in zip(responses, ended, strict=True)],
        }

    def _fluency_of(self, responses: Sequence[str]) -> list[float]:
        if self._model is None:
            return [1.0] * len(responses)
        if self._fluency is None:
            from dqo.rewards.fluency import Fluency

            given = {name: value for name, value in self._bounds.items() if value is not None}
            self._fluency = Fluency(self._model, **given)
        return self._fluency(responses)


def _ended(response: str, ended: bool) -> float:
    if not ended:
        return 0.0
    return 1.0 if response.rstrip().rstrip("\"'”’)").endswith((".", "!", "?")) else UNPUNCTUATED
