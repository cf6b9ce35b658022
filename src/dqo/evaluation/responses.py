"""Reads files of responses, whichever tool wrote them, into groups: `dqo eval --responses`.

What holds the rows is found by the first bytes (JSON lines, parquet, a zip), their format by the fields of the first
row (`dqo.evaluation.formats`). Responses to one prompt become one group.
"""

import json
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from dqo.errors import DataError, check_choice
from dqo.evaluation.fields import settings_of
from dqo.evaluation.formats import FORMATS, ROLES, Format, Row, Sample, columns_of, format_of, of_request
from dqo.files.evaluation import read_metrics, read_settings
from dqo.files.jsonio import parse_object, read_lines, read_text
from dqo.files.records import Group, read_groups
from dqo.models.weights import first_words
from dqo.tasks.jsonl import load_prompts

# The name of our own format, and what a line of it may hold.
OWN = "groups"
_OWN_FIELDS = {"id", "prompt", "reference", "responses", "finish", "rewards", "meta"}
_FILES = (".jsonl", ".json", ".eval", ".parquet")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
# Compression method of a zip that Python 3.11 does not know and newer Inspect writes.
_ZSTANDARD = 93

Placed = tuple[str, Row]  # the place of a row, for messages, and the row


@dataclass(frozen=True)
class Responses:
    """What a file of responses says.

    Attributes:
        groups: One per prompt, in the order of the file.
        format: Name of the format it was read as: "groups", which is ours, or a key of `FORMATS`.
        sampling: How the responses were drawn, in the words of a sampling.json; None where nothing is known.
        notes: What a reader of the numbers must know, a sentence each; the first names file and format.
    """

    groups: list[Group]
    format: str
    sampling: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Opened:
    """The file itself, its rows, what it says about all of them, and the format if it settles that."""

    path: Path
    rows: Iterator[Placed]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    format: str | None = None


def read_responses(
    source: str | Path,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    data: str | Path | None = None,
) -> Responses:
    """Reads the responses of a file, a folder or a data set of the hub.

    Args:
        source: Our groups.jsonl, or JSON lines, parquet, an Inspect log (.eval or .json), a folder with one such file,
            a folder of the `datasets` library, or a data set of the hub as "owner/name" or "owner/name:split".
        format: "groups" or a key of `FORMATS`; found by the content where not given.
        columns: Role (a key of `ROLES`) -> column that plays it, where the names do not tell.
        data: Prompts and references by the ids of the file, as `load_prompts` takes them, or the requests of an OpenAI
            batch, whose output does not hold them.

    Returns:
        The groups, two responses or more in at least one of them unless the format is ours, and what is known of them.

    Raises:
        DataError: A file that cannot be read, has another format, or holds one response per prompt.
    """
    if format is not None:
        check_choice("format", format, (OWN, *FORMATS), DataError)
    for role in columns or ():
        check_choice("column", role, ROLES, DataError)
    named, opened = columns or {}, _open(str(source))
    if (first := next(opened.rows, None)) is None:
        raise DataError(f"{source}: expected responses, got none; check the path.")
    row = first[1]
    name = format or opened.format or format_of(row).name
    if name == OWN and not named:
        if data is not None:
            raise DataError(f"{source}: expected no --data for our own format, which holds the prompts; leave it out.")
        return _own(opened.path)
    form = FORMATS["rows" if name == OWN else name]
    found = columns_of(form, row, named, str(source))
    samples = [form.read(one, place, found) for place, one in chain([first], opened.rows) if form.is_new(one, row)]
    samples = _with_prompts(samples, data, str(source))
    groups = _grouped(samples, form.ids or "id" in named, Path(source))
    _check_several(groups, form, str(source))
    sampling, differing = _common_sampling([opened.sampling, *(sample.sampling for sample in samples)])
    notes = [_reading(source, form, found), *differing, *_failures(samples, groups)]
    if sampling.get("temperature") == 0:
        notes.append(f"the responses were drawn at temperature 0, so that they can hardly differ; {form.several}.")
    return Responses(groups, form.name, sampling or None, notes)


def _own(path: Path) -> Responses:
    """Our own groups.jsonl, with what the files beside it say of the sampling."""
    sampling, evaluated = read_settings(path.parent), path.with_name("metrics.json")
    if sampling is None and evaluated.exists():
        sampling = read_metrics(evaluated).get("sampling")
    return Responses(read_groups(path), OWN, sampling)


# What holds the rows.


