"""Signs that diversity is earned by a trick: cheap numbers for every batch, watched and not trained on.

Known tricks: longer responses, embeddings whose norm grows, text after the answer, repetition, and credit that goes to
the poor half of a group (docs/signals.md "Hack detectors"). The last, that only the training encoder sees the
difference, needs a second encoder and so belongs to evaluation: `encoder_disagreement`.
"""

import math
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import Tensor

from dqo.core import cosine_kernel, leave_one_out, slack
from dqo.errors import DQOError

_REFERENCE_BATCHES = 3  # what later batches are compared with: one alone is noise, many would follow the drift


class Drift:
    """Relative change of a batch mean against the mean of the first batches of the run."""

    def __init__(self) -> None:
        self._first: list[float] = []

    def observe(self, value: float) -> float:
        """Take a batch mean.

        Args:
            value: mean of one batch, > 0; NaN is passed over.

        Returns:
            value over the mean of the first batches (this one included while they last) minus 1; NaN where undefined.
        """
        if not math.isfinite(value):
            return math.nan
        if len(self._first) < _REFERENCE_BATCHES:
            self._first.append(value)
        reference = sum(self._first) / len(self._first)
        return value / reference - 1.0 if reference > 0 else math.nan

    def state(self) -> list[float]:
        """The first batch means."""
        return list(self._first)

    def load(self, state: list[float]) -> None:
        """Continue where `state` was taken.

        Args:
            state: what `state()` returned.
        """
        self._first = [float(value) for value in state]


