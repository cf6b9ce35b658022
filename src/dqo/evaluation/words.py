"""Diversity of words: how many n-grams differ, and how well each response predicts the others' words.

Broken text scores as diverse: read these beside quality. A measure that has nothing to compare, or cannot find the
words of a text, is NaN: as 0 it would be a result.
"""

import gzip
import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from dqo.diversity.tricks import has_latin_words, separates_words
from dqo.errors import DQOError

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of n-grams that are unique, pooled over the texts: 1 = no n-gram occurs twice (Li et al. 2016, eq. 7.2).

    Tokens are separated by white space, case and punctuation kept. The value falls with the amount of text, so compare
    equal numbers of samples of similar length only.

    Args:
        texts: The responses to one prompt, or any pool.
        n: Length of the n-grams, at least 1.

    Returns:
        A number in (0, 1]; NaN where no text has n tokens, or white space does not separate the words of one of them.

    Raises:
        DQOError: If n is below 1 or `texts` is a single string.
    """
    return distinct_shares([texts], n)[-1]


def self_bleu(texts: Sequence[str]) -> float:
    """Mean over i of BLEU(y_i against all other y_j as references), by sacrebleu; *lower* is more diverse.

    Sentence BLEU-4 in sacrebleu's settings: 13a tokenisation, case kept, exponential smoothing, and effective order, so
    that a text of fewer than four tokens is judged by the n-grams it has.

    Args:
        texts: The responses to one prompt.

    Returns:
        A number in [0, 100]; 100 = all alike. NaN for fewer than two texts that are not blank, and where white space
        does not separate the words of one of them.

    Raises:
        DQOError: If `texts` is a single string.

    Source: Zhu et al. 2018 (docs/math.md eq. 7.2).
    """
    # BLEU would call blank texts different from everything.
    texts = [text for text in _checked(texts) if text.strip()]
    if len(texts) < 2 or not all(map(separates_words, texts)):
        return math.nan
    scores = _leave_one_out_bleu(list(map(_bleu_tokens, texts)))
    # Equal texts score 100.00000000000004.
    return min(100.0, sum(scores) / len(scores))


def corpus_distinct_n(groups: Sequence[Sequence[str]], n: int) -> float:
    """`distinct_n` pooled over the responses to all prompts: sees a model that answers every prompt alike.

    Args:
        groups: The responses to each of P prompts; those with words that white space does not separate are left out.
        n: Length of the n-grams, at least 1.

    Returns:
        A number in (0, 1]; NaN where no text has n tokens.
    """
    # It falls with the number of prompts and responses: compare equal numbers of both only.
    return distinct_shares(groups, n)[-1]


def distinct_shares(groups: Iterable[Sequence[str]], longest: int) -> list[float]:
    """Computes `corpus_distinct_n` for every n from 1 to `longest` in one pass over the groups."""
    if longest < 1:
        raise DQOError(f"`n` of distinct_n must be 1 or more, got {longest}; use 1 to 4.")
    readable = (texts for texts in map(_checked, groups) if all(map(separates_words, texts)))
    shares = []
    for codes, rows in _ngrams((text.split() for texts in readable for text in texts), longest):
        codes.sort()
        shares.append((1 + np.count_nonzero(codes[1:] != codes[:-1])) / len(codes) if len(codes) else math.nan)
        # A word takes 12 bytes here, while the longer n-grams are made.
        del codes, rows
    return shares


def self_rouge(texts: Sequence[str]) -> float:
    """Mean ROUGE-L F-measure over all pairs of texts, by rouge-score: 1 = all alike; *lower* is more diverse.

    Args:
        texts: The responses to one prompt; blank ones are left out.

    Returns:
        A number in [0, 1]; NaN for fewer than two texts, and where a to z and digits do not carry one of them.
    """
    from rouge_score.tokenize import tokenize

    # The DQO paper reports a self-ROUGE that rises with diversity: 1 minus this. rouge-score reads a to z and digits.
    texts = [text for text in _checked(texts) if text.strip()]
    if len(texts) < 2 or not all(map(has_latin_words, texts)):
        return math.nan
    rows = [tokenize(text, None) for text in texts]
    scores = []
    for i, common in enumerate(_common_subsequences(rows)):
        for j in range(i + 1, len(rows)):
            precision, recall = common[j] / len(rows[j]), common[j] / len(rows[i])
            scores.append(2 * precision * recall / (precision + recall) if common[j] else 0.0)
    return sum(scores) / len(scores)


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts, one a line, over the bytes gzip makes of them; *lower* is more diverse (Shaib et al. 2024).

    Args:
        texts: The responses to one prompt.

    Returns:
        A positive number that rises with the amount of text; NaN for fewer than two texts that are not blank.
    """
    if sum(bool(text.strip()) for text in _checked(texts)) < 2:
        return math.nan
    # Below 1 for very short texts, where gzip's header weighs most.
    joined = "\n".join(texts).encode(errors="surrogatepass")
    return len(joined) / len(gzip.compress(joined, mtime=0))


