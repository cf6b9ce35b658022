"""CommonGen: one sentence from given words, on the public data set, the paper's generation task."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dqo.files.records import Prompt
from dqo.models.policy import DEFAULT_POLICY
from dqo.tasks.concepts import SentenceQuality
from dqo.tasks.datasets import DatasetTask, HubData
from dqo.tasks.splits import meta_field

_QUESTION = "Write one sentence about an everyday scene that uses all of these words: {words}."


def _records(rows: Iterator[dict[str, Any]], split: str) -> Iterator[dict[str, Any]]:
    """One prompt a concept set; the hub has one row a sentence, those of a set one after another."""
    sets: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        sentences = sets.setdefault(tuple(sorted(row["concepts"])), [])
        if row["target"] and row["target"] not in sentences:
            sentences.append(row["target"])
    for number, (concepts, sentences) in enumerate(sets.items()):
        yield {
            "prompt": _QUESTION.format(words=", ".join(concepts)),
            "reference": sentences,
            "meta": {"id": f"commongen-{split}-{number:05d}", "concepts": list(concepts)},
        }


@dataclass(kw_only=True)
class CommonGenTask(DatasetTask):
    """Sentences from concept sets; quality = coverage × fluency × ended, in [0, 1], as in the task `concepts`.

    The test prompts are the public validation split: the references of the official test split are held back.

    Attributes:
        fluency_model: Name or folder of the model that judges fluency; None takes fluency as 1.
        fluency_low: Log-probability per word, in nats, worth 0; None for the one measured for the default model.
        fluency_high: The one worth 1, likewise.
    """

    fluency_model: str | None = DEFAULT_POLICY
    fluency_low: float | None = None
    fluency_high: float | None = None

    name: ClassVar[str] = "commongen"
    max_completion_length: ClassVar[int] = 48
    hub: ClassVar[HubData] = HubData(
        name="allenai/common_gen",
        revision=None,
        config=None,
        splits={"train": "train", "test": "validation"},
        to_records=_records,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._sentence = SentenceQuality(self.name, self.fluency_model, self.fluency_low, self.fluency_high)

    def key(self, prompt: Prompt) -> str:
        """The concept set."""
        return " ".join(sorted(meta_field(prompt, "concepts", list[str], self.name)))

    def check(self, prompt: Prompt) -> None:
        """Refuse a row without concepts."""
        meta_field(prompt, "concepts", list[str], self.name)

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """Coverage × fluency × ended for each of the N rows, in [0, 1]."""
        return self._sentence(prompts, responses, ended)