class DriftOfRun:
    """Drift of completion length and of embedding norm over a run, kept over a resume."""

    def __init__(self) -> None:
        self._drifts = {"hack/length_drift": Drift(), "hack/norm_drift": Drift()}

    def observe(self, lengths: Tensor, norms: Tensor) -> dict[str, float]:
        """Drift of this batch by name.

        Args:
            lengths: (N,) tokens of each completion.
            norms: (N,) norm of each embedding; zero (an empty response) is left out.

        Returns:
            "hack/length_drift" and "hack/norm_drift", 0.1 for a tenth more than at the start.
        """
        filled = norms[norms > 0].double()
        means = (lengths.double().mean().item(), filled.mean().item() if len(filled) else math.nan)
        return {name: drift.observe(mean) for (name, drift), mean in zip(self._drifts.items(), means, strict=True)}

    def state(self) -> dict[str, Any]:
        """First batch means by name."""
        return {name: drift.state() for name, drift in self._drifts.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken.

        Args:
            state: what `state()` returned.
        """
        for name, drift in self._drifts.items():
            drift.load(state.get(name, []))


def text_signs(text: str, answer_span: Callable[[str], str]) -> tuple[float, float]:
    """What one response shows by itself.

    Args:
        text: the whole response.
        answer_span: text -> the part that is embedded.

    Returns:
        post_answer_share and repetition, each in [0, 1] or NaN.
    """
    return post_answer_share(text, answer_span(text)), repetition(text)


def post_answer_share(text: str, answer: str) -> float:
    """Share of a response's characters that come after its answer, surrounding white space not counted.

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


def repetition(text: str, n: int = 3) -> float:
    """Share of a response's n-grams that repeat an earlier one of the same response.

    Args:
        text: the response, split at white space.
        n: words of an n-gram.

    Returns:
        1 - distinct/all in [0, 1); NaN for fewer than n words, and where white space does not separate them.
    """
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams and separates_words(text) else math.nan


def low_quality_credit(credit: Tensor, reward: Tensor) -> float:
    """Share of what diversity pays that goes to the poorer half of each group, equal rewards taking equal parts.

    A fair signal gives it a half; well above that, different means bad here. The half and not all below the median:
    where most of a group fail alike, the median is a failure too and nobody would be below it.

    Args:
        credit: (P, G) what diversity adds to each reward; what it takes away is left out.
        reward: (P, G) task rewards; NaN where unscorable.

    Returns:
        share in [0, 1], 1/2 where the rewards of every group tie; NaN where nothing was paid.
    """
    scored = ~reward.isnan()  # (P, G)
    paid = credit.double().masked_fill(~scored, 0.0).clamp_min(0.0)  # (P, G)
    difference = reward.double().unsqueeze(-1) - reward.double().unsqueeze(-2)  # (P, G, G), NaN compares to nothing
    tie = slack(reward).unsqueeze(-1)  # (P, 1, 1)
    below, equal = (difference > tie).sum(-1), (difference.abs() <= tie).sum(-1)  # (P, G) each
    half = scored.sum(-1, keepdim=True) / 2  # (P, 1)
    poor = ((half - below) / equal.clamp_min(1)).clamp(0.0, 1.0)  # (P, G), the part of a response in the poorer half
    total = paid.sum().item()
    return (paid * poor).sum().item() / total if total > 0 else math.nan


def encoder_disagreement(E: Tensor, E_heldout: Tensor) -> Tensor:
    """How differently two encoders order the responses of a group by the credit they would earn.

    0: the same order; 1/2: unrelated; 1: reversed. More after training than before says that the policy found what only
    the training encoder can tell apart.

    Args:
        E: (P, G, D) embeddings of the training encoder.
        E_heldout: (P, G, D') embeddings of another one, of the same responses.

    Returns:
        (P,) (1 - Spearman correlation of the leave-one-out credits) / 2 over the responses that neither encoder finds
        empty (both would rank those last and so agree); NaN for a group in which an encoder sees no difference at all.

    Raises:
        DQOError: the two hold different numbers of groups or responses.
    """
    if E.shape[:-1] != E_heldout.shape[:-1]:
        raise DQOError(
            f"Expected two encoders' embeddings of the same responses, got shapes {tuple(E.shape)} and "
            f"{tuple(E_heldout.shape)}; embed the same groups with both."
        )
    filled = (E != 0).any(-1) & (E_heldout != 0).any(-1)  # (P, G)
    ranks = [_ranks(leave_one_out(cosine_kernel(rows)), filled) for rows in (E, E_heldout)]
    n = filled.sum(-1, keepdim=True)  # (P, 1)
    a, b = ((rank - rank.sum(-1, keepdim=True) / n).masked_fill(~filled, 0.0) for rank in ranks)  # (P, G)
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()  # (P,) 0 where all ranks of one are equal, and 0/0 is NaN
    return (1.0 - (a * b).sum(-1) / scale) / 2.0


def _ranks(values: Tensor, filled: Tensor) -> Tensor:
    """Mean ranks among the filled along the last dimension, ties but for rounding sharing theirs; 0 for the rest."""
    tie = slack(values, 1e-9).unsqueeze(-1)  # (..., 1, 1), of credits in float64
    difference = values.unsqueeze(-1) - values.unsqueeze(-2)  # (..., G, G)
    rank = (difference > tie).double() + (difference.abs() <= tie).double() / 2  # (..., G, G)
    both = filled.unsqueeze(-1) & filled.unsqueeze(-2)  # (..., G, G)
    return rank.masked_fill(~both, 0.0).sum(-1)  # (..., G)


# The language of a text, without a model: which measures can read it, and whether it is the language of its prompt.
#
# Mixing languages is a known way to look different to an encoder. Two signs are watched, not trained on: letters of
# another script than the prompt's, and the small words of another language. A rate above the start of the run counts.

_WORD = re.compile(r"[^\W\d_]+")
_LETTER = re.compile(r"[^\W\d_]")
_LATIN = re.compile("[A-Za-z]")
# Scripts that write words without spaces between them: Thai, Lao, Tibetan, Burmese, Khmer and others of South-East
# Asia, kana and Chinese characters. Vowel signs are in these blocks too, which are no letters to Python.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaadf\u3005-\u3007"
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_UNSPACED_RUN = re.compile(_UNSPACED.pattern + "{2,}")  # one character alone is one word
_MOST_UNREAD = 0.25  # of a text's letters; a foreign name in a sentence hides little of it
_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "CJK", "IDEOGRAPHIC": "CJK"}
# Frequent words that say little else. Those that English texts hold too are left out, be it as words ("die", "come",
# "hat"), in abbreviations (".com", "MIT") or in names ("van", "los"): each would count plain English as mixed.
_SMALL_WORDS = {
    "English": "the of and to in is was it for with as on that this are be at by from his her they you not have has he "
    "she we or an its which their there were been will would can all one two what when who how about your after near",
    "Spanish": "el una unos que por para su sus está están como más pero muy cuando donde porque también ellos "
    "nosotros desde hasta sobre entre este esta ese esa hacia mientras fue tiene puede pueden siempre",
    "French": "le les une est dans qui sur avec pas cette ces il elle nous vous ils sont être du mais où très leur "
    "leurs chez était avoir fait comme alors aussi donc toujours quand depuis même",
    "German": "der das und ist ein eine einen einem einer nicht auf für dem sich auch zu es wie aber oder wenn wird "
    "sind haben ich wir sie nach bei über durch noch nur werden wurde kann diese dieser zwischen immer sehr",
    "Italian": "il gli della dello delle dei degli che è sono nel nella anche più questo questa perché sua suo loro "
    "alla dalla una molto essere hanno però così quindi sempre",
    "Portuguese": "uma das não são ao pela pelo você mais mas muito ele ela eles isso isto também quando onde já até "
    "seu sua foi está às quem nós então depois",
    "Dutch": "het een ik je niet te voor zijn aan maar ook naar bij uit wordt deze heeft hij zij wij geen veel hebben "
    "worden werd kunnen omdat",
}
_LANGUAGES = {name: frozenset(words.split()) for name, words in _SMALL_WORDS.items()}


