"""Rewards for the shape of a response: its length, its form, and whether it came to an end."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from dqo.diversity.tricks import separates_words
from dqo.errors import RecipeError
from dqo.models.chat import completion_text


class LengthReward:
    """1 for a response of a wanted number of words, falling linearly to 0 at none and at twice the most.

    A response without a word is worth 0 whatever the limits; marks alone are no word. One whose words white space does
    not separate (Chinese, Japanese, Thai and the like) cannot be scored.

    Args:
        min_words: Fewest words worth 1.
        max_words: Most words worth 1; None for no limit.

    Raises:
        RecipeError: Limits out of order.
    """

    def __init__(
        self, min_words: Annotated[int, Field(ge=0)] = 0, max_words: Annotated[int, Field(ge=1)] | None = None
    ):
        if max_words is not None and max_words < min_words:
            raise RecipeError(f"length: expected min_words of at most {max_words}, the max_words, got {min_words}.")
        self.__name__ = "length"
        self._least, self._most = min_words, max_words

    def __call__(self, *, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Scores N responses; N numbers in [0, 1], or None."""
        texts = [completion_text(completion) for completion in completions]
        return [
            self._score(sum(map(says_something, text.split()))) if separates_words(text) else None for text in texts
        ]

    def _score(self, words: int) -> float:
        if words == 0:
            return 0.0
        rising = words / self._least if self._least else 1.0
        falling = 2 - words / self._most if self._most else 1.0
        return max(0.0, min(1.0, rising, falling))


class FormatReward:
    r"""1 for a response in which a pattern is found, else 0; 0 for one without a word, even if the pattern allows it.

    Args:
        pattern: Regular expression of Python; `\A` and `\Z` tie it to the ends. Beware of nested repetitions, which
            can take for ever on long responses.

    Raises:
        RecipeError: No regular expression.
    """

    def __init__(self, pattern: str):
        try:
            self._pattern = re.compile(pattern, re.DOTALL)
        except (re.error, TypeError, OverflowError, RecursionError) as error:
            raise RecipeError(f"pattern: expected a regular expression, got {pattern!r} ({error}).") from error
        self.__name__ = "format"

    def __call__(self, *, completions: Sequence[Any], **columns: Any) -> list[float]:
        """Scores N responses; N numbers, 1 or 0."""
        texts = [completion_text(completion) for completion in completions]
        return [float(says_something(text) and bool(self._pattern.search(text))) for text in texts]


class EndedReward:
    """1 for a response that came to an end by itself, 0 for one cut off at the length limit or without a word."""

    def __init__(self) -> None:
        self.__name__ = "ended"

    def __call__(self, *, completions: Sequence[Any], ended: Sequence[bool], **columns: Any) -> list[float]:
        """Scores N responses, of which `ended` says whether each was not cut off; N numbers, 1 or 0."""
        rows = zip(completions, ended, strict=True)
        return [float(end and says_something(completion_text(completion))) for completion, end in rows]


def says_something(text: str) -> bool:
    """Whether a text has a letter, a digit or a symbol such as an emoji, and not blanks and punctuation alone."""
    return any(unicodedata.category(character)[0] in "LNS" for character in text)
