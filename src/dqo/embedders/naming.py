"""The name of an encoder, and what stands after it: `NAME?pooling=cls&prompt=query: `.

Options are a part of the name, so that every place that takes an encoder takes them, and results and caches that go by
the name of their encoder keep two settings of one encoder apart.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dqo.errors import EncoderError, check_choice
from dqo.models.policy import DEFAULT_POLICY

# Our name of each pooling -> that of sentence-transformers.
POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken"}

OWNER = "sentence-transformers/"
# What would end an option, or be read as a code, is written as one; the rest stays readable.
_CODES = str.maketrans({"%": "%25", "&": "%26", "\n": "%0A"})
# Where responses are not English, or longer than the 128 to 512 tokens most encoders read at once.
ALIASES = {
    "multilingual": "paraphrase-multilingual-MiniLM-L12-v2",
    "long": "Alibaba-NLP/gte-modernbert-base",
    "multilingual-long": "Snowflake/snowflake-arctic-embed-l-v2.0",
}


@dataclass(frozen=True)
class EncoderName:
    """An encoder as it is named.

    Attributes:
        name: Without options; a folder, an alias, a hub name or a kind such as `policy:NAME`.
        pooling: "mean", "cls" or "last", how token states become one vector; None leaves it to the encoder.
        prompt: Text that is put before every text; None leaves it to the encoder.
    """

    name: str
    pooling: str | None = None
    prompt: str | None = None

    @property
    def options(self) -> str:
        """The options as they stand after the name, in one order; empty where there are none."""
        given = {"pooling": self.pooling, "prompt": self.prompt}
        words = [f"{key}={value.translate(_CODES)}" for key, value in given.items() if value is not None]
        return "?" * bool(words) + "&".join(words)

    @property
    def folder(self) -> Path | None:
        """The folder that the name without options is; None where it is none."""
        path = Path(self.name).expanduser()
        # `Path.is_dir` would raise for a name longer than a file's can be.
        return path if self.name and os.path.isdir(path) else None

    def __str__(self) -> str:
        return self.name + self.options


def read_name(text: str) -> EncoderName:
    """Splits what a user writes into the name and the options of an encoder; a folder of this very name wins.

    In a prompt, `&` is written %26, `%` %25 and a line break %0A.
    """
    if EncoderName(text).folder:
        return EncoderName(text)
    # The address of a server may have a query of its own; its model stands behind the first #.
    server, mark, rest = text.partition("#") if text.startswith("endpoint:") else ("", "", text)
    name, question, words = rest.partition("?")
    options: dict[str, str] = {}
    for word in words.split("&") if question else ():
        key, equals, value = word.partition("=")
        if key not in ("pooling", "prompt") or not equals or key in options:
            raise EncoderError(
                f"encoder {text!r}: expected `pooling=` and `prompt=` after the question mark, each at most once, got "
                f"{word!r}; write %26 for an & within a prompt."
            )
        options[key] = unquote(value)
    check_choice(f"pooling of encoder {text}", options.get("pooling", "mean"), POOLINGS, EncoderError)
    return EncoderName(server + mark + name, **options)


def canonical(text: str) -> str:
    """Finds the one name of an encoder's weights, which has several, so that two names can be compared.

    It is what an alias stands for, without the owner `sentence-transformers/` and options; of a folder its whole path.
    """
    name = read_name(text).name
    named = EncoderName(ALIASES.get(name, name))
    return str(named.folder.resolve()) if named.folder else named.name.removeprefix(OWNER)


def with_whole_path(text: str) -> str:
    """Rewrites a name with the whole path of its folder, if it names one, for a process that runs in another one."""
    named = read_name(text)
    return str(named.folder.resolve()) + named.options if named.folder else text


def kinship(encoder: Any, heldout: Any) -> list[str]:
    """Notes that a held-out encoder is no independent judge: what one vocabulary cannot spell, neither encoder sees.

    There is no note without a held-out encoder, and where vocabularies differ or one of them is not known.
    """
    known = getattr(encoder, "vocabulary", None)
    if heldout is None or known is None or getattr(heldout, "vocabulary", None) != known:
        return []
    return [
        f"the held-out encoder {heldout.name!r} is no independent judge: it reads the vocabulary of {encoder.name!r}, "
        f"so that both are blind to the same words; 'policy:{DEFAULT_POLICY}' reads another one."
    ]