def _leave_one_out_bleu(rows: list[list[str]]) -> list[float]:
    """Scores the tokens of each text against those of all others as sacrebleu's `sentence_score` does."""
    G, lengths = len(rows), np.array([len(row) for row in rows])  # (G,)
    correct = np.stack([_found_elsewhere(*ngrams, G) for ngrams in _ngrams(rows, 4)], axis=1)  # (G, 4)
    total = np.maximum(0, lengths[:, None] - np.arange(4))  # (G, 4)
    # The length nearest to its own, the shorter of two.
    distance = np.abs(lengths[:, None] - lengths) * (1 + lengths.max()) + lengths  # (G, G)
    np.fill_diagonal(distance, distance.max() + 1)
    closest = lengths[distance.argmin(axis=1)]  # (G,)
    stats = zip(correct.tolist(), total.tolist(), lengths.tolist(), closest.tolist(), strict=True)
    return [_bleu().compute_bleu(*row, smooth_method="exp", effective_order=True).score for row in stats]


def _found_elsewhere(codes: np.ndarray, text: np.ndarray, G: int) -> np.ndarray:
    """Counts the n-grams of each text that another has too, each as often as one other text has it: (G,)."""
    if not len(codes):
        return np.zeros(G)
    ngram = np.unique(codes, return_inverse=True)[1]
    pairs, count = np.unique(ngram * G + text, return_counts=True)
    ngram, text = np.divmod(pairs, G)
    starts = np.flatnonzero(np.diff(ngram, prepend=-1))
    # The count among the others is the largest in any text, or the second largest for the text that holds the largest.
    first = np.maximum.reduceat(count, starts)[ngram]
    largest = count == first
    second = np.maximum.reduceat(np.where(largest, 0, count), starts)[ngram]
    holders = np.add.reduceat(largest, starts, dtype=int)[ngram]
    return np.bincount(text, np.minimum(count, np.where(largest & (holders == 1), second, first)), minlength=G)


@cache
def _bleu() -> "BLEU":
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)


def _bleu_tokens(text: str) -> list[str]:
    """Tokens of sacrebleu's 13a."""
    # What 13a does to a character depends on its neighbours, and on white space only in these two cases.
    words = [text.rstrip()] if "<skipped>" in text or "-\n" in text else text.split()
    return list(chain.from_iterable(map(_bleu_tokens_of_word, words)))


@lru_cache(maxsize=2**17)
def _bleu_tokens_of_word(word: str) -> tuple[str, ...]:
    return tuple(_bleu().tokenizer(word).split())


def _common_subsequences(rows: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Yields for each row the lengths of its longest common subsequences with all rows (Hyyrö 2004, bit-parallel)."""
    # A row is a field of bits in one large number, so that a step adds in all fields at once; the bit above each field
    # takes the carry.
    places: dict[str, int] = {}
    fields, start = [], 0
    for row in rows:
        for place, word in enumerate(row, start):
            places[word] = places.get(word, 0) | 1 << place
        fields.append((start, (1 << len(row)) - 1))
        start += len(row) + 1
    every = sum(mask << start for start, mask in fields)
    for row in rows:
        left = every
        for word in row:
            met = left & places[word]
            left = (left + met | left - met) & every
        yield [mask.bit_count() - (left >> start & mask).bit_count() for start, mask in fields]


def _ngrams(rows: Iterable[Sequence[str]], longest: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields for n = 1 to `longest` a number for each n-gram, the same for equal ones, and the row it stands in."""
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    # 4 bytes a word: of ten thousand prompts every n-gram is held at once.
    words, lengths = array("i"), array("i")
    for row in rows:
        words.extend(map(numbers.__getitem__, row))
        lengths.append(len(row))
    ids = np.array(words, dtype=np.int32)  # (T,)
    del words
    row_of = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)  # (T,)
    codes, size = ids.astype(np.int64), len(numbers)  # (T,)
    for n in range(1, longest + 1):
        if n > 1:
            if size * len(numbers) >= 2**63:
                found, codes = np.unique(codes, return_inverse=True)
                size = len(found)
            codes = codes[:-1] * len(numbers) + ids[n - 1 :]  # (T - n + 1,)
            size *= len(numbers)
        within = row_of[: len(codes)] == row_of[n - 1 :]  # (T - n + 1,): no n-gram crosses rows
        yield codes[within], row_of[: len(codes)][within]


def _checked(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        raise DQOError(f"`texts` must be a list of strings, got the single string {texts[:40]!r}; wrap it in a list.")
    return texts
