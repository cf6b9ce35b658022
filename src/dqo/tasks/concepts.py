"""Concepts to sentence, in the manner of CommonGen: one sentence about an everyday scene that uses given words."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dqo.errors import RecipeError
from dqo.files.records import Prompt
from dqo.models.policy import DEFAULT_POLICY
from dqo.rewards.sentences import coverage
from dqo.tasks.splits import draw_splits, meta_field, pick_split

_QUESTION = "Write one sentence about an everyday scene that uses all of these words: {words}."

ConceptSet = tuple[str, ...]  # alphabetical, all from one scene: one verb, the others nouns


class ConceptsTask:
    """Sentences from concept sets of one everyday scene; quality = coverage × fluency × ended, in [0, 1].

    coverage is the share of the words used as words of one sentence (`dqo.rewards.sentences`); fluency is how likely a
    frozen language model finds the text, between word salad and a person's (`dqo.rewards.likelihood`); ended is
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


# Everyday scenes and the words that go with them, from which concept sets are drawn.
#
# Written for this project. Every noun and verb of a scene can meet in one sensible sentence; verbs are plain
# infinitives, nouns plain singulars (or words used in one number only), so that inflected use can be recognised.

SCENES: dict[str, tuple[str, str]] = {  # scene: (nouns, verbs), each separated by blanks
    "kitchen": (
        "cook knife onion pan soup spoon stove bowl bread carrot",
        "chop stir boil taste pour fry serve",
    ),
    "bakery": (
        "baker dough oven flour cake loaf counter tray customer butter",
        "bake knead sell slice smell mix",
    ),
    "park": (
        "child bench dog ball tree kite path squirrel grass grandfather",
        "chase throw walk sit play watch climb",
    ),
    "beach": (
        "wave sand umbrella towel shell family surfer bucket sun gull",
        "swim dig lie collect splash relax build",
    ),
    "street": (
        "bus driver bicycle corner shop crowd umbrella traffic light rain",
        "wait cross ride stop hurry honk walk",
    ),
    "garden": (
        "gardener rose shovel soil hose flower bee fence leaf basket",
        "plant water rake pick grow dig bloom",
    ),
    "farm": (
        "farmer tractor cow barn field hen egg horse hay fence",
        "feed milk plow gather graze lead repair",
    ),
    "classroom": (
        "teacher student desk board book question pencil map window lesson",
        "write ask explain raise listen read learn",
    ),
    "library": (
        "reader shelf book lamp librarian table page notebook corner chair",
        "read borrow whisper return study find turn",
    ),
    "hospital": (
        "nurse doctor patient bed needle visitor bandage hallway medicine blanket",
        "examine visit rest wrap bring heal sleep",
    ),
    "train station": (
        "train platform ticket suitcase passenger clock conductor bench newspaper whistle",
        "board wait carry miss arrive wave leave",
    ),
    "airport": (
        "plane pilot gate passport suitcase traveler runway window guard line",
        "land fly check board wait drag hug",
    ),
    "market": (
        "vendor apple fish stall basket coin customer cheese scale bag",
        "sell buy weigh carry shout choose pay",
    ),
    "restaurant": (
        "waiter plate menu glass chef table couple candle dessert bill",
        "order serve eat drink carry share pay",
    ),
    "workshop": (
        "carpenter hammer nail board saw bench ladder chair glue drill",
        "cut measure build sand paint fix hold",
    ),
    "garage": (
        "mechanic car engine tire wrench oil hood jack owner bolt",
        "fix lift check tighten drive change roll",
    ),
    "concert": (
        "singer guitar stage crowd drum microphone band light song piano",
        "sing play dance cheer clap perform listen",
    ),
    "stadium": (
        "player ball goal coach fan referee field whistle team bench",
        "kick score run pass shout jump win",
    ),
    "mountain": (
        "hiker trail rope tent river rock backpack snow guide boot",
        "climb hike slip camp rest cross melt",
    ),
    "lake": (
        "boat fisherman net duck paddle dock fish cabin bridge hat",
        "catch row float jump swim fish tie",
    ),
    "living room": (
        "sofa cat television carpet lamp window fireplace blanket grandmother pillow",
        "sleep watch sit knit stretch talk purr",
    ),
    "laundry": (
        "shirt basket machine soap sock line iron towel dryer closet",
        "wash fold hang dry press sort shrink",
    ),
    "birthday party": (
        "cake candle balloon gift guest ribbon friend camera hat game",
        "blow wrap laugh open bring celebrate sing",
    ),
    "office": (
        "manager computer printer desk coffee phone meeting letter chair clerk",
        "type call print sign talk work spill",
    ),
    "art studio": (
        "painter brush canvas paint model easel clay portrait window apron",
        "draw mix hang sketch dip pose finish",
    ),
    "winter day": (
        "snow sled hill scarf child shovel roof ice mitten snowman",
        "slide build fall melt skate pull shiver",
    ),
}


# Quality of one sentence that uses given words, shared by the tasks that ask for one.

if TYPE_CHECKING:
    from dqo.rewards.likelihood import Fluency

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
            from dqo.rewards.likelihood import Fluency

            given = {name: value for name, value in self._bounds.items() if value is not None}
            self._fluency = Fluency(self._model, **given)
        return self._fluency(responses)


def _ended(response: str, ended: bool) -> float:
    if not ended:
        return 0.0
    return 1.0 if response.rstrip().rstrip("\"'”’)").endswith((".", "!", "?")) else UNPUNCTUATED