def _open(source: str) -> _Opened:
    path = Path(source).expanduser()
    if path.is_dir():
        return _open_folder(path)
    # What stands in a folder that is there, or ends like a file, is a path with a mistake.
    if not path.exists() and _HUB_NAME.fullmatch(source) and not (path.parent.is_dir() or path.suffix in _FILES):
        name, _, split = source.partition(":")
        return _Opened(path, _dataset_rows(name, split))
    start = b""
    with suppress(OSError), path.open("rb") as file:  # the reader of lines says what is wrong
        start = file.read(64)
    if start.startswith(b"PK"):
        return _open_zip(path)
    if start.startswith(b"PAR1"):
        return _Opened(path, _parquet_rows(path))
    if re.match(rb"(\xef\xbb\xbf)?\s*\{\s*\n", start):  # an object over several lines
        return _inspect_log(path, parse_object(read_text(path, "file of responses"), str(path)))
    rows = ((place, row) for _, place, row in read_lines(path, "file of responses"))
    first = next(rows, None)
    fields = first[1].keys() if first else set()
    if {"eval", "samples"} <= fields:
        return _inspect_log(path, first[1])
    own = {"id", "prompt", "responses"} <= fields <= _OWN_FIELDS
    return _Opened(path, chain([first] if first else [], rows), format=OWN if own else None)


def _open_folder(path: Path) -> _Opened:
    """A folder that holds one file of responses, or a data set."""
    if (path / "groups.jsonl").is_file():
        return _open(str(path / "groups.jsonl"))
    files = sorted(one for one in path.iterdir() if one.suffix in _FILES and one.suffix != ".json")
    if len(files) == 1:
        return _open(str(files[0]))
    if files:
        names = ", ".join(one.name for one in files[:5]) + " …" * (len(files) > 5)
        raise DataError(f"{path}: expected a folder with one file of responses, got {names}; name one of them.")
    return _Opened(path, _dataset_rows(str(path), ""))


def _dataset_rows(name: str, split: str) -> Iterator[Placed]:
    """Rows of a data set of the hub, or of a folder that `datasets` wrote."""
    import datasets

    saved = any(Path(name, file).is_file() for file in ("state.json", "dataset_dict.json"))
    try:
        found = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, split=split or None)
    except Exception as error:
        raise DataError(
            f"{name}: expected a file of responses or a data set, but no such file exists and `datasets` said no "
            f"({first_words(error)}); check the name, its splits and the network."
        ) from error
    if isinstance(found, dict):
        if len(found) > 1:
            part = f"{name}/{next(iter(found))}" if saved else f"{name}:{next(iter(found))}"
            raise DataError(f"{name}: expected one split, got {', '.join(found)}; name one, as {part}.")
        [found] = found.values()
    for number, row in enumerate(found):
        yield f"{name}, row {number}", row


def _parquet_rows(path: Path) -> Iterator[Placed]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        for batch in ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                yield f"{path}, row {number}", row
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: expected a whole parquet file, got {first_words(error)}; copy it again.") from error


def _open_zip(path: Path) -> _Opened:
    """An Inspect log as a zip: a header and a file per sample."""
    try:
        members = {one.filename: one for one in zipfile.ZipFile(path).infolist()}
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{path}: expected a whole log of Inspect, got a broken zip ({error}); copy it again."
        ) from error
    head = members.get("header.json") or members.get("_journal/start.json")
    samples = [one for name, one in members.items() if name.startswith("samples/")]
    if head is None or not samples:
        raise DataError(f"{path}: expected a log of Inspect, with header.json and samples, got a zip without them.")
    document = parse_object(_member(path, head), f"{path}, {head.filename}")
    rows = (parse_object(_member(path, one), f"{path}, {one.filename}") for one in samples)
    return _inspect_log(path, document | {"samples": rows})


def _member(path: Path, one: zipfile.ZipInfo) -> str:
    if one.compress_type != _ZSTANDARD:
        with zipfile.ZipFile(path) as archive:
            return archive.read(one).decode()
    import pyarrow

    with path.open("rb") as file:
        file.seek(one.header_offset)
        # The last two of the local header's thirty bytes are lengths of a name and of what else stands before the data.
        file.seek(sum(struct.unpack("<HH", file.read(30)[26:])), 1)
        packed = pyarrow.BufferReader(file.read(one.compress_size))
    return pyarrow.CompressedInputStream(packed, "zstd").read().decode()


def _inspect_log(path: Path, document: Mapping[str, Any]) -> _Opened:
    if not {"eval", "samples"} <= document.keys():
        raise DataError(f"{path}: expected JSON lines or a log of Inspect, got one object; write a line per row.")
    asked = (document["eval"].get("model_generate_config"), (document.get("plan") or {}).get("config"))
    settings = {"model": document["eval"].get("model")}
    for part in asked:
        settings |= {name: value for name, value in (part or {}).items() if value is not None}
    rows = ((f"{path}, sample {row.get('id')!r} of epoch {row.get('epoch')}", row) for row in document["samples"])
    return _Opened(path, rows, settings_of(settings), "inspect")


# From samples to groups.


