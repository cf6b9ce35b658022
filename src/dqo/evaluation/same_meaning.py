"""Decides whether two texts mean the same: an entailment model, or the classifier of NoveltyBench 1.0."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dqo.errors import EncoderError, RecipeError
from dqo.models.policy import best_device
from dqo.models.weights import check_loaded, why_failed

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

    from dqo.evaluation.meaning import SamePairs

NOVELTYBENCH_CLASSIFIER = "yimingzhang/deberta-v3-large-generation-similarity"
NOVELTYBENCH_TOKENIZER = "microsoft/deberta-v3-large"

Pairs = Sequence[tuple[str, str]]


def load_equivalence(name: str) -> "SamePairs | None":
    """Loads what decides that two responses mean the same; None for `embedding`, which needs no texts.

    `noveltybench-1.0:FOLDER` is a local copy of that benchmark's classifier, `nli:MODEL` entailment in both directions.
    A whole group is sorted by `JudgeReward`, an LLM. Names of judges go into metrics.json.
    """
    kind, _, model = name.partition(":")
    if name == "embedding":
        return None
    if kind == "noveltybench-1.0":
        return NoveltyBenchClassifier(model or NOVELTYBENCH_CLASSIFIER)
    if kind == "nli" and model:
        return Entailment(model)
    raise RecipeError(
        "equivalence: expected embedding, judge, judge:<file>, noveltybench-1.0, noveltybench-1.0:<model folder> or "
        f"nli:<model>, got {name!r}."
    )


class Entailment:
    """Two texts mean the same where an NLI model says that each entails the other (Kuhn et al. 2023).

    EncoderError refuses a model without a label "entailment" and a pair that is too long.
    """

    def __init__(self, model: str, *, device: Any = None):
        self.name, self._encoder = f"nli:{model}", _load(model, None, device)
        labels = {str(label).lower(): place for place, label in self._encoder.config.id2label.items()}
        self._label = next((int(place) for label, place in labels.items() if label.startswith("entail")), None)
        if self._label is None:
            raise EncoderError(
                f"expected an NLI model with a label 'entailment', but {model!r} has {sorted(labels)}; choose another."
            )

    def __call__(self, pairs: Pairs) -> list[bool]:
        """Whether the two texts of each pair entail each other."""
        both = [*pairs, *((b, a) for a, b in pairs)]
        room = self._encoder.tokenizer.model_max_length
        for a, b in both:
            # A pair that is cut would look like others that begin alike.
            if (length := len(self._encoder.tokenizer(a, b)["input_ids"])) > room:
                raise EncoderError(
                    f"{self.name} reads {room} tokens, got a pair of {length} that begins {a[:40]!r}; choose a model "
                    "that reads more, or a task whose answers are shorter."
                )
        logits = self._encoder.predict(both, activation_fn=torch.nn.Identity())  # (2 N, labels)
        entailed = (logits.argmax(axis=-1) == self._label).tolist()
        return [forth and back for forth, back in zip(entailed[: len(pairs)], entailed[len(pairs) :], strict=True)]


class NoveltyBenchClassifier:
    """Two responses mean the same where NoveltyBench 1.0's fine-tuned DeBERTa gives more than 0.102."""

    # Probability of label 1, "similar", above which two responses are alike.
    threshold = 0.102

    def __init__(self, model: str = NOVELTYBENCH_CLASSIFIER, *, device: Any = None):
        self.name = f"noveltybench-1.0:{model}"
        # The classifier's own repository holds no tokenizer.
        own = (Path(model) / "tokenizer_config.json").is_file()
        self._encoder = _load(model, None if own else NOVELTYBENCH_TOKENIZER, device)

    def __call__(self, pairs: Pairs) -> list[bool]:
        """Whether the two responses of each pair mean the same."""
        # As there, the prompt is not read.
        cut = {text: self._first_tokens(text) for pair in pairs for text in pair}
        scores = self._encoder.predict([(cut[a], cut[b]) for a, b in pairs], activation_fn=torch.nn.Softmax(dim=-1))
        return (scores[:, 1] > self.threshold).tolist()

    def _first_tokens(self, text: str, most: int = 128) -> str:
        settings = {"truncation": True, "max_length": most, "add_special_tokens": False, "return_offsets_mapping": True}
        ends = self._encoder.tokenizer(text, **settings)["offset_mapping"]
        return text if len(ends) < most else text[: ends[-1][1]]


def _load(model: str, tokenizer: str | None, device: Any) -> "CrossEncoder":
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer

    # Shapes that differ are refused below, by name.
    options = {"trust_remote_code": False, "use_safetensors": True, "ignore_mismatched_sizes": True}
    task = "sequence-classification"
    try:
        layer = Transformer(model, transformer_task=task, model_kwargs=options, tokenizer_name_or_path=tokenizer)
        encoder = CrossEncoder(modules=[layer], device=str(device or best_device()))
    except Exception as error:  # the hub's, the network's or the files': all of them mean the same to the user
        raise EncoderError(
            f"expected a sequence classifier from {model!r}, but loading failed ({why_failed(error)}); check name and "
            "network, or give a folder of a trained one."
        ) from error
    read = partial(encoder.predict, [("A probe.", "Another.")], convert_to_tensor=True)
    check_loaded(encoder, model, read)
    return encoder
