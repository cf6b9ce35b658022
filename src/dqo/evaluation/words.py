"""Diversity of the surface: how many n-grams differ, and how well each response predicts the others' words.

All look at words and not at meaning: broken text scores as diverse. Read them beside quality and `geometry`. A measure
that has nothing to compare, or cannot find the words of a text, is NaN: as 0 it would be a result.
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
    """Share of n-grams that are unique: (number of different n-grams) / (number of n-grams), pooled over the texts.

    Tokens are separated by white space, case and punctuation kept; an n-gram never crosses from one text to the next.
    The value falls with the amount of text, so compare equal numbers of samples of similar length only.

    Args:
        texts: The responses to one prompt (or any pool), at least as many as there are to compare.
        n: Length of the n-grams, at least 1.

    Returns:
        A number in (0, 1]; 1 = no n-gram occurs twice. NaN where no text has n tokens, or white space does not separate
        the words of one of them (Chinese, Japanese, Thai and the like).

    Raises:
        DQOError: If n is below 1 or `texts` is a single string.

    Source: Li et al. 2016 (docs/math.md eq. 7.2).
    """
    _check_texts(texts)
    if n < 1:
        raise DQOError(f"`n` of distinct_n must be 1 or more, got {n}; use 1 to 4.")
    ngrams = [ngram for text in texts for ngram in _ngrams(text.split(), n)]
    return len(set(ngrams)) / len(ngrams) if ngrams and all(map(separates_words, texts)) else math.nan


def self_bleu(texts: Sequence[str]) -> float:
    """Mean over i of BLEU(y_i against all other y_j as references), by sacrebleu; *lower* is more diverse.

    Sentence BLEU-4 in sacrebleu's settings: 13a tokenisation (international punctuation, but no segmentation of
    Chinese or Japanese), case kept, exponential smoothing, and effective order, so that a text of fewer than four
    tokens is judged by the n-grams it has. Blank texts are left out: BLEU would call them different from everything.

    Args:
        texts: The responses to one prompt.

    Returns:
        A number in [0, 100]; 100 = all alike. NaN for fewer than two texts that are not blank, and where white space
        does not separate the words of one of them.

    Raises:
        DQOError: If `texts` is a single string, or sacrebleu is not installed.

    Source: Zhu et al. 2018 (docs/math.md eq. 7.2).
    """
    _check_texts(texts)
    try:
        from sacrebleu.metrics import BLEU
    except ModuleNotFoundError as error:
        raise DQOError(
            "self_bleu needs the package sacrebleu, which is not installed; pip install -e '.[report]'."
        ) from error
    texts = [text for text in texts if text.strip()]
    if len(texts) < 2 or not all(map(separates_words, texts)):
        return math.nan
    scores = _leave_one_out_bleu(BLEU(effective_order=True), texts)
    return min(100.0, sum(scores) / len(scores))  # equal texts score 100.00000000000004


def corpus_distinct_n(groups: Sequence[Sequence[str]], n: int) -> float:
    """`distinct_n` pooled over the responses to all prompts: sees a model that answers every prompt alike.

    Falls with the number of prompts and of responses, so compare equal numbers of both only. Prompts with a response
    whose words white space does not separate are left out.

    Args:
        groups: The responses to each of P prompts.
        n: Length of the n-grams, at least 1.

    Returns:
        A number in (0, 1]; NaN where no text has n tokens.

    Raises:
        DQOError: If n is below 1, or `groups` or one of its entries is a single string.

    Source: Li et al. 2016, who pool over a corpus.
    """
    _check_texts(groups)
    for texts in groups:
        _check_texts(texts)
    return distinct_n([text for texts in groups if all(map(separates_words, texts)) for text in texts], n)


def self_rouge(texts: Sequence[str]) -> float:
    """Mean ROUGE-L F-measure over all pairs of texts, by rouge-score; *lower* is more diverse.

    rouge-score keeps lower-cased letters a to z and digits only. Blank texts are left out. Costs the product of the
    lengths of every pair.

    Args:
        texts: The responses to one prompt.

    Returns:
        A number in [0, 1]; 1 = all alike. NaN for fewer than two texts that are not blank, and where the letters a to z
        and digits do not carry one of them.

    Raises:
        DQOError: If `texts` is a single string, or rouge-score is not installed.

    Source: Lin 2004 for ROUGE-L. The DQO paper reports a self-ROUGE that rises with diversity: 1 minus this.
    """
    _check_texts(texts)
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError as error:
        raise DQOError(
            "self_rouge needs the package rouge-score, which is not installed; pip install -e '.[report]'."
        ) from error
    texts = [text for text in texts if text.strip()]
    if len(texts) < 2 or not all(map(has_latin_words, texts)):
        return math.nan
    scorer, pairs = RougeScorer(["rougeL"]), list(combinations(texts, 2))
    return sum(scorer.score(a, b)["rougeL"].fmeasure for a, b in pairs) / len(pairs)


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts, one a line, over the bytes gzip makes of them; *lower* is more diverse.

    Rises with the amount of text, whatever it says: compare equal numbers of texts of similar length only.

    Args:
        texts: The responses to one prompt.

    Returns:
        A positive number, below 1 for very short texts, where gzip's header weighs most. NaN for fewer than two texts
        that are not blank, as one response cannot repeat another.

    Raises:
        DQOError: If `texts` is a single string.

    Source: Shaib et al. 2024, "Standardizing the Measurement of Text Diversity".
    """
    _check_texts(texts)
    if sum(bool(text.strip()) for text in texts) < 2:
        return math.nan
    joined = "\n".join(texts).encode(errors="surrogatepass")
    return len(joined) / len(gzip.compress(joined, mtime=0))


def _leave_one_out_bleu(bleu: Any, texts: list[str]) -> list[float]:
    """`bleu.sentence_score` of each text against all others, every text tokenised and counted once instead of n times.

    The count of an n-gram among the others is its largest count in any text, or the second largest for the text that
    holds the largest.
    """
    tokens = [bleu.tokenizer(text.rstrip()).split() for text in texts]
    counts = [Counter(ngram for n in (1, 2, 3, 4) for ngram in _ngrams(row, n)) for row in tokens]
    lengths = [len(row) for row in tokens]
    seen: set[tuple[str, ...]] = set()
    repeated: set[tuple[str, ...]] = set()  # what only one text holds matches nothing
    for row in counts:
        repeated |= seen & row.keys()
        seen |= row.keys()
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
