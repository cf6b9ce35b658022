"""The language of a text, without a model: which measures can read it, and whether it is the language of its prompt.

Mixing languages is a known way to look different to an encoder. Two signs are watched, not trained on: letters of
another script than the prompt's, and the small words of another language. A rate above the start of the run counts.
"""

import math
import re
import unicodedata
from functools import lru_cache

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
