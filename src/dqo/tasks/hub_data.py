"""Rows of a public data set: from a local copy, or streamed from the hub once and kept as JSON lines.

A local copy is a folder with `train.jsonl` (and `test.jsonl`), or one file, which then holds everything.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from dqo.errors import DataError
from dqo.hub import cache_folder, first_words
from dqo.records import Prompt, read_prompts, write_text

Row = dict[str, Any]


@dataclass(frozen=True)
class HubData:
    """A data set of the hub and how its rows become prompts.

    Attributes:
        name: "owner/name".
        revision: Commit that is read; None reads the newest, because no commit could be checked.
        config: Name of the configuration, None for the only one.
        splits: Our split -> the hub's; without "test", the test prompts are cut from train.
        to_records: The rows of one split -> {"prompt", "reference", "meta"} each.
        most: Our split -> prompts read where no size is asked for; all of them where it does not stand here.
    """

    name: str
    revision: str | None
    config: str | None
    splits: Mapping[str, str]
    to_records: Callable[[Iterator[Row]], Iterator[Row]]
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
        return read_prompts(_cached(data, split, limit or data.most.get(split), task))
    place = Path(path).expanduser()
    file = place / f"{split}.jsonl" if place.is_dir() else place
    if not file.is_file():
        raise DataError(
            f"task {task!r}: expected a folder with {split}.jsonl, or a JSON-lines file, at data.path {path!r}, got "
            "nothing there; check the path."
        )
    return read_prompts(file)


def _cached(data: HubData, split: str, limit: int | None, task: str) -> Path:
    """The JSON-lines file of a split in the cache, written now if it is not there yet."""
    parts = (data.name.replace("/", "--"), data.revision or "newest", split, str(limit or "all"))
    file = cache_folder() / "data" / f"{'-'.join(parts)}.jsonl"
    if not file.is_file():
        from tqdm.auto import tqdm

        rows = islice(data.to_records(_stream(data, split, task)), limit)
        records = tqdm(rows, desc=f"reading {data.name}", unit="row", total=limit)
        write_text(file, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return file


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
        raise DataError(
            f"task {task!r}: expected the data set {data.name!r} from the hub or a local copy, but the hub said no "
            f"({first_words(error)}) and data.path is not set; check the network, or set data.path to a JSON-lines "
            "file or to a folder with train.jsonl and test.jsonl."
        ) from error
