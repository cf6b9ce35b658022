"""Scores whole groups of texts for a trainer that is not TRL: their embeddings, credits and shaped rewards."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dqo.diversity.credit import Evidence, shape_reward
from dqo.diversity.set_functions import set_credit
from dqo.diversity.settings import DiversitySpec, EncoderFields
from dqo.diversity.signals import SIGNALS
from dqo.embedders import load_embedder
from dqo.errors import DQOError, RecipeError
from dqo.models.chat import TraceMarkers
from dqo.rewards.loading import checked_span, import_function
from dqo.settings.checking import setting

# What is logged of a group; names and units are those of `dqo.diversity.credit.GroupCredit`.
NUMBERS = ("log_volume", "quality_volume", "vendi", "cosine_distance")
# What a scorer gathers for a signal beside embeddings.
GATHERED = {"marginal"}


@dataclass
class AnswerFields(EncoderFields):
    """What measures diversity, and on which text: fields alone."""

    answer_span: str | None = setting(
        None,
        "'pkg.module.function' or 'path/to/file.py:function', response text -> the text that is embedded; the whole "
        "text where not given.",
    )


@dataclass
class GroupSettings(AnswerFields, DiversitySpec):
    """What diversity means (the fields of DiversitySpec), and what measures it on which text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        TraceMarkers.parse(self.trace_markers)
        # Those that act through rewards; likelihoods, advantages and the loss stay the trainer's.
        reached = {name: row for name, row in SIGNALS.items() if row.acts_on_reward or row.place == "none"}
        known = [name for name, row in reached.items() if set(row.needs) <= GATHERED]
        if self.diversity not in known or not set(self.needs) <= GATHERED:
            raise RecipeError(
                f"dqo.diversity: expected one of {', '.join(known)} without `same_answer`, got {self.diversity!r}, "
                "which reads or changes what stays the trainer's; choose one of these."
            )


@dataclass(frozen=True)
class Group:
    """The responses of one prompt.

    Attributes:
        texts: G responses, as text.
        rewards: G task rewards.
        keys: G names of the responses, for messages.
        prompt: What was asked, as the policy read it.
    """

    texts: list[str]
    rewards: list[float]
    keys: list[str]
    prompt: str = ""


@dataclass(frozen=True)
class ScoredGroup:
    """A group after embedding.

    Attributes:
        shaped: G rewards that are optimised.
        credit: G credits, in the unit of the settings.
        numbers: `NUMBERS` by name.
    """

    shaped: list[float]
    credit: list[float]
    numbers: dict[str, float]


class GroupScorer:
    """Turns texts and task rewards of groups into shaped rewards, all in this process.

    Args:
        settings: The run's settings.
        device: Of the encoder; None takes the GPU where there is one.

    Raises:
        EncoderError: No such encoder.
        RecipeError: No such `answer_span`.
    """

    def __init__(self, settings: GroupSettings, device: str | None = "cpu") -> None:
        self._settings = settings
        span = settings.answer_span
        self._span = checked_span(import_function(span, "dqo.answer_span", "response") if span else None)
        named = settings.set_function
        self._worth = import_function(named, "dqo.set_function", "prompt, answers, rewards") if named else None
        self._embed = load_embedder(settings.encoder, **settings.encoder_options() | {"device": device})

    def __call__(self, groups: list[Group], alpha: float | None = None) -> list[ScoredGroup]:
        """Scores P groups of any sizes, in order, with the settings' alpha where none is given."""
        if not groups:
            return []
        spec = self._settings if alpha is None else replace(self._settings, alpha=alpha)
        answers = [[self._span(text) for text in group.texts] for group in groups]  # P times G
        E = self._embed([answer for group in answers for answer in group])  # (N, D)
        parts = E.split([len(group.texts) for group in groups])  # P times (G, D)
        return [self._score(*group, spec) for group in zip(groups, answers, parts, strict=True)]

    def _score(self, group: Group, answers: list[str], E: Tensor, spec: GroupSettings) -> ScoredGroup:
        rewards = torch.tensor([group.rewards], dtype=torch.float64)  # (1, G)
        evidence = Evidence()
        try:
            if self._worth is not None:
                takes_part = spec.passes(rewards) & torch.tensor([[bool(answer.strip()) for answer in answers]])
                asked = [group.prompt], [answers], rewards, takes_part
                evidence = Evidence(marginal=set_credit(self._worth, spec.set_function, *asked).to(E.device))
            shaped, credit = shape_reward(rewards, E[None], spec, evidence)  # (1, G)
        except DQOError as error:
            # The mathematics counts rows; the user knows responses.
            raise type(error)(f"of the responses {', '.join(group.keys)}, counted from 0: {error}") from error
        numbers = {name: getattr(credit, name)[0].item() for name in NUMBERS}
        return ScoredGroup(shaped[0].tolist(), credit.credit[0].tolist(), numbers)
