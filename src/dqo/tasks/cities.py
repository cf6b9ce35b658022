"""The paper's toy: recommend a city to visit, where many answers are right and a collapsed model gives one."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dqo.files.records import Prompt
from dqo.tasks.gazetteer import SMALLEST_CITY, City, Gazetteer
from dqo.tasks.splits import GeneratedTask, meta_field

# Exactly one city, but on another continent.
ELSEWHERE = 0.1
# A longer response is worth half.
MAX_WORDS = 12

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


@dataclass(kw_only=True)
class CitiesTask(GeneratedTask):
    """City recommendations; quality 1 for exactly one city on the continent asked for.

    A response that names one city elsewhere is worth `ELSEWHERE`; none, or two different cities, 0. Which city a name
    means is decided by `Gazetteer`, once for quality and span: the largest of the name, unless the text names its
    country. Two names of one city ("Bombay", "Mumbai") count for one. More than `MAX_WORDS` words halve the quality; a
    response that did not end by itself is worth 0. Whether the city suits season and interest is not judged.

    No two splits share a combination of continent, season and interest, of which there are 576.

    Attributes:
        min_population: Population from which a city counts, at least 15000.
    """

    min_population: Annotated[int, Field(ge=SMALLEST_CITY)] = 100_000

    name: ClassVar[str] = "cities"
    max_completion_length: ClassVar[int] = 24

    def draw(self, rng: random.Random) -> dict[str, str]:
        """Draws continent, season and interest."""
        choices = {"continent": list(CONTINENTS), "season": _SEASONS, "interest": _INTERESTS}
        return {name: rng.choice(values) for name, values in choices.items()}

    def ask(self, item: dict[str, str]) -> tuple[str, list[str], dict]:
        """Asks for a city; `meta` holds continent, season and interest."""
        return _QUESTION.format(**item), [], item

    def answer_span(self, response: str) -> str:
        """Finds the usual name of the city named first (with its country where a larger one has it)."""
        city = next(filter(None, self._gazetteer.cities(response)), None)
        return self._gazetteer.label(city) if city else response.strip()

    def answer_key(self, prompt: Prompt, response: str) -> str | None:
        """Names the city of a right response by its number in the gazetteer, the same for all its spellings."""
        city = self._only_city(response)
        return str(city.id) if city and city.continent == self._continent(prompt) else None

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """Scores each of the N rows 1, `ELSEWHERE` or 0, halved for a long response."""
        return [self._score(*row) for row in zip(prompts, responses, ended, strict=True)]

    @cached_property
    def _gazetteer(self) -> Gazetteer:
        return Gazetteer(self.min_population)

    def _only_city(self, response: str) -> City | None:
        named = set(self._gazetteer.cities(response))
        return named.pop() if len(named) == 1 else None

    def _continent(self, prompt: Prompt) -> str:
        return CONTINENTS[meta_field(prompt, "continent", Literal[*CONTINENTS], self.name)]

    def _score(self, prompt: Prompt, response: str, ended: bool) -> float:
        continent, city = self._continent(prompt), self._only_city(response)
        if not ended or city is None:
            return 0.0
        score = 1.0 if city.continent == continent else ELSEWHERE
        return score if len(response.split()) <= MAX_WORDS else score / 2
