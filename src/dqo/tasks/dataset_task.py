"""What the tasks on public data sets share: source, splits without overlap, prompt template and what was counted."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from dqo.errors import RecipeError
from dqo.records import Prompt
from dqo.tasks.cut import cut, plain
from dqo.tasks.hub_data import HubData, has_split, read_rows
from dqo.tasks.splits import distinct_ids, pick_split


@dataclass(kw_only=True)
class DatasetTask:
    """A task on a data set of the hub or on a local copy of it; a subclass says what is asked and how it is scored.

    Train, dev and test share no `key`: dev is cut from train by a hash, test too where the source has none of its own
    (a single file), and a training prompt whose key lies in dev or test is left out and counted in `notes`.

    Attributes:
        path: Local copy: a folder with train.jsonl and test.jsonl, or one JSON-lines file; None reads the hub.
        revision: Commit of the data set on the hub; None for the one of the class.
        train_size: Most prompts to train on; None for all of them.
        dev_size: Prompts to choose settings on; None for a tenth of the training rows, at most 100.
        test_size: Most prompts to report on; None for all of them.
        seed: Seed of what is cut.
        template: Text that holds {prompt}; None for the one of the class.
        notes: What was left out or shortened so far, in words.
    """

    path: str | None = None
    revision: str | None = None
    train_size: int | None = None
    dev_size: int | None = None
    test_size: int | None = None
    seed: int = 0
    template: str | None = None
    notes: list[str] = field(default_factory=list, init=False, repr=False)

    name: ClassVar[str]
    hub: ClassVar[HubData]
    default_template: ClassVar[str] = "{prompt}"
    outcome_only: ClassVar[bool] = False  # whether quality tells right from wrong and nothing else
    cuts_span: ClassVar[bool] = False  # whether answer_span leaves out what follows the answer

    def __post_init__(self) -> None:
        for option in ("train_size", "dev_size", "test_size", "seed"):
            value = getattr(self, option)
            least = 1 if option == "train_size" else 0
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise RecipeError(f"{option}: expected a whole number of at least {least}, got {value!r}.")
        self.template = self.default_template if self.template is None else self.template
        if not isinstance(self.template, str) or "{prompt}" not in self.template:
            raise RecipeError(
                f"template: expected a text that holds {{prompt}}, got {self.template!r}; add {{prompt}}."
            )
        self._splits: dict[str, list[Prompt]] = {}

    def prompts(self, split: str) -> list[Prompt]:
        """Prompts of one split, as the policy gets them; `reference` and `meta` as in the source."""
        if not self._splits:
            self._splits = self._read()
        return pick_split(self._splits, split)

    def answer_span(self, response: str) -> str:
        """The whole response."""
        return response.strip()

    def key(self, prompt: Prompt) -> str:
        """What two splits may not share."""
        return plain(prompt.prompt)

    def check(self, prompt: Prompt) -> None:
        """Raise DataError for a row that cannot be scored."""

    def shorten(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts within the task's limit of length; notes how many were cut."""
        return list(prompts)

    def _read(self) -> dict[str, list[Prompt]]:
        data = replace(self.hub, revision=self.revision or self.hub.revision)
        own_test = has_split(data, self.path, "test")
        spare = (self.dev_size if self.dev_size is not None else 100) + (0 if own_test else self.test_size or 100)
        limit = None if self.train_size is None else self.train_size + spare
        rows = read_rows(data, self.path, "train", limit, self.name)
        if own_test:
            test = read_rows(data, self.path, "test", self.test_size, self.name)
            rows, test = distinct_ids(
                {"train": rows, "test": test}
            ).values()  # of whole files, so no size changes an id
            test = test[: self.test_size]
        else:
            test, rows = cut(rows, self.test_size, key=self.key, seed=self.seed, label="test")
        for prompt in (*rows, *test):
            self.check(prompt)
        seen = {self.key(prompt) for prompt in test}
        kept = [prompt for prompt in rows if self.key(prompt) not in seen]
        if len(kept) < len(rows):
            self.notes.append(f"{len(rows) - len(kept)} training prompts that are also test prompts were left out")
        dev, train = cut(kept, self.dev_size, key=self.key, seed=self.seed, label="dev")
        splits = {"train": train[: self.train_size], "dev": dev, "test": test}
        return {split: [self._render(prompt) for prompt in self.shorten(rows)] for split, rows in splits.items()}

    def _render(self, prompt: Prompt) -> Prompt:
        return replace(prompt, prompt=self.template.replace("{prompt}", prompt.prompt))
