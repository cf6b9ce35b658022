"""The folder of a sampling run: groups.jsonl, one line a finished prompt, and sampling.json, its settings.

A line is written once, whole, when its prompt is finished; a kill can only leave the last line unfinished. A second run
of the same settings keeps the whole lines and draws the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dqo.errors import DataError
from dqo.json_files import from_utf8, parse_object, read_text
from dqo.records import Group, Prompt, append_jsonl, read_groups, write_groups, write_json, write_text
from dqo.run_format import FORMAT, check_format


class SamplingFolder:
    """Finished groups of one run, in memory and, where there is a folder, on disk.

    Args:
        out: The folder; None keeps nothing on disk.
        settings: What decides what is drawn; a folder of other settings is refused.
        prompts: What is asked.

    Raises:
        DataError: A folder that holds a run of other settings, weights or prompts.
    """

    def __init__(self, out: str | Path | None, settings: dict[str, Any], prompts: Sequence[Prompt]):
        self.path = None if out is None else Path(out) / "groups.jsonl"
        self.done = {} if out is None else _resume(Path(out), settings, prompts)

    def add(self, group: Group) -> None:
        """Keep a finished group; an evaluation of those before it, which it would not belong to, goes first."""
        self.done[group.id] = group
        if self.path is not None:
            self.path.with_name("metrics.json").unlink(missing_ok=True)
            append_jsonl(self.path, vars(group))

    def finish(self, prompts: Sequence[Prompt]) -> list[Group]:
        """All groups in the order of the prompts; the file, whose lines come as they are finished, is put in order."""
        groups = [self.done[prompt.id] for prompt in prompts if prompt.id in self.done]
        if self.path is not None and list(self.done) != [group.id for group in groups]:
            write_groups(self.path, groups)
        return groups

    def record(self, adapted: Mapping[str, str], left_out: Mapping[str, str] | None = None) -> None:
        """Write what a server refused beside the settings; what an earlier start adapted holds for its responses too.

        Args:
            adapted: Parameter -> what was done about it, a sentence.
            left_out: Prompt id -> the server's reason; None where the run goes on.
        """
        if self.path is None or (not adapted and left_out is None):
            return
        path = self.path.with_name("sampling.json")
        before = parse_object(read_text(path, "record of this run"), str(path))
        after = before | {"adapted": before.get("adapted", {}) | adapted}
        after |= {} if left_out is None else {"left_out": dict(left_out)}
        after = {name: value for name, value in after.items() if value or name not in ("adapted", "left_out")}
        if after != before:
            write_json(path, after)


def sampling_notes(sampling: Mapping[str, Any] | None) -> list[str]:
    """What a reader of the numbers must know about how the responses were drawn.

    Args:
        sampling: What sampling.json holds; None where it is not known.

    Returns:
        Sentences, for the notes of an evaluation.
    """
    known = sampling or {}
    left_out, notes = known.get("left_out") or {}, list((known.get("adapted") or {}).values())
    if left_out:
        first, reason = next(iter(left_out.items()))
        notes.append(
            f"{len(left_out)} prompts are left out, because the server did not answer them: the first is {first!r} "
            f"({reason}); sampling.json lists all, and the same command asks them again."
        )
    return notes


def read_settings(folder: str | Path) -> dict[str, Any] | None:
    """The settings that the responses of a folder were drawn with.

    Args:
        folder: Where groups.jsonl is.

    Returns:
        The content of sampling.json, None where there is none.

    Raises:
        DataError: A file that is no JSON object.
    """
    record = Path(folder) / "sampling.json"
    if not record.exists():
        return None
    settings = parse_object(read_text(record, "record of an earlier run"), str(record), "JSON object of an earlier run")
    check_format(settings, record)
    settings.pop("format", None)
    return settings


def _resume(out: Path, settings: dict[str, Any], prompts: Sequence[Prompt]) -> dict[str, Group]:
    """Groups the folder already holds, after checking that this run would have drawn the same."""
    record, path = out / "sampling.json", out / "groups.jsonl"
    before = read_settings(out)
    if before is None:
        if path.exists():
            raise DataError(f"{path}: expected {record.name} beside it to resume from; choose another folder.")
        write_json(record, {"format": FORMAT} | settings)
        return {}
    for name, value in settings.items():
        # where the weights are known, they say which model it is, and its path may be written in another way
        if before.get(name) != value and not (name == "model" and "weights" in settings):
            raise DataError(
                f"{record}: expected {name} = {value!r} to resume sampling, got {before.get(name)!r}; "
                "choose another folder or delete this one."
            )
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]  # a kill in the middle of a write leaves half a line
    if whole != content:
        write_text(path, from_utf8(path, whole))
    # Rewards of an earlier evaluation in the same folder are not this run's.
    done = {group.id: replace(group, rewards=None) for group in read_groups(path)} if whole else {}
    asked = {prompt.id: prompt.prompt for prompt in prompts}
    for group in done.values():
        if asked.get(group.id) != group.prompt:
            why = "with another text" if group.id in asked else "none of them"
            raise DataError(
                f"{path}: expected groups of the {len(asked)} prompts asked for, but one is of {group.id!r}, {why}; "
                "ask for the same prompts or more, or choose another folder."
            )
    return done
