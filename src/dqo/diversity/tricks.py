"""Signs that diversity is earned by a trick: cheap numbers for every batch, watched and not trained on.

Known tricks: longer responses, embeddings whose norm grows, text after the answer, repetition, and credit that goes to
the poor half of a group (docs/reference/signals.md "Hack detectors"). The last, that only the training encoder sees the
difference, needs a second encoder and so belongs to evaluation: `encoder_disagreement`.
"""

import math
import re
import unicodedata
from functools import lru_cache
from typing import Any

from torch import Tensor

from dqo.core import cosine_kernel, leave_one_out, slack

# Batches that later ones are compared with: one alone is noise, many would follow the drift.
_REFERENCE_BATCHES = 3


class DriftOfRun:
    """Drift of completion length and of embedding norm over a run, kept over a resume."""

    def __init__(self) -> None:
        self._first: dict[str, list[float]] = {"hack/length_drift": [], "hack/norm_drift": []}

    def observe(self, lengths: Tensor, norms: Tensor) -> dict[str, float]:
        """Compares the means of a batch with those of the first batches, this one included while they last.

        Args:
            lengths: (N,) tokens of each completion.
            norms: (N,) norm of each embedding; zero (an empty response) is left out.

        Returns:
            "hack/length_drift" and "hack/norm_drift", 0.1 for a tenth more than at the start; NaN where undefined.
        """
        filled = norms[norms > 0].double()
        means = (lengths.double().mean().item(), filled.mean().item() if len(filled) else math.nan)
        drift = {}
        for (name, first), mean in zip(self._first.items(), means, strict=True):
            if len(first) < _REFERENCE_BATCHES and math.isfinite(mean):
                first.append(mean)
            reference = sum(first) / max(1, len(first))
            drift[name] = mean / reference - 1.0 if reference > 0 else math.nan
        return drift

    def state(self) -> dict[str, Any]:
        """Returns the first batch means by name."""
        return {name: list(first) for name, first in self._first.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken."""
        self._first = {name: list(state.get(name, [])) for name in self._first}


def post_answer_share(text: str, answer: str) -> float:
    """Computes the share of a response's characters that come after its answer, surrounding white space not counted.

    Args:
        text: the whole response.
        answer: the answer as it stands in the text; its first place there counts.

    Returns:
        share in [0, 1]; NaN where the answer does not stand in the text word for word (a task may normalise it) or
        there is no text, so that nothing can be said.
    """
    text, answer = text.strip(), answer.strip()
    start = text.find(answer)
    if start < 0 or not answer:
        return math.nan
    return len(text[start + len(answer) :].strip()) / len(text)


def repetition(text: str) -> float:
    """Computes the share of a response's word triples that repeat an earlier one: 1 - distinct/all, in [0, 1).

    NaN for fewer than three words, and where white space does not separate them.
    """
    words = text.split()
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return 1.0 - len(set(triples)) / len(triples) if triples and separates_words(text) else math.nan


def low_quality_credit(credit: Tensor, reward: Tensor) -> float:
    """Computes the share of what diversity pays that goes to the poorer half of each group; equal rewards divide it.

    A fair signal gives it a half; well above that, different means bad here.

    Args:
        credit: (P, G) what diversity adds to each reward; what it takes away is left out.
        reward: (P, G) task rewards; NaN where unscorable.

    Returns:
        share in [0, 1], 1/2 where the rewards of every group tie; NaN where nothing was paid.
    """
    scored = ~reward.isnan()  # (P, G)
    paid = credit.double().masked_fill(~scored, 0.0).clamp_min(0.0)  # (P, G)
    # NaN compares to nothing.
    difference = reward.double().unsqueeze(-1) - reward.double().unsqueeze(-2)  # (P, G, G)
    tie = slack(reward).unsqueeze(-1)  # (P, 1, 1)
    below, equal = (difference > tie).sum(-1), (difference.abs() <= tie).sum(-1)  # (P, G) each
    # The half, not all below the median: where most of a group fail alike, nobody is below it.
    half = scored.sum(-1, keepdim=True) / 2  # (P, 1)
    # The part of a response that belongs to the poorer half.
    poor = ((half - below) / equal.clamp_min(1)).clamp(0.0, 1.0)  # (P, G)
    total = paid.sum().item()
    return (paid * poor).sum().item() / total if total > 0 else math.nan


def encoder_disagreement(E: Tensor, E_heldout: Tensor) -> Tensor:
    """Computes how differently two encoders order the responses of a group by the credit they would earn.

    0: the same order; 1/2: unrelated; 1: reversed. More after training than before says that the policy found
    what only the training encoder can tell apart.

    Args:
        E: (P, G, D) embeddings of the training encoder.
        E_heldout: (P, G, D') embeddings of another one, of the same responses.

    Returns:
        (P,) (1 - Spearman correlation of the leave-one-out credits) / 2 over the responses that neither encoder finds
        empty (both would rank those last and so agree); NaN for a group in which an encoder sees no difference at all.
    """
    filled = (E != 0).any(-1) & (E_heldout != 0).any(-1)  # (P, G)
    ranks = [_ranks(leave_one_out(cosine_kernel(rows)), filled) for rows in (E, E_heldout)]
    n = filled.sum(-1, keepdim=True)  # (P, 1)
    a, b = ((rank - rank.sum(-1, keepdim=True) / n).masked_fill(~filled, 0.0) for rank in ranks)  # (P, G)
    # 0 where all ranks of one are equal, and 0/0 is NaN.
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()  # (P,)
    return (1.0 - (a * b).sum(-1) / scale) / 2.0


def _ranks(values: Tensor, filled: Tensor) -> Tensor:
    """Mean ranks among the filled along the last dimension, ties but for rounding sharing theirs; 0 for the rest."""
    # Credits are in float64.
    tie = slack(values, 1e-9).unsqueeze(-1)  # (..., 1, 1)
    difference = values.unsqueeze(-1) - values.unsqueeze(-2)  # (..., G, G)
    rank = (difference > tie).double() + (difference.abs() <= tie).double() / 2  # (..., G, G)
    both = filled.unsqueeze(-1) & filled.unsqueeze(-2)  # (..., G, G)
    return rank.masked_fill(~both, 0.0).sum(-1)  # (..., G)


_WORD = re.compile(r"[^\W\d_]+")
_LETTER = re.compile(r"[^\W\d_]")
_LATIN = re.compile("[A-Za-z]")
# Scripts that write words without spaces between them: Thai, Lao, Tibetan, Burmese, Khmer and others of South-East
# Asia, kana and Chinese characters. Vowel signs are in these blocks too, which are no letters to Python.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaadf\u3005-\u3007"
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
# One character alone is one word.
_UNSPACED_RUN = re.compile(_UNSPACED.pattern + "{2,}")
# Share of a text's letters that a measure may fail to read; a foreign name in a sentence hides little of it.
_MOST_UNREAD = 0.25
_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "CJK", "IDEOGRAPHIC": "CJK"}


def separates_words(text: str) -> bool:
    """Says whether white space separates the words of a text, as counting words needs.

    It does not where more than a quarter of the letters stand in runs of two or more of scripts without spaces, such as
    Chinese, Japanese or Thai.
    """
    unspaced = 0 if text.isascii() else sum(map(len, _UNSPACED_RUN.findall(text)))
    return not unspaced or unspaced <= _MOST_UNREAD * len(_LETTER.findall(_UNSPACED.sub("x", text)))


def has_latin_words(text: str) -> bool:
    """Says whether the letters a to z and the digits 0 to 9, all that ROUGE keeps, carry a text.

    They do not where more than a quarter of the letters are others, nor where there is no letter and no such digit.
    """
    letters = len(_LETTER.findall(_UNSPACED.sub("字", text)))
    if not letters:
        return any(character in "0123456789" for character in text)
    return letters - len(_LATIN.findall(text)) <= _MOST_UNREAD * letters


def language_mixing(text: str, prompt: str) -> float:
    """Computes the share of a response's words that stand in a script which the prompt does not use; NaN without words.

    Mixing languages is a known way to look different to an encoder. The prompt comes without its chat template.
    """
    own = {_script(word) for word in _WORD.findall(prompt)}
    words = _WORD.findall(text)
    return sum(_script(word) not in own for word in words) / len(words) if own and words else math.nan


@lru_cache(maxsize=65536)
def _script(word: str) -> str:
    """Script of a word's first letter: LATIN, CYRILLIC, CJK, ..."""
    name = unicodedata.name(word[0], "UNNAMED").split()[0]
    return _TOGETHER.get(name, name)
