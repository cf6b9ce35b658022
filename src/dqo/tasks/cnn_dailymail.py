"""CNN/DailyMail: news articles and their highlights, the paper's summarisation task."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dqo.files.records import Prompt
from dqo.tasks.datasets import HubData, Record, ReferenceTask, Row

_WORD = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)")


def _records(rows: Iterator[Row], split: str) -> Iterator[Record]:
    for row in rows:
        article, highlights = row["article"].strip(), row["highlights"].strip()
        if article and highlights:
            meta = {"article_words": len(article.split()), "highlights": len(highlights.splitlines())}
            yield f"cnn_dailymail-{split}-{row['id']}", article, highlights, meta


@dataclass(kw_only=True)
class CnnDailymailTask(ReferenceTask):
    """Summaries of three sentences; quality is ROUGE against the highlights unless the recipe names better rewards.

    An article of more than `max_article_words` words is cut behind the last sentence that fits, and `notes` says how
    many were: highlights mostly tell the beginning of a story, and one article of 20,000 tokens would decide the
    memory of a whole run.

    Attributes:
        max_article_words: Most words of an article, at least 20.
    """

    measure: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeLsum"
    max_article_words: Annotated[int, Field(ge=20)] = 600

    name: ClassVar[str] = "cnn_dailymail"
    max_completion_length: ClassVar[int] = 128
    default_template: ClassVar[str] = "Summarize this article in three short sentences.\n\n{prompt}"
    hub: ClassVar[HubData] = HubData(
        name="abisee/cnn_dailymail",
        splits={"train": "train", "test": "test"},
        to_records=_records,
        revision="96df5e686bee6baa90b8bee7c28b81fa3fa6223d",
        config="3.0.0",
        # Of 287,113 and 11,490; a run of reinforcement learning sees fewer.
        most={"train": 5000, "test": 500},
    )

    def shorten(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Cuts articles to the limit, and notes how many."""
        shortened = [replace(prompt, prompt=_first_words(prompt.prompt, self.max_article_words)) for prompt in prompts]
        changed = sum(new.prompt != old.prompt for new, old in zip(shortened, prompts, strict=True))
        if changed:
            self.notes.append(f"{changed} of {len(prompts)} articles were cut to {self.max_article_words} words")
        return shortened


def _first_words(text: str, most: int) -> str:
    """Cuts a text behind the last sentence that ends within its first `most` words, or behind these."""
    words = list(_WORD.finditer(text))
    if len(words) <= most:
        return text
    start = text[: words[most - 1].end()]
    ends = [found.end() for found in _SENTENCE_END.finditer(start)]
    return start[: ends[-1]] if ends and ends[-1] > len(start) // 2 else start
