"""Concepts to sentence, in the manner of CommonGen: one sentence about an everyday scene that uses given words."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import ClassVar, Literal

from dqo.files.records import Prompt
from dqo.models.policy import DEFAULT_POLICY
from dqo.rewards.sentences import coverage
from dqo.tasks.splits import GeneratedTask, meta_field

# Scene -> nouns and verbs, separated by blanks. Written for this project: every noun and verb of a scene can meet in
# one sensible sentence. Verbs are plain infinitives, nouns plain singulars, so that inflected use can be recognised.
SCENES: dict[str, tuple[str, str]] = json.loads(files("dqo.tasks").joinpath("scenes.json").read_text("utf-8"))
QUESTION = "Write one sentence about an everyday scene that uses all of these words: {words}."
# A response that ended by itself, but without . ! or ?
UNPUNCTUATED = 0.5

# Words of people's sentences: up to the first number 95 of 100 have, up to the second 99.
MANY_WORDS, TOO_MANY_WORDS = 18, 24

# Alphabetical, all from one scene, and which of them is the verb; the others are nouns.
ConceptSet = tuple[tuple[str, ...], str]


@dataclass(kw_only=True)
class SentenceTask:
    """A task that asks for one sentence from given words; quality = coverage × length × fluency × ended, in [0, 1].

    coverage is the share of the words used in one sentence, a verb as a verb (`dqo.rewards.sentences`). length is 1 up
    to MANY_WORDS and falls to 0 at TOO_MANY_WORDS. fluency is how likely a frozen language model finds the text,
    between word salad and a person's (`dqo.rewards.likelihood`). ended is 1 for a response that ended by itself with
    . ! or ?, half without such a mark, and 0 if it was cut off: nothing written up to the length limit is paid.

    Coverage alone is soon won by senseless sentences that contain the words; fluency is what makes those worthless. It
    is a mean over words, so that a long text dilutes the senseless part: length is what rules that out.

    Attributes:
        fluency_model: Name or folder of the model that judges fluency; None takes fluency as 1.
        fluency_low: Log-probability per word, in nats, worth 0; None for the one measured for the default model.
        fluency_high: The one worth 1, likewise.
    """

    fluency_model: str | None = DEFAULT_POLICY
    fluency_low: float | None = None
    fluency_high: float | None = None

    name: ClassVar[str]
    max_completion_length: ClassVar[int] = 28

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """Scores each of the N rows in [0, 1]."""
        worth = [self._by_rules(*row) for row in zip(prompts, responses, ended, strict=True)]
        # The model is what costs time: it reads a text once, and none that is worth nothing anyway.
        texts = sorted({response for response, value in zip(responses, worth, strict=True) if value > 0})
        fluency = dict(zip(texts, self._fluency(texts), strict=True))
        return [value * fluency.get(response, 0.0) for value, response in zip(worth, responses, strict=True)]

    def _by_rules(self, prompt: Prompt, response: str, ended: bool) -> float:
        concepts = meta_field(prompt, "concepts", list[str], self.name)
        covered = coverage(response, concepts, self.verbs(prompt))
        too_long = (len(response.split()) - MANY_WORDS) / (TOO_MANY_WORDS - MANY_WORDS)
        covered *= min(1.0, max(0.0, 1.0 - too_long))
        closed = response.rstrip().rstrip("\"'”’)").endswith((".", "!", "?"))
        return covered * (1.0 if closed else UNPUNCTUATED) if ended else 0.0

    def verbs(self, prompt: Prompt) -> list[str]:
        """Reads which of the concepts must be used as verbs."""
        return meta_field(prompt, "verbs", list[str], self.name)

    @cached_property
    def _fluency(self) -> Callable[[Sequence[str]], list[float]]:
        if self.fluency_model is None:
            return lambda responses: [1.0] * len(responses)
        from dqo.rewards.likelihood import FluencyReward

        bounds = {"low": self.fluency_low, "high": self.fluency_high}
        return FluencyReward(self.fluency_model, **{name: at for name, at in bounds.items() if at is not None})


@dataclass(kw_only=True)
class ConceptsTask(SentenceTask, GeneratedTask):
    """Sentences from concept sets of one everyday scene.

    No concept set of one split contains, or is contained in, one of another.

    Attributes:
        words: Words per prompt, 2 to 5; None draws 3 or 4.
    """

    words: Literal[2, 3, 4, 5] | None = None

    name: ClassVar[str] = "concepts"

    def draw(self, rng: random.Random) -> ConceptSet:
        """Draws words of one scene."""
        words = self.words or rng.choice((3, 4))
        nouns, verbs = (scene_words.split() for scene_words in SCENES[rng.choice(sorted(SCENES))])
        verb = rng.choice(verbs)
        others = rng.sample([noun for noun in nouns if noun != verb], words - 1)
        return tuple(sorted([verb, *others])), verb

    def clash(self, one: ConceptSet, other: ConceptSet) -> bool:
        """Tells whether one set contains the other."""
        return set(one[0]) <= set(other[0]) or set(other[0]) <= set(one[0])

    def ask(self, item: ConceptSet) -> tuple[str, list[str], dict]:
        """Asks for a sentence; `meta` holds the concepts in alphabetical order, and which must be used as verbs."""
        words, verb = item
        return QUESTION.format(words=", ".join(words)), [], {"concepts": list(words), "verbs": [verb]}
