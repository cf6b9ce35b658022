"""From a name to what decides that two responses mean the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from dqo.errors import EncoderError, RecipeError
from dqo.models.policy import best_device
from dqo.models.weights import load_whole, why_failed

if TYPE_CHECKING:
    from dqo.rewards.judge import JudgeReward

CHOICES = "embedding, noveltybench-1.0, noveltybench-1.0:<model folder> or nli:<model>"


class Equivalence(Protocol):
    """Pairs of texts -> whether they mean the same; its name goes into metrics.json."""

    name: str

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """One answer a pair."""
        ...


class SameByJudge:
    """An LLM judge as what decides that two responses mean the same.

    Args:
        judge: The judge.
    """

    def __init__(self, judge: "JudgeReward"):
        self.name, self._judge = judge.name, judge

    @property
    def notes(self) -> list[str]:
        """How many pairs could not be read, and what the server refused."""
        return self._judge.notes

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """One answer per pair."""
        return self._judge.same(pairs)


def load_equivalence(name: str) -> Equivalence | None:
    """The judge of equal meaning of a name.

    Args:
        name: `embedding` (the cosine of the encoder against its threshold), `noveltybench-1.0` (that benchmark's
            classifier), `noveltybench-1.0:FOLDER` (a local copy of it, with its tokenizer where the folder holds one),
            or `nli:MODEL` (entailment in both directions by that model).

    Returns:
        The judge, or None for `embedding`, which needs no texts.

    Raises:
        RecipeError: Another name.
        EncoderError: A model that cannot be loaded.
    """
    kind, _, model = name.partition(":")
    if name == "embedding":
        return None
    if kind == "noveltybench-1.0":
        return NoveltyBenchClassifier(model or NOVELTYBENCH_CLASSIFIER)
    if kind == "nli" and model:
        return Entailment(model)
    raise RecipeError(f"equivalence: expected {CHOICES}, got {name!r}.")


# Do two texts mean the same: entailment in both directions, or NoveltyBench's classifier, from Hugging Face models.

NOVELTYBENCH_CLASSIFIER = "yimingzhang/deberta-v3-large-generation-similarity"
NOVELTYBENCH_TOKENIZER = "microsoft/deberta-v3-large"
_TOKENIZER_FILES = ("tokenizer.json", "spm.model", "tokenizer_config.json")

Pairs = Sequence[tuple[str, str]]


class Entailment:
    """Two texts mean the same where an NLI model says that each entails the other, by its most likely label.

    Give it to `meaning_classes`. A pair longer than the model reads is refused: cut texts would look alike.

    Args:
        model: Folder or hub name of a sequence classifier with a label "entailment", in safetensors format.
        device: Where it runs; the accelerator where there is one.
        batch_size: Pairs at a time.

    Raises:
        EncoderError: A model that cannot be loaded or has no such label; when called, a pair that is too long.

    Source: Kuhn et al. 2023, "Semantic Uncertainty"; there the question stands before both texts.
    """

    def __init__(self, model: str, *, device: Any = None, batch_size: int = 32):
        self.name = f"nli:{model}"
        self._tokenizer, self._model = _load(model, model, device)
        labels = {str(label).lower(): place for place, label in self._model.config.id2label.items()}
        place = next((place for label, place in labels.items() if label.startswith("entail")), None)
        if place is None:
            raise EncoderError(
                f"expected an NLI model with a label 'entailment', but {model!r} has {sorted(labels)}; choose another."
            )
        self._label, self._batch_size = int(place), batch_size
        limits = (getattr(self._model.config, "max_position_embeddings", None), self._tokenizer.model_max_length)
        self._room = min((limit for limit in limits if limit), default=512)

    def __call__(self, pairs: Pairs) -> list[bool]:
        """Whether the two texts of each pair entail each other."""
        both = [*pairs, *((b, a) for a, b in pairs)]
        rows = [self._tokenizer(a, b)["input_ids"] for a, b in both]
        for (a, _), row in zip(both, rows, strict=True):
            if len(row) > self._room:
                raise EncoderError(
                    f"{self.name} reads {self._room} tokens, got a pair of {len(row)} that begins {a[:40]!r}; choose a "
                    "model that reads more, or a task whose answers are shorter."
                )
        entailed: list[bool] = []
        for start in range(0, len(both), self._batch_size):
            first, second = zip(*both[start : start + self._batch_size], strict=True)
            inputs = self._tokenizer(list(first), list(second), padding=True, return_tensors="pt")
            with torch.inference_mode():
                logits = self._model(**inputs.to(self._model.device)).logits  # (N, labels)
            entailed += (logits.argmax(-1) == self._label).tolist()
        return [a and b for a, b in zip(entailed[: len(pairs)], entailed[len(pairs) :], strict=True)]


class NoveltyBenchClassifier:
    """Two responses mean the same where NoveltyBench 1.0's fine-tuned DeBERTa gives more than 0.102.

    As there, the prompt is not read and each response is cut to 128 tokens. The first-member protocol is
    `meaning_classes`. Version 1.1, in which a language model partitions a whole group, is another measure.

    Args:
        model: Folder or hub name of the classifier; label 1 is "similar".
        tokenizer: Folder or hub name of its tokenizer; by default the model's folder where it holds one, else that of
            the hub, because the classifier's own repository has none.
        device: Where it runs; the accelerator where there is one.
        threshold: Probability above which two responses are alike.

    Raises:
        EncoderError: A model that cannot be loaded.

    Source: Zhang et al. 2025, NoveltyBench, and its code.
    """

    def __init__(
        self,
        model: str = NOVELTYBENCH_CLASSIFIER,
        *,
        tokenizer: str | None = None,
        device: Any = None,
        threshold: float = 0.102,
    ):
        self.name, self._threshold = f"noveltybench-1.0:{model}", threshold
        own = any((Path(model) / name).is_file() for name in _TOKENIZER_FILES)
        self._tokenizer, self._model = _load(model, tokenizer or (model if own else NOVELTYBENCH_TOKENIZER), device)

    def __call__(self, pairs: Pairs) -> list[bool]:
        """Whether the two responses of each pair mean the same."""
        return [self._alike(a, b) for a, b in pairs]

    def _alike(self, a: str, b: str) -> bool:
        cls, sep = self._tokenizer.cls_token_id, self._tokenizer.sep_token_id
        first, second = (
            self._tokenizer.encode(text, truncation=True, max_length=128, add_special_tokens=False) for text in (a, b)
        )
        ids = [cls, *first, sep, *second, sep]
        kinds = [0] * (len(first) + 2) + [1] * (len(second) + 1)
        device = self._model.device
        with torch.inference_mode():
            logits = self._model(
                input_ids=torch.tensor([ids], device=device), token_type_ids=torch.tensor([kinds], device=device)
            ).logits  # (1, 2)
        return logits.float().softmax(-1)[0, 1].item() > self._threshold


def _load(model: str, tokenizer: str, device: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    what, remedy = f"a sequence classifier from {model!r}", "check name and network, or give a folder of a trained one"
    classifier = load_whole(
        AutoModelForSequenceClassification, model, what, remedy, error=EncoderError, device=device or best_device()
    )
    try:
        return AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False), classifier
    except Exception as error:
        raise EncoderError(
            f"expected the tokenizer of {what}, but loading failed ({why_failed(error)}); {remedy}."
        ) from error