def _with_prompts(samples: list[Sample], data: str | Path | None, source: str) -> list[Sample]:
    """The samples with the prompts and references of another file, by id."""
    if data is None:
        if any(sample.prompt is None for sample in samples):
            raise DataError(
                f"{source}: expected the prompts too, but the output of an OpenAI batch does not hold them; add --data "
                "REQUESTS.jsonl, the file that was uploaded, or prompts with the ids `custom_id`."
            )
        return samples
    asked = _asked(data)
    if odd := next((sample for sample in samples if sample.id not in asked), None):
        raise DataError(
            f"{data}: expected a prompt for every response of {source}, got none of id {odd.id!r}; add it, or leave "
            "--data out."
        )
    both = ((sample, asked[sample.id]) for sample in samples)
    return [
        replace(
            sample, prompt=of.prompt, reference=of.reference or sample.reference, meta=of.meta or sample.meta,
            sampling=dict(of.sampling) | dict(sample.sampling),
        )
        for sample, of in both
    ]  # fmt: skip


def _asked(data: str | Path) -> dict[str | None, Sample]:
    """Prompts by id, of the requests of a batch or of a data file."""
    if Path(data).is_file():
        rows = [(place, row) for _, place, row in read_lines(data, "file of requests or prompts")]
        if rows and {"custom_id", "body"} <= rows[0][1].keys():
            return {request.id: request for request in (of_request(row, place) for place, row in rows)}
    prompts = load_prompts(str(data), setting="--data")
    return {one.id: Sample(one.id, one.prompt, one.reference, meta=one.meta) for one in prompts}


def _grouped(samples: Sequence[Sample], ids_are_of_prompts: bool, source: Path) -> list[Group]:
    """Puts the responses to one prompt together, by id where ids are those of prompts, else by its text."""
    ids, prompts = {sample.id for sample in samples}, {sample.prompt for sample in samples}
    by_id = None not in ids and (ids_are_of_prompts or len(ids) < len(samples) or len(prompts) == len(samples))
    found: dict[str | None, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.id if by_id else sample.prompt, []).append(sample)
    groups = []
    for number, same in enumerate(found.values(), start=1):
        if odd := next((sample for sample in same if sample.prompt != same[0].prompt), None):
            raise DataError(
                f"{source}: expected one prompt of id {odd.id!r}, got {same[0].prompt[:60]!r} and {odd.prompt[:60]!r}; "
                "name the column of the prompts' ids with --column id=NAME."
            )
        steps = {sample.meta.get("step") for sample in same}
        if len(steps) > 1:
            raise DataError(
                f"{source}: expected responses of one step of a training, got steps {min(steps)} and {max(steps)} for "
                f"{same[0].prompt[:60]!r}, which are those of two policies; give the file of one step."
            )
        groups.append(_group(same[0].id or f"{source.stem}-{number}", same))
    return [group for group in groups if group.responses]


def _group(own: str, samples: Sequence[Sample]) -> Group:
    rewards = [reward for one in samples for reward in (one.rewards or [None] * len(one.responses))]
    # What differs between the responses is no property of the prompt.
    first, *others = (sample.meta for sample in samples)
    meta = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    return Group(
        own,
        samples[0].prompt,
        next((sample.reference for sample in samples if sample.reference), []),
        [text for one in samples for text in one.responses],
        [end for one in samples for end in one.finish],
        None if None in rewards else rewards,
        {name: value for name, value in meta.items() if value is not None and _is_json(value)},
    )


def _is_json(value: Any) -> bool:
    """Whether JSON has the value; parquet also has times, bytes and numbers that are not finite."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _check_several(groups: Sequence[Group], form: Format, source: str) -> None:
    if not groups:
        raise DataError(f"{source}: expected responses, got {form.what} in which every request failed.")
    if all(len(group.responses) == 1 for group in groups):
        raise DataError(
            f"{source}: expected several responses per prompt, got {form.what} with one for each of {len(groups)} "
            f"prompts, which says nothing of diversity; {form.several}."
        )


# What is said of them.


def _common_sampling(parts: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """What is known of the sampling of all responses; a sentence says what differs between them."""
    values: dict[str, list[Any]] = {}
    for part in parts:
        for name, value in part.items():
            if value not in values.setdefault(name, []):
                values[name].append(value)
    differing = {name: ", ".join(map(str, found[:4])) for name, found in values.items() if len(found) > 1}
    notes = [f"the responses were not drawn alike: {name} is {found}." for name, found in differing.items()]
    return {name: found[0] for name, found in values.items() if len(found) == 1}, notes


def _reading(source: str | Path, form: Format, columns: Mapping[str, str]) -> str:
    taken = ", ".join(f"{role} from {name!r}" for role, name in columns.items())
    return f"{source} was read as {form.name}, {form.what}{taken and f': {taken}'}."


def _failures(samples: Sequence[Sample], groups: Sequence[Group]) -> list[str]:
    failed = sum(sample.failed for sample in samples)
    asked = failed + sum(len(group.responses) for group in groups)
    return [f"{failed} of {asked} requests have no response and are left out."] if failed else []
