"""CommonGen: one sentence from given words, on the public data set, the paper's generation task."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from dqo.files.records import Prompt
from dqo.rewards.sentences import verbs_in
from dqo.tasks.concepts import QUESTION, SentenceTask
from dqo.tasks.datasets import DatasetTask, HubData, Record, Row
from dqo.tasks.splits import meta_field


def _records(rows: Iterator[Row], split: str) -> Iterator[Record]:
    """One prompt per concept set; the hub has one row per sentence, those of a set one after another."""
    sets: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        sentences = sets.setdefault(tuple(sorted(row["concepts"])), [])
        if row["target"] and row["target"] not in sentences:
            sentences.append(row["target"])
    for number, (concepts, sentences) in enumerate(sets.items()):
        text = QUESTION.format(words=", ".join(concepts))
        yield f"commongen-{split}-{number:05d}", text, sentences, {"concepts": list(concepts)}


@dataclass(kw_only=True)
class CommonGenTask(SentenceTask, DatasetTask):
    """Sentences from concept sets; quality as in the task `concepts`.

    The test prompts are the public validation split: the references of the official test split are held back.
    """

    _verbs: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False)  # by prompt

    name: ClassVar[str] = "commongen"
    hub: ClassVar[HubData] = HubData(
        name="allenai/common_gen",
        splits={"train": "train", "test": "validation"},
        to_records=_records,
    )

    def verbs(self, prompt: Prompt) -> list[str]:
        """Finds which of the concepts people used as verbs in the references."""
        if prompt.id not in self._verbs:
            self._verbs[prompt.id] = verbs_in(prompt.reference, meta_field(prompt, "concepts", list[str], self.name))
        return self._verbs[prompt.id]

    def key(self, prompt: Prompt) -> str:
        """Joins the concept set."""
        return " ".join(sorted(meta_field(prompt, "concepts", list[str], self.name)))