def separates_words(text: str) -> bool:
    """Whether white space separates the words of a text, as counting words needs.

    Args:
        text: Any text.

    Returns:
        False where more than a quarter of the letters stand in runs of two or more of scripts without spaces, such as
        Chinese, Japanese or Thai.
    """
    if text.isascii():
        return True
    unspaced = sum(map(len, _UNSPACED_RUN.findall(text)))
    return unspaced <= _MOST_UNREAD * len(_LETTER.findall(_UNSPACED.sub("x", text)))


def has_latin_words(text: str) -> bool:
    """Whether the letters a to z and the digits 0 to 9, all that ROUGE keeps, carry a text.

    Args:
        text: Any text.

    Returns:
        False where more than a quarter of the letters are others, and where there is no letter and no digit 0 to 9.
    """
    letters = len(_LETTER.findall(_UNSPACED.sub("字", text)))
    if not letters:
        return any(character in "0123456789" for character in text)
    return letters - len(_LATIN.findall(text)) <= _MOST_UNREAD * letters


def language_mixing(text: str, prompt: str) -> float:
    """Share of a response's telling words that tell another language than the prompt's.

    A word tells one if it is written in a script that the prompt does not use, or if it is a small word of one of seven
    European languages. The prompt's language is the one most of whose small words it holds; a word that belongs to it
    never tells another one.

    Args:
        text: the response.
        prompt: what was asked, chat template left out.

    Returns:
        share in [0, 1]; NaN where no word tells anything, as in "Paris".
    """
    own_scripts = {_script(word) for word in _WORD.findall(prompt)}
    own = _LANGUAGES.get(_language(prompt) or "", frozenset())
    told = foreign = 0
    for word in _WORD.findall(text.casefold()):
        other_script = bool(own_scripts) and _script(word) not in own_scripts
        other_language = bool(own) and word not in own and any(word in words for words in _LANGUAGES.values())
        foreign += other_script or other_language
        told += other_script or other_language or word in own
    return foreign / told if told else math.nan


def _language(text: str) -> str | None:
    """The language with the most small words in a text, the earlier one of the table where they tie."""
    words = _WORD.findall(text.casefold())
    hits = {name: sum(word in small for word in words) for name, small in _LANGUAGES.items()}
    best = max(hits, key=hits.__getitem__)
    return best if hits[best] else None


@lru_cache(maxsize=65536)
def _script(word: str) -> str:
    """Script of a word's first letter: LATIN, CYRILLIC, CJK, ..."""
    name = unicodedata.name(word[0], "UNNAMED").split()[0]
    return _TOGETHER.get(name, name)
