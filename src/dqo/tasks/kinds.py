"""Kinds: name a common bird, drink or science; any reader can check an answer, and no encoder is needed to count."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from dqo.errors import DataError
from dqo.files.records import Conversation, Prompt
from dqo.tasks.splits import Splits, SplitTask, meta_field

# Answered in the wording of the prompt, before it: the packaged policy hardly answers without them.
_SHOTS = (("planet", "Mars"), ("season", "autumn"), ("shape", "triangle"), ("weekday", "Friday"),
          ("school subject", "history"), ("month", "May"))  # fmt: skip
_WORDINGS = {
    "train": ("Name a common {}.", "Tell me a common {}.", "Give an example of a common {}.", "What is a common {}?"),
    "dev": ("Which {} is common? Name one.", "Think of a common {}. Which one?"),
    "test": ("Can you think of a common {}?", "Name one common {}, please."),
}
# Never trained on: a wording of dev and test asks for them where `unseen` is set.
_UNSEEN = {
    "dev": ("reptile", "musical instrument", "crime", "room", "unit of measurement"),
    "test": ("vegetable", "vehicle", "island", "emotion", "symptom", "gas"),
}
_MEMBER_INSIDE, _FEW_WORDS = 0.5, 0.1  # quality of a member within six words, and of one or two other words
_ARTICLES = {"a", "an", "the"}


@dataclass(kw_only=True)
class KindsTask(SplitTask):
    """Members of everyday kinds; quality 1 for exactly one member of the kind asked for.

    A member in up to six words is worth `.5`, one or two other words `.1`, anything else and what did not end 0. A
    plural counts as its word, and a compound whose last word is a member as that member. Synonyms are one answer.

    Members are WordNet's hyponyms; kinds.json has them, with its licence.

    Attributes:
        unseen: Whether dev and test ask for kinds that are never trained on, instead of the trained ones in wordings
            that are never trained on.
    """

    unseen: bool = False

    name: ClassVar[str] = "kinds"
    max_completion_length: ClassVar[int] = 8

    @cached_property
    def splits(self) -> Splits:
        """Makes the prompts of each split: every wording with every kind."""
        never = {kind for kinds in _UNSEEN.values() for kind in kinds}
        trained = [kind for kind in self._members if kind not in never]
        made = {}
        for split, wordings in _WORDINGS.items():
            kinds = _UNSEEN[split] if self.unseen and split != "train" else trained
            asked = [(wording, kind) for kind in kinds for wording in wordings]
            made[split] = [_prompt(f"kinds-{split}-{i:03d}", *one) for i, one in enumerate(asked)]
        return made

    def answer_key(self, prompt: Prompt, response: str) -> str | None:
        """Names the member of a right response, the same for its synonyms, plural and compounds."""
        members, words = self._members_for(prompt), _words(response)
        found = _member(members, words)
        return found if found or not 1 < len(words) < 4 else _member(members, words[-1:])

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """Scores each of the N rows 1, `.5`, `.1` or 0."""
        return [self._score(*row) for row in zip(prompts, responses, ended, strict=True)]

    @cached_property
    def _members(self) -> dict[str, dict[str, str]]:
        """Kind -> form of a member -> the member's first form."""
        kinds = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))["kinds"]
        made = {}
        for kind, members in kinds.items():
            named: dict[str, str] = {}
            for forms in members:
                for form in forms:
                    named.setdefault(" ".join(_words(form)), forms[0])
            made[kind] = named
        return made

    def _members_for(self, prompt: Prompt) -> dict[str, str]:
        kind = meta_field(prompt, "kind", str, self.name)
        if kind not in self._members:
            raise DataError(
                f"prompt {prompt.id!r}: expected meta.kind to be one of {', '.join(self._members)}, got {kind!r}; use "
                "one of these."
            )
        return self._members[kind]

    def _score(self, prompt: Prompt, response: str, ended: bool) -> float:
        words = _words(response)
        if not ended or not words:
            return 0.0
        if self.answer_key(prompt, response):
            return 1.0
        members, starts = self._members_for(prompt), range(len(words))
        parts = (words[first:stop] for first in starts for stop in range(first + 1, len(words) + 1))
        if len(words) <= 6 and any(_member(members, part) for part in parts):
            return _MEMBER_INSIDE
        return _FEW_WORDS if len(words) <= 2 else 0.0


def _prompt(prompt_id: str, wording: str, kind: str) -> Prompt:
    talk = [
        {"role": role, "content": content}
        for shot, answer in _SHOTS
        for role, content in (("user", wording.format(shot)), ("assistant", answer))
    ]
    asked = Conversation([*talk, {"role": "user", "content": wording.format(kind)}])
    return Prompt(prompt_id, asked, [], {"id": prompt_id, "kind": kind})


def _words(text: str) -> list[str]:
    words = re.sub(r"[^\w\s'-]|_", " ", text.casefold()).split()
    return words[1:] if words[:1] and words[0] in _ARTICLES else words


def _member(members: dict[str, str], words: list[str]) -> str | None:
    return next((members[form] for form in _singulars(" ".join(words)) if form in members), None)


def _singulars(text: str) -> Iterator[str]:
    yield text
    for ending, one in (("ies", "y"), ("es", ""), ("s", "")):
        if text.endswith(ending):
            yield text.removesuffix(ending) + one
