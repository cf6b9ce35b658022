"""Concepts to sentence, in the manner of CommonGen: one sentence about an everyday scene that uses given words."""

import random
from collections.abc import Sequence

from dqo.errors import RecipeError
from dqo.models import DEFAULT_POLICY
from dqo.records import Prompt
from dqo.tasks.concept_words import SCENES
from dqo.tasks.sentence_quality import SentenceQuality
from dqo.tasks.splits import draw_splits, pick_split

_QUESTION = "Write one sentence about an everyday scene that uses all of these words: {words}."

ConceptSet = tuple[str, ...]  # alphabetical, all from one scene: one verb, the others nouns


class ConceptsTask:
    """Sentences from concept sets of one everyday scene; quality = coverage × fluency × ended, in [0, 1].

    coverage is the share of the words used as words of one sentence (`dqo.rewards.coverage`); fluency is how likely a
    frozen language model finds the text, between word salad and a person's sentence (`dqo.rewards.fluency`); ended is
    1 for a response that ended by itself with . ! or ?, half without such a mark, and 0 if it was cut off,
    so that nothing written up to the length limit is paid. Coverage alone is soon won by senseless sentences that
    contain the words; fluency is what makes those worthless.

    No concept set of one split contains, or is contained in, one of another.

    Args:
        seed: Seed of the concept sets.
        train_size: Prompts to train on.
        dev_size: Prompts to choose settings on.
        test_size: Prompts to report on.
        words: Words a prompt, 2 to 5; None draws 3 or 4.
        fluency_model: Name or folder of the model that judges fluency; None takes fluency as 1.
        fluency_low: Log-probability per word, in nats, worth 0; None for the one measured for the default model.
        fluency_high: The one worth 1, likewise.
    """

    name = "concepts"
    max_completion_length = 48

    def __init__(
        self,
        seed: int = 0,
        train_size: int = 400,
        dev_size: int = 60,
        test_size: int = 60,
        words: int | None = None,
        fluency_model: str | None = DEFAULT_POLICY,
        fluency_low: float | None = None,
        fluency_high: float | None = None,
    ):
        if words not in (None, 2, 3, 4, 5):
            raise RecipeError(f"words: expected 2, 3, 4, 5 or null (3 or 4 at random), got {words!r}.")
        self._splits = draw_splits(
            lambda rng: _concept_set(rng, words or rng.choice((3, 4))),
            {"train": train_size, "dev": dev_size, "test": test_size},
            seed=seed,
            clash=lambda one, other: set(one) <= set(other) or set(other) <= set(one),
        )
        self._sentence = SentenceQuality(self.name, fluency_model, fluency_low, fluency_high)

    def prompts(self, split: str) -> list[Prompt]:
        """Prompts of one split; `reference` is empty, `meta` holds the concepts in alphabetical order."""
        return [
            Prompt(
                id=(prompt_id := f"concepts-{split}-{index:04d}"),
                prompt=_QUESTION.format(words=", ".join(concepts)),
                reference=[],
                meta={"id": prompt_id, "concepts": list(concepts)},
            )
            for index, concepts in enumerate(pick_split(self._splits, split))
        ]

    def answer_span(self, response: str) -> str:
        """The whole response: anything beyond one sentence costs its quality, so no part has to be cut away."""
        return response.strip()

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """Coverage × fluency × ended for each of the N rows, in [0, 1]."""
        return self._sentence(prompts, responses, ended)


def _concept_set(rng: random.Random, words: int) -> ConceptSet:
    nouns, verbs = (scene_words.split() for scene_words in SCENES[rng.choice(sorted(SCENES))])
    verb = rng.choice(verbs)
    return tuple(sorted([verb, *rng.sample([noun for noun in nouns if noun != verb], words - 1)]))
