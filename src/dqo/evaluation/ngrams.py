"""Diversity of the surface: how many n-grams differ, and how well each response predicts the others' words.

Both look at words and not at meaning: broken text scores as diverse. Read them beside quality and `geometry`.
"""

from collections.abc import Sequence

from dqo.errors import DQOError


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of n-grams that are unique: (number of different n-grams) / (number of n-grams), pooled over the texts.

    Tokens are separated by white space, case and punctuation kept; an n-gram never crosses from one text to the next.
    The value falls with the amount of text, so compare equal numbers of samples of similar length only.

    Args:
        texts: The responses to one prompt (or any pool), at least as many as there are to compare.
        n: Length of the n-grams, at least 1.

    Returns:
        A number in [0, 1]; 1 = no n-gram occurs twice, 0.0 where no text has n tokens.

    Raises:
        DQOError: If n is below 1 or `texts` is a single string.

    Source: Li et al. 2016 (docs/math.md eq. 7.2).
    """
    _check_texts(texts)
    if n < 1:
        raise DQOError(f"`n` of distinct_n must be 1 or more, got {n}; use 1 to 4.")
    ngrams = [ngram for text in texts for ngram in _ngrams(text.split(), n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """Mean over i of BLEU(y_i against all other y_j as references), by sacrebleu; *lower* is more diverse.

    Sentence BLEU-4 in sacrebleu's settings: 13a tokenisation (international punctuation, but no segmentation of
    Chinese or Japanese), case kept, exponential smoothing, and effective order, so that a text of fewer than four
    tokens is judged by the n-grams it has. Blank texts are left out: BLEU would call them different from everything.

    Args:
        texts: The responses to one prompt.

    Returns:
        A number in [0, 100]; 100 = all alike, 0.0 for fewer than two texts, as one response cannot repeat another.

    Raises:
        DQOError: If `texts` is a single string, or sacrebleu is not installed.

    Source: Zhu et al. 2018 (docs/math.md eq. 7.2).
    """
    _check_texts(texts)
    try:
        from sacrebleu.metrics import BLEU
    except ModuleNotFoundError as error:
        raise DQOError(
            "self_bleu needs the package sacrebleu, which is not installed; pip install 'dqo[report]'."
        ) from (error)
    texts = [text for text in texts if text.strip()]
    if len(texts) < 2:
        return 0.0
    bleu = BLEU(effective_order=True)
    scores = [bleu.sentence_score(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)]
    return min(100.0, sum(scores) / len(scores))  # equal texts score 100.00000000000004


def _ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise DQOError(f"`texts` must be a list of strings, got the single string {texts[:40]!r}; wrap it in a list.")
