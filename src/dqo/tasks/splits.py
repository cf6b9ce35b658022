"""Train, dev and test splits that share no item: drawn for a generated task, cut from a data set by a hash."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate
from typing import Annotated, Any, ClassVar, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model

from dqo.errors import DataError, RecipeError
from dqo.files.records import Prompt
from dqo.settings.checking import check

SPLITS = ("train", "dev", "test")
# Draws for one item before the space counts as exhausted.
_ATTEMPTS = 2000
# Prompts cut where no size is given, but no more than a tenth.
_MOST_CUT = 100

Size = Annotated[int, Field(ge=0)]
Splits = dict[str, list[Prompt]]
Key = Callable[[Prompt], str]


class SplitTask:
    """What tasks with splits share: prompts by the name of a split, and the whole response as what is embedded.

    Attributes:
        name: The name in recipes and logs.
        splits: The prompts of each split.
    """

    name: ClassVar[str]
    splits: Splits

    def prompts(self, split: str) -> list[Prompt]:
        """Lists the prompts of "train", "dev" or "test"; RecipeError for another name."""
        if split not in SPLITS:
            raise RecipeError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}.")
        return list(self.read(split))

    def read(self, split: str) -> list[Prompt]:
        """Looks the prompts of a split up."""
        return self.splits[split]

    def answer_span(self, response: str) -> str:
        """Takes the whole response as what is embedded."""
        return response.strip()


@dataclass(kw_only=True)
class GeneratedTask(SplitTask):
    """A task that draws its prompts; a subclass says how one is drawn, asked and scored.

    The test split is drawn first, then dev, then train, each when it or a later one is asked for, with its own
    generator seeded by a string: a larger train split leaves the test split as it was, and every process and Python
    version draws the same.

    Attributes:
        seed: Seed of the prompts.
        train_size: Prompts to train on.
        dev_size: Prompts to choose settings on.
        test_size: Prompts to report on.
    """

    seed: int = 0
    train_size: Size = 400
    dev_size: Size = 60
    test_size: Size = 60
    splits: Splits = field(default_factory=dict, init=False, repr=False)
    _others: list[Any] = field(default_factory=list, init=False, repr=False)

    def read(self, split: str) -> list[Prompt]:
        """Draws the split, and before it those that it must not touch; RecipeError where no new item is found."""
        for one in reversed(SPLITS[SPLITS.index(split) :]):
            if one not in self.splits:
                items = self._draw_items(one)
                self._others += items
                self.splits[one] = [self._prompt(item, f"{self.name}-{one}-{i:04d}") for i, item in enumerate(items)]
        return self.splits[split]

    def draw(self, rng: random.Random) -> Any:
        """Draws one item; items compare by `==`."""
        raise NotImplementedError

    def ask(self, item: Any) -> tuple[str, list[str], dict[str, Any]]:
        """Makes text, references and meta of an item's prompt."""
        raise NotImplementedError

    def clash(self, one: Any, other: Any) -> bool:
        """Tells whether two items may not lie in different splits; equal items never occur twice."""
        return one == other

    def _draw_items(self, split: str) -> list[Any]:
        setting, rng, items, misses = f"{split}_size", random.Random(f"{self.seed}/{split}"), [], 0
        while len(items) < getattr(self, setting):
            item = self.draw(rng)
            if item not in items and not any(self.clash(item, other) for other in self._others):
                items.append(item)
                misses = 0
            elif (misses := misses + 1) == _ATTEMPTS:
                raise RecipeError(
                    f"{setting}={getattr(self, setting)}: expected no more prompts than the task can make, but after "
                    f"{len(items)} no new one was found in {_ATTEMPTS} draws; set a smaller one by "
                    f"`task_options: {{{setting}: ...}}`."
                )
        return items

    def _prompt(self, item: Any, prompt_id: str) -> Prompt:
        text, reference, meta = self.ask(item)
        return Prompt(prompt_id, text, reference, {"id": prompt_id, **meta})


def cut(
    prompts: Sequence[Prompt], size: int | None, *, key: Key, seed: int, label: str
) -> tuple[list[Prompt], list[Prompt]]:
    """Sets prompts apart, all prompts of one key together.

    Keys are taken in the order of a hash of seed, label and key: adding or removing other prompts changes no choice
    between two keys, on any machine.
    """
    size = min(_MOST_CUT, len(prompts) // 10) if size is None else size
    members = Counter(map(key, prompts))
    order = sorted(members, key=lambda text: _digest(f"{seed}/{label}/{text}"))
    # A key is taken where those before it do not make up the size.
    before = accumulate((members[text] for text in order), initial=0)
    chosen = {text for text, count in zip(order, before, strict=False) if count < size}
    left = [prompt for prompt in prompts if key(prompt) not in chosen]
    if not left:
        raise DataError(
            f"{label}_size={size}: expected fewer prompts than the {len(prompts)} there are to cut from; lower it."
        )
    return [prompt for prompt in prompts if key(prompt) in chosen], left


def distinct_ids(splits: Mapping[str, list[Prompt]]) -> Splits:
    """Puts the split in front of ids that two splits share, as where each file counts from 0.

    What is found by its id (a finished answer, a baseline's, the same prompt of another run) is then never that of
    another split.
    """
    times = Counter(prompt.id for prompts in splits.values() for prompt in prompts)
    return {
        split: [_renamed(prompt, f"{split}-{prompt.id}") if times[prompt.id] > 1 else prompt for prompt in prompts]
        for split, prompts in splits.items()
    }


def fold_case(text: str) -> str:
    """Folds case and white space, for texts that count as equal."""
    return " ".join(text.casefold().split())


def meta_field(prompt: Prompt, field: str, kind: Any, task: str) -> Any:
    """Reads the field of a prompt's `meta` that a task needs; DataError where it is missing, empty or no `kind`."""
    place = f"prompt {prompt.id!r}, meta of the task {task!r}"
    return getattr(check(_meta_model(field, kind), prompt.meta, place, error=DataError), field)


@cache
def _meta_model(name: str, kind: Any) -> type[BaseModel]:
    bounds = Field(min_length=1) if get_origin(kind) is list else Field()
    return create_model("Meta", __config__=ConfigDict(strict=True), **{name: (kind, bounds)})


def _renamed(prompt: Prompt, name: str) -> Prompt:
    meta = prompt.meta | {"id": name} if "id" in prompt.meta else prompt.meta
    return replace(prompt, id=name, meta=meta)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
