"""What the tasks on public data sets share: source, splits without overlap, prompt template and what was counted."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dqo.errors import DataError
from dqo.files.records import Prompt, read_prompts
from dqo.models.weights import first_words
from dqo.rewards.references import RougeReward
from dqo.tasks.splits import Size, Splits, SplitTask, cut, distinct_ids, fold_case

Row = dict[str, Any]
# Id, text, references and the rest of `meta` of a prompt.
Record = tuple[str, str, str | list[str], dict[str, Any]]

_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class HubData:
    """A data set of the hub and how its rows become prompts.

    Attributes:
        name: "owner/name".
        splits: Our split -> the hub's; without "test", the test prompts are cut from train.
        to_records: The rows of one split and our name of it -> a record each. Ids are unique in the whole data set,
            so they carry the split.
        revision: Commit, branch or tag that is read; None reads the newest commit there is at the time.
        config: Name of the configuration, None for the only one.
        most: Our split -> prompts read where no size is asked for; all of them where it does not stand here.
    """

    name: str
    splits: Mapping[str, str]
    to_records: Callable[[Iterator[Row], str], Iterator[Record]]
    revision: str | None = None
    config: str | None = None
    most: Mapping[str, int] = field(default_factory=dict)


@dataclass(kw_only=True)
class DatasetTask(SplitTask):
    """A task on a data set of the hub or on a local copy of it; a subclass says what is asked and how it is scored.

    Rows of the hub are kept in the cache of `datasets`. Train, dev and test share no `key`: dev is cut from train by a
    hash, test too where the source has none of its own (a single file), and a training prompt whose key lies in dev or
    test is left out and counted in `notes`.

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
    train_size: Annotated[int, Field(ge=1)] | None = None
    dev_size: Size | None = None
    test_size: Size | None = None
    seed: int = 0
    template: Annotated[str, Field(pattern=r"\{prompt\}")] | None = None
    notes: list[str] = field(default_factory=list, init=False, repr=False)

    hub: ClassVar[HubData]
    needs: ClassVar[str] = "a text"
    default_template: ClassVar[str] = "{prompt}"

    @cached_property
    def splits(self) -> Splits:
        """Reads the prompts of each split as the policy gets them, at the first call."""
        spare = (100 if self.dev_size is None else self.dev_size) + (0 if self._has_test else self.test_size or 100)
        rows = self._rows("train", None if self.train_size is None else self.train_size + spare)
        if self._has_test:
            # Ids are told apart over whole files, so that no size changes one.
            rows, test = distinct_ids({"train": rows, "test": self._rows("test", self.test_size)}).values()
            test = test[: self.test_size]
        else:
            test, rows = cut(rows, self.test_size, key=self.key, seed=self.seed, label="test")
        for prompt in (*rows, *test):
            if not self.is_scorable(prompt):
                raise DataError(
                    f"prompt {prompt.id!r}: the task {self.name!r} needs {self.needs} in `reference`, got "
                    f"{prompt.reference!r}; fix the row."
                )
        seen = set(map(self.key, test))
        kept = [prompt for prompt in rows if self.key(prompt) not in seen]
        if len(kept) < len(rows):
            self.notes.append(f"{len(rows) - len(kept)} training prompts that are also test prompts were left out")
        dev, train = cut(kept, self.dev_size, key=self.key, seed=self.seed, label="dev")
        splits = {"train": train[: self.train_size], "dev": dev, "test": test}
        return {split: list(map(self._render, self.shorten(rows))) for split, rows in splits.items()}

    def key(self, prompt: Prompt) -> str:
        """Makes what two splits may not share."""
        return fold_case(prompt.prompt)

    def is_scorable(self, prompt: Prompt) -> bool:
        """Tells whether the reference is what the task needs."""
        return True

    def shorten(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Keeps the prompts within the task's limit of length, and notes how many were cut."""
        return list(prompts)

    @property
    def _has_test(self) -> bool:
        in_hub = self.path is None
        return "test" in self.hub.splits if in_hub else (Path(self.path).expanduser() / "test.jsonl").is_file()

    def _rows(self, split: str, limit: int | None) -> list[Prompt]:
        """Prompts of "train" or "test" in the source's order; a local copy is read whole."""
        if self.path is None:
            hub = replace(self.hub, revision=self.revision or self.hub.revision)
            limit = limit or hub.most.get(split)
            records = islice(hub.to_records(iter(_read_hub(hub, split, self.name)), split), limit)
            return [Prompt(own, text, reference, {"id": own, **meta}) for own, text, reference, meta in records]
        place = Path(self.path).expanduser()
        file = place / f"{split}.jsonl" if place.is_dir() else place
        if not file.is_file():
            raise DataError(
                f"task {self.name!r}: expected a folder with {split}.jsonl, or a JSON-lines file, at data.path "
                f"{self.path!r}, got nothing there; check the path."
            )
        return read_prompts(file)

    def _render(self, prompt: Prompt) -> Prompt:
        return replace(prompt, prompt=(self.template or self.default_template).replace("{prompt}", prompt.prompt))


def _read_hub(data: HubData, split: str, task: str) -> Any:
    """Rows of a hub split at one commit, from the cache of `datasets` where they were read before."""
    import datasets
    from huggingface_hub import HfApi

    folder = data.name.replace("/", "___")
    kept = {place.name for place in Path(datasets.config.HF_DATASETS_CACHE).expanduser().glob(f"{folder}/*/*/*")}
    commit = data.revision if _COMMIT.fullmatch(data.revision or "") else None
    try:
        if commit not in kept:
            # One request with a time limit: without a network the loader would retry for most of a minute.
            commit = HfApi().dataset_info(data.name, revision=data.revision, timeout=10).sha
        rows = datasets.load_dataset(data.name, data.config, split=data.splits[split], revision=commit)
        # Without a network the loader would take another commit from its cache, with no more than a log line.
        if not all(commit in file["filename"] for file in rows.cache_files):
            raise FileNotFoundError(f"commit {commit} is not in the cache")
    except Exception as error:
        # The hub's, the network's or the loader's: all of them mean the same to the user.
        copies = f", or data.revision to a commit that is kept here ({', '.join(sorted(kept))})" if kept else ""
        raise DataError(
            f"task {task!r}: expected the data set {data.name!r} from the hub or a local copy, but the hub said no "
            f"({first_words(error)}) and data.path is not set; check the network, or set data.path to a JSON-lines "
            f"file or to a folder with train.jsonl and test.jsonl{copies}."
        ) from error
    return rows


@dataclass(kw_only=True)
class ReferenceTask(DatasetTask):
    """Quality is ROUGE against the reference, 0 for a response that was cut off.

    It needs no model and no network, and it is a poor judge of open questions, where many good answers share few words
    with the one reference: give the recipe a reward model or a judge under `rewards` wherever one is at hand.

    Attributes:
        measure: "rouge1", "rouge2", "rougeL" or "rougeLsum".
    """

    measure: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL"

    max_completion_length: ClassVar[int] = 256
    _rouge: RougeReward = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._rouge = RougeReward(self.measure)

    def is_scorable(self, prompt: Prompt) -> bool:
        """Tells whether there is a reference."""
        return bool("".join(prompt.reference).strip())

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """Scores each of the N rows that ended by itself with ROUGE, in [0, 1]; the others with 0."""
        scores = self._rouge(completions=responses, reference=[prompt.reference for prompt in prompts])
        return [score if end else 0.0 for score, end in zip(scores, ended, strict=True)]
