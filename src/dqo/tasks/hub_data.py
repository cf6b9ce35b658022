"""Rows of a public data set: from a local copy, or streamed from the hub once per commit and kept as JSON lines.

A local copy is a folder with `train.jsonl` (and `test.jsonl`), or one file, which then holds everything.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from dqo.errors import DataError
from dqo.hub import cache_folder, first_words
from dqo.json_files import to_json
from dqo.records import Prompt, read_prompts, write_text

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
