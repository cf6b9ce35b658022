"""Dolly: instructions written by people, some with a context, the paper's instruction-following task."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from dqo.files.records import Prompt
from dqo.tasks.datasets import HubData, Record, ReferenceTask, Row
from dqo.tasks.splits import fold_case

# The data set's owners recommend removing these.
_CITATION = re.compile(r"\[\d+\]")


def _records(rows: Iterator[Row], split: str) -> Iterator[Record]:
    for number, row in enumerate(rows):
        texts = (_CITATION.sub("", row[column] or "").strip() for column in ("instruction", "context", "response"))
        instruction, context, response = texts
        if instruction and response:
            text = f"{instruction}\n\n{context}" if context else instruction
            meta = {"category": row["category"], "instruction_chars": len(instruction), "has_context": bool(context)}
            yield f"dolly-{split}-{number:05d}", text, response, meta


@dataclass(kw_only=True)
class DollyTask(ReferenceTask):
    """Instructions; quality is ROUGE against the person's answer unless the recipe names better rewards.

    The hub has one split, so dev and test are cut from it. Two prompts about one context never lie in two splits. A
    prompt of more than `max_prompt_words` words is left out and counted in `notes`: half a question is another one, and
    the longest prompt decides the memory of a run.

    Attributes:
        max_prompt_words: Most words of an instruction with its context, at least 20.
    """

    max_prompt_words: Annotated[int, Field(ge=20)] = 800

    name: ClassVar[str] = "dolly"
    hub: ClassVar[HubData] = HubData(
        name="databricks/databricks-dolly-15k",
        splits={"train": "train"},
        to_records=_records,
        revision="bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a",
    )

    def shorten(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Leaves out the prompts beyond the limit, and notes how many."""
        kept = [prompt for prompt in prompts if len(prompt.prompt.split()) <= self.max_prompt_words]
        left_out = f"{len(prompts) - len(kept)} of {len(prompts)} prompts"
        if len(kept) < len(prompts):
            self.notes.append(f"{left_out} of more than {self.max_prompt_words} words were left out")
        return kept

    def key(self, prompt: Prompt) -> str:
        """Takes the context where there is one, else the instruction."""
        length = prompt.meta.get("instruction_chars")
        has_context = prompt.meta.get("has_context") is True and isinstance(length, int)
        return fold_case(prompt.prompt[length:] if has_context else prompt.prompt)
