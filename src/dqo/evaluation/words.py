"""Diversity of words: how many n-grams differ, and how well each response predicts the others' words.

Broken text scores as diverse: read these beside quality. A measure that has nothing to compare, or cannot find the
words of a text, is NaN: as 0 it would be a result.
"""

import gzip
import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from dqo.diversity.tricks import has_latin_words, separates_words
from dqo.errors import DQOError


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
    _check_texts(texts)
    if n < 1:
        raise DQOError(f"`n` of distinct_n must be 1 or more, got {n}; use 1 to 4.")
    ngrams = [ngram for text in texts for ngram in _ngrams(text.split(), n)]
    return len(set(ngrams)) / len(ngrams) if ngrams and all(map(separates_words, texts)) else math.nan


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
    _check_texts(texts)
    from sacrebleu.metrics import BLEU

    # BLEU would call blank texts different from everything.
    texts = [text for text in texts if text.strip()]
    if len(texts) < 2 or not all(map(separates_words, texts)):
        return math.nan
    scores = _leave_one_out_bleu(BLEU(effective_order=True), texts)
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
    for texts in groups:
        _check_texts(texts)
    # It falls with the number of prompts and responses: compare equal numbers of both only.
    return distinct_n([text for texts in groups if all(map(separates_words, texts)) for text in texts], n)


def self_rouge(texts: Sequence[str]) -> float:
    """Mean ROUGE-L F-measure over all pairs of texts, by rouge-score: 1 = all alike; *lower* is more diverse.

    Args:
        texts: The responses to one prompt; blank ones are left out.

    Returns:
        A number in [0, 1]; NaN for fewer than two texts, and where a to z and digits do not carry one of them.
    """
    _check_texts(texts)
    from rouge_score.rouge_scorer import RougeScorer

    # The DQO paper reports a self-ROUGE that rises with diversity: 1 minus this. rouge-score reads a to z and digits.
    texts = [text for text in texts if text.strip()]
    if len(texts) < 2 or not all(map(has_latin_words, texts)):
        return math.nan
    scorer, pairs = RougeScorer(["rougeL"]), list(combinations(texts, 2))
    return sum(scorer.score(a, b)["rougeL"].fmeasure for a, b in pairs) / len(pairs)


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts, one a line, over the bytes gzip makes of them; *lower* is more diverse (Shaib et al. 2024).

    Args:
        texts: The responses to one prompt.

    Returns:
        A positive number that rises with the amount of text; NaN for fewer than two texts that are not blank.
    """
    _check_texts(texts)
    if sum(bool(text.strip()) for text in texts) < 2:
        return math.nan
    # Below 1 for very short texts, where gzip's header weighs most.
    joined = "\n".join(texts).encode(errors="surrogatepass")
    return len(joined) / len(gzip.compress(joined, mtime=0))


def _leave_one_out_bleu(bleu: Any, texts: list[str]) -> list[float]:
    """Scores each text against all others as `bleu.sentence_score` does."""
    tokens = [bleu.tokenizer(text.rstrip()).split() for text in texts]
    # Every text is tokenised and counted once, where `sentence_score` would do it for every pair.
    counts = [Counter(ngram for n in (1, 2, 3, 4) for ngram in _ngrams(row, n)) for row in tokens]
    lengths = [len(row) for row in tokens]
    holders = Counter(ngram for row in counts for ngram in row)
    # What only one text holds matches nothing.
    repeated = {ngram for ngram, number in holders.items() if number > 1}
    # The count among the others is the largest in any text, or the second largest for the text that holds the largest.
    two = {ngram: sorted((row[ngram] for row in counts if ngram in row), reverse=True)[:2] for ngram in repeated}
    scores = []
    for i, row in enumerate(counts):
        total = [max(0, lengths[i] - n) for n in range(4)]
        correct = [0] * 4
        for ngram in row.keys() & repeated:
            first, second = two[ngram]
            correct[len(ngram) - 1] += min(row[ngram], second if row[ngram] == first else first)
        closest = min(lengths[:i] + lengths[i + 1 :], key=lambda other: (abs(lengths[i] - other), other))
        found = bleu.compute_bleu(correct, total, lengths[i], closest, smooth_method="exp", effective_order=True)
        scores.append(found.score)
    return scores


def _ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise DQOError(f"`texts` must be a list of strings, got the single string {texts[:40]!r}; wrap it in a list.")
