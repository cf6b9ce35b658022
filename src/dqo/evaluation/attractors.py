"""Finds what a model says whatever it is asked: openings, phrases and names that it repeats across prompts."""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

from dqo.diversity.tricks import separates_words

# In ordinary English next to no four words in a row are in a tenth of all texts of 500 words.
LEAST_SHARE, LEAST_PROMPTS = 0.1, 3
OPENING, PHRASE, NAME = "opening", "phrase", "name"
_OPENING_WORDS, _PHRASE_WORDS = 3, 4
# Responses per prompt that are looked at: the numbers then compare across n, and many responses cost no more.
_AMONG = 10
_EDGES = string.punctuation + "“”‘’„«»…–—¿¡•。、"
_NOISE = 1e-9

_Item = tuple[str, str]  # kind and text
_T = TypeVar("_T", str, _Item)


class Attractor(NamedTuple):
    """What is repeated: its kind and words, the mean share of responses that hold it, and to how many prompts."""

    kind: str
    text: str
    share: float
    prompts: int


def find_attractors(prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> list[Attractor]:
    """Finds the openings, phrases and names that responses to different prompts share.

    An opening is the first three words (all where there are fewer), a phrase any four in a row, a name a word that is
    capitalised within sentences and never stands in small letters. It is an attractor where a tenth of the responses
    hold it, and those to three prompts or more. What the prompt holds too does not count for that prompt. Case and
    punctuation are ignored. The first ten responses to each prompt are looked at.

    Args:
        prompts: P texts.
        responses: P lists of one response or more; a list with words that white space does not separate is left out.

    Returns:
        The attractors, those in most responses first. `share` is the mean over prompts, in [0.1, 1].
    """
    some = [texts[:_AMONG] for texts in responses]
    groups = [pair for pair in zip(prompts, some, strict=True) if _countable(pair[1])]
    if len(groups) < LEAST_PROMPTS:
        return []
    # A phrase is no commoner than its rarest word, so that almost all are left out before they are counted.
    written = _shares(groups, lambda text: set(_words(text)), net=False)
    shares: dict[str, float] = defaultdict(float)
    for word, (share, _) in written.items():
        shares[word.casefold()] += share
    common = {word for word, share in shares.items() if share >= LEAST_SHARE - _NOISE}
    capitals = {word for word in written if word[0].isupper() and word[1:2].isalpha() and word.lower() not in written}
    names = {word for word in capitals if word.casefold() in common}
    found = _shares(groups, _Holding(common, names))
    kept = [Attractor(*item, *counted) for item, counted in found.items() if _repeated(*counted)]
    kept = [one for one in kept if one.kind != NAME or _within(one.text, some)]
    return sorted(kept, key=lambda one: (-one.share, -one.prompts, one.kind, one.text))


def attractor_shares(
    prompts: Sequence[str], responses: Sequence[Sequence[str]], attractors: Collection[Attractor]
) -> list[float | None]:
    """Share of the first ten responses to each prompt with an attractor, one that the prompt itself does not hold.

    Args:
        prompts: P texts.
        responses: P lists of one response or more.
        attractors: What `find_attractors` finds in them.

    Returns:
        P numbers in [0, 1]; None where white space does not separate the words of some response, and everywhere where
        fewer than three prompts are left, between which nothing can be said to repeat.
    """
    some = [texts[:_AMONG] for texts in responses]
    countable = list(map(_countable, some))
    if sum(countable) < LEAST_PROMPTS:
        return [None] * len(prompts)
    found = {(one.kind, one.text) for one in attractors}
    phrases = {word for kind, text in found if kind == PHRASE for word in text.split()}
    held = _Holding(phrases, {text for kind, text in found if kind == NAME})
    shares: list[float | None] = []
    for prompt, texts, known in zip(prompts, some, countable, strict=True):
        spaced = _spaced(prompt)
        there = {item for item in found if not _holds(spaced, item)}
        shares.append(sum(not there.isdisjoint(held(text)) for text in texts) / len(texts) if known else None)
    return shares


class _Holding:
    """The opening of a text, its phrases of the given words, and those of the given names that it holds."""

    def __init__(self, words: set[str], names: set[str]):
        self.words, self.names = words, names

    def __call__(self, text: str) -> set[_Item]:
        cased = _words(text)
        words = [word.casefold() for word in cased]
        held = {(NAME, word) for word in self.names.intersection(cased)}
        if words:
            held.add((OPENING, " ".join(words[:_OPENING_WORDS])))
        run = 0
        for end, word in enumerate(words, start=1):
            run = run + 1 if word in self.words else 0
            if run >= _PHRASE_WORDS:
                held.add((PHRASE, " ".join(words[end - _PHRASE_WORDS : end])))
        return held


def _shares(
    groups: Sequence[tuple[str, Sequence[str]]], held: Callable[[str], set[_T]], net: bool = True
) -> dict[_T, tuple[float, int]]:
    """Mean share of responses that hold each item, and the prompts with one; `net` of the prompts' own."""
    shares: dict[_T, float] = defaultdict(float)
    prompts: Counter[_T] = Counter()
    for prompt, texts in groups:
        spaced = _spaced(prompt)
        for item, count in Counter(chain.from_iterable(map(held, texts))).items():
            if not (net and _holds(spaced, item)):
                shares[item] += count / len(texts)
                prompts[item] += 1
    return {item: (share / len(groups), prompts[item]) for item, share in shares.items()}


def _repeated(share: float, prompts: int) -> bool:
    return share >= LEAST_SHARE - _NOISE and prompts >= LEAST_PROMPTS


def _within(word: str, responses: Sequence[Sequence[str]]) -> bool:
    """Whether a word stands within some sentence: behind a letter, a digit or a comma it does not begin one."""
    inside = re.compile(rf"[^\W_][,;]? {re.escape(word)}\b")
    return any(map(inside.search, chain.from_iterable(responses)))


def _words(text: str) -> list[str]:
    """Words without the punctuation around them and without what does not show, such as controls of direction."""
    words = [word for part in text.split() if (word := part.strip(_EDGES))]
    return words if "".join(words).isprintable() else list(filter(None, map(_printable, words)))


def _printable(word: str) -> str:
    return "".join(filter(str.isprintable, word)).strip(_EDGES)


def _spaced(prompt: str) -> str:
    return f" {' '.join(_words(prompt)).casefold()} "


def _holds(spaced: str, item: _Item) -> bool:
    return f" {item[1].casefold()} " in spaced


def _countable(texts: Iterable[str]) -> bool:
    return all(map(separates_words, texts))
