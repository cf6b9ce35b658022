"""What the tasks on public data sets share: source, splits without overlap, prompt template and what was counted."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from dqo.errors import DataError, RecipeError
from dqo.files.jsonio import to_json
from dqo.files.records import Prompt, read_prompts, write_text
from dqo.models.weights import cache_folder, first_words
from dqo.rewards.references import RougeReward
from dqo.tasks.splits import cut, distinct_ids, pick_split, plain

# Rows of a public data set: from a local copy, or streamed from the hub once per commit and kept as JSON lines.
#
# A local copy is a folder with `train.jsonl` (and `test.jsonl`), or one file, which then holds everything.

Row = dict[str, Any]
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class HubData:
    """A data set of the hub and how its rows become prompts.

    Attributes:
        name: "owner/name".
        revision: Commit, branch or tag that is read; None reads the newest commit there is at the time.
        config: Name of the configuration, None for the only one.
        splits: Our split -> the hub's; without "test", the test prompts are cut from train.
        to_records: The rows of one split and our name of it -> {"prompt", "reference", "meta"} each. The ids in `meta`
            are unique in the whole data set, so they carry the split.
        most: Our split -> prompts read where no size is asked for; all of them where it does not stand here.
    """

    name: str
    revision: str | None
    config: str | None
    splits: Mapping[str, str]
    to_records: Callable[[Iterator[Row], str], Iterator[Row]]
    most: Mapping[str, int] = field(default_factory=dict)


def has_split(data: HubData, path: str | None, split: str) -> bool:
    """Whether the source has prompts of a split set apart."""
    if path is None:
        return split in data.splits
    return split == "train" or (Path(path).expanduser() / f"{split}.jsonl").is_file()


def read_rows(data: HubData, path: str | None, split: str, limit: int | None, task: str) -> list[Prompt]:
    """Prompts of one split, as their source has them.

    Args:
        data: The data set.
        path: Local copy; None reads the hub.
        split: "train" or "test".
        limit: Most prompts read from the hub; a local copy is read whole.
        task: Name of the task, for messages.

    Returns:
        The prompts in the source's order.

    Raises:
        DataError: No such file, a bad line, or a hub that cannot be reached.
    """
    if path is None:
        return _hub_rows(data, split, limit or data.most.get(split), task)
    place = Path(path).expanduser()
    file = place / f"{split}.jsonl" if place.is_dir() else place
    if not file.is_file():
        raise DataError(
            f"task {task!r}: expected a folder with {split}.jsonl, or a JSON-lines file, at data.path {path!r}, got "
            "nothing there; check the path."
        )
    return read_prompts(file)


def _hub_rows(data: HubData, split: str, limit: int | None, task: str) -> list[Prompt]:
    """Prompts of a hub split, its rows kept in the cache as the hub has them.

    The file is named after everything that decides which rows these are. What prompts are made of them is decided at
    each reading.
    """
    revision = _commit(data, task)
    parts = (data.name.replace("/", "--"), revision, data.config or "default", data.splits[split], str(limit or "all"))
    file = cache_folder() / "data" / f"{'-'.join(parts)}.jsonl"
    if not file.is_file():
        from tqdm.auto import tqdm

        kept: list[Row] = []
        rows = _keeping(_stream(replace(data, revision=revision), split, task), kept)
        for _ in tqdm(
            islice(data.to_records(rows, split), limit), desc=f"reading {data.name}", unit="row", total=limit
        ):
            pass
        write_text(file, "".join(to_json(file, row) + "\n" for row in kept))
    lines = (json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line)
    return [Prompt(record["meta"]["id"], **record) for record in islice(data.to_records(lines, split), limit)]


def _keeping(rows: Iterator[Row], kept: list[Row]) -> Iterator[Row]:
    for row in rows:
        kept.append(row)
        yield row


def _commit(data: HubData, task: str) -> str:
    """The commit that a revision stands for: asked of the hub, unless it is one, so that no old copy passes for new."""
    if data.revision and _COMMIT.fullmatch(data.revision):
        return data.revision
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(data.name, revision=data.revision, timeout=10).sha
    except Exception as error:
        raise _unreachable(data, task, error) from error
    assert found, "every revision of the hub has a commit"
    return found


def _stream(data: HubData, split: str, task: str) -> Iterator[Row]:
    """Rows of a hub split as they arrive; whatever goes wrong on the way is one sentence."""
    from datasets import load_dataset
    from huggingface_hub import HfApi

    try:
        # One request with a time limit: without a network the loader would retry for most of a minute.
        HfApi().dataset_info(data.name, revision=data.revision, timeout=10)
        yield from load_dataset(
            data.name, data.config, split=data.splits[split], revision=data.revision, streaming=True
        )
    except GeneratorExit:
        raise
    except Exception as error:
        raise _unreachable(data, task, error) from error


def _unreachable(data: HubData, task: str, error: Exception) -> DataError:
    """What to do without the hub; copies that are kept can be read by their commit."""
    start = data.name.replace("/", "--") + "-"
    kept = {file.name.removeprefix(start).split("-")[0] for file in (cache_folder() / "data").glob(f"{start}*.jsonl")}
    copies = f", or data.revision to a commit that is kept here ({', '.join(sorted(kept))})" if kept else ""
    return DataError(
        f"task {task!r}: expected the data set {data.name!r} from the hub or a local copy, but the hub said no "
        f"({first_words(error)}) and data.path is not set; check the network, or set data.path to a JSON-lines "
        f"file or to a folder with train.jsonl and test.jsonl{copies}."
    )


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


# Tasks whose quality is closeness to what a person wrote, where no reward model is given.


@dataclass(kw_only=True)
class ReferenceTask(DatasetTask):
    """Quality is ROUGE against the reference, 0 for a response that was cut off.

    It needs no model and no network, and it is a poor judge of open questions, where many good answers share few words
    with the one reference: give the recipe a reward model or a judge under `rewards` wherever one is at hand.

    Attributes:
        measure: "rouge1", "rouge2", "rougeL" or "rougeLsum".
    """

    measure: str = "rougeL"

    max_completion_length: ClassVar[int] = 256
    _rouge: RougeReward = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rouge = RougeReward(self.measure)

    def check(self, prompt: Prompt) -> None:
        """Refuse a row without a reference."""
        if not prompt.reference or not "".join(prompt.reference).strip():
            raise DataError(
                f"prompt {prompt.id!r}: the task {self.name!r} needs a text in `reference`, got {prompt.reference!r}; "
                "mend the row."
            )

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """ROUGE of each of the N rows that ended by itself, in [0, 1]; 0 for the others."""
        scores = self._rouge(
            prompts=[prompt.prompt for prompt in prompts],
            completions=responses,
            reference=[prompt.reference for prompt in prompts],
        )
        return [score if end else 0.0 for score, end in zip(scores, ended, strict=True)]
