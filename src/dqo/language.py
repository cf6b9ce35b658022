"""Is a response written in the language of its prompt? Mixing languages is a known way to look different to an encoder.

Two signs that need no model: letters of another script than the prompt's, and the small words of another language. They
are watched, not trained on, so a rate above the start of the run is what counts, not one word.
"""

import math
import re
import unicodedata
from functools import lru_cache

_WORD = re.compile(r"[^\W\d_]+")
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
