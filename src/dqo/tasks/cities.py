"""The paper's toy: recommend a city to visit, where many answers are right and a collapsed model gives one."""

import random
from collections.abc import Sequence
from functools import cached_property

from dqo.errors import DataError, RecipeError
from dqo.files.records import Prompt
from dqo.tasks.gazetteer import SMALLEST_CITY, Gazetteer
from dqo.tasks.splits import draw_splits, meta_field, pick_split

ELSEWHERE = 0.1  # exactly one city, but on another continent
MAX_WORDS = 12  # a longer response is worth half

CONTINENTS = {
    "Africa": "AF", "Asia": "AS", "Europe": "EU", "North America": "NA", "Oceania": "OC", "South America": "SA"
}  # fmt: skip
_SEASONS = ("spring", "summer", "autumn", "winter")
_INTERESTS = (
    "architecture", "art museums", "street food", "fine dining", "live music", "history", "gardens", "shopping",
    "night life", "street markets", "football", "theatre", "photography", "literature", "science museums", "design",
    "hiking nearby", "beaches nearby", "river walks", "local festivals", "coffee", "cycling", "craft workshops",
    "religious buildings",
)  # fmt: skip

_QUESTION = (
    "Recommend one city in {continent} to visit in {season} for someone who likes {interest}. Name only the city."
)


class CitiesTask:
    """City recommendations; quality 1 for exactly one city on the continent asked for.

    A response that names one city elsewhere is worth `ELSEWHERE`; none, or two different cities, 0. Which city a name
    means is decided by `Gazetteer`, once for quality and span: the largest of the name, unless the text names its
    country. Two names of one city ("Bombay", "Mumbai") count for one. More than `MAX_WORDS` words halve the quality; a
    response that did not end by itself is worth 0. Whether the city suits season and interest is not judged.

    No two splits share a combination of continent, season and interest.

    Args:
        seed: Seed of the prompts.
        train_size: Prompts to train on; 576 combinations exist in all.
        dev_size: Prompts to choose settings on.
        test_size: Prompts to report on.
        min_population: Population from which a city counts, at least 15000.
    """

    name = "cities"
    max_completion_length = 24

    def __init__(
        self,
        seed: int = 0,
        train_size: int = 400,
        dev_size: int = 60,
        test_size: int = 60,
        min_population: int = 100_000,
    ):
        if not isinstance(min_population, int) or min_population < SMALLEST_CITY:
            raise RecipeError(
                f"min_population: expected an integer of at least {SMALLEST_CITY}, where the gazetteer begins, got "
                f"{min_population!r}."
            )
        self._min_population = min_population
        self._splits = draw_splits(
            _combination,
            {"train": train_size, "dev": dev_size, "test": test_size},
            seed=seed,
            clash=lambda one, other: one == other,
        )

    def prompts(self, split: str) -> list[Prompt]:
        """Prompts of one split; `reference` is empty, `meta` holds continent, season and interest."""
        return [
            Prompt(
                id=(prompt_id := f"cities-{split}-{index:04d}"),
                prompt=_QUESTION.format(continent=continent, season=season, interest=interest),
                reference=[],
                meta={"id": prompt_id, "continent": continent, "season": season, "interest": interest},
            )
            for index, (continent, season, interest) in enumerate(pick_split(self._splits, split))
        ]

    def answer_span(self, response: str) -> str:
        """The usual name of the city named first (with its country where a larger one has it), else the response."""
        named = [city for city in self._gazetteer.cities(response) if city]
        return self._gazetteer.label(named[0]) if named else response.strip()

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """1, `ELSEWHERE` or 0, halved for a long response, for each of the N rows."""
        return [self._score(*row) for row in zip(prompts, responses, ended, strict=True)]

    @cached_property
    def _gazetteer(self) -> Gazetteer:
        return Gazetteer(self._min_population)

    def _score(self, prompt: Prompt, response: str, ended: bool) -> float:
        continent = meta_field(prompt, "continent", str, self.name)
        if continent not in CONTINENTS:
            raise DataError(
                f"prompt {prompt.id!r}: expected meta.continent to be one of {', '.join(CONTINENTS)}, got "
                f"{continent!r}; use one of these."
            )
        named = set(self._gazetteer.cities(response))
        city = named.pop() if len(named) == 1 else None
        if not ended or city is None:
            return 0.0
        score = 1.0 if city.continent == CONTINENTS[continent] else ELSEWHERE
        return score if len(response.split()) <= MAX_WORDS else score / 2


def _combination(rng: random.Random) -> tuple[str, str, str]:
    return rng.choice(list(CONTINENTS)), rng.choice(_SEASONS), rng.choice(_INTERESTS)
