"""What `dqo eval` and `dqo sample` write: read, checked, compared for likeness, and continued."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from dqo.errors import DataError
from dqo.files.jsonio import parse_object, read_text
from dqo.files.records import Group, Prompt, append_jsonl, line_of, read_groups, read_records, write_groups, write_json
from dqo.files.run import check_unchanged
from dqo.settings.checking import Strict, check

# What stands under `scoring` where rewards came with the responses and nothing says what gave them.
UNKNOWN_SCORING = {"rewards": "carried, origin unknown"}
# Differences in any of these would be read as differences between the models.
MUST_AGREE = ("n_samples", "encoder", "heldout_encoder", "equivalence", "task", "answer", "scoring", "pass_threshold")
# Of how the responses were drawn: differences in these are cautioned, because to compare temperatures is a purpose.
# `parameters` are those of a server as given, `adapted` those that it refused, so that its own default counted.
SAMPLED = ("temperature", "max_new_tokens", "system_prompt", "chat_template", "chat_template_kwargs", "form",
           "parameters", "adapted")  # fmt: skip


class _Interval(Strict, extra="ignore"):
    mean: float
    low: float
    high: float


class _Attractor(Strict, extra="ignore"):
    kind: str
    text: str
    share: float
    prompts: int


# What the readers of a metrics.json rely on. Comparison, sweep and report all read it here, so that a file is taken by
# all three or refused by all three.
class _Metrics(Strict, extra="ignore"):
    metrics: dict[str, _Interval | None]
    n_prompts: int = Field(ge=1)
    n_samples: int = Field(ge=1)
    encoder: str | None = None
    pass_threshold: float = 0.5
    scoring: dict[str, Any] | None = None
    sampling: dict[str, Any] | None = None
    notes: list[str] = Field(default=[])
    attractors: list[_Attractor] = Field(default=[])


# One line of a prompt_metrics.jsonl.
class _PromptMetrics(Strict, extra="allow"):
    __pydantic_extra__: dict[str, float | None]
    id: str


def read_metrics(path: str | Path) -> dict[str, Any]:
    """Reads a metrics.json, in which readers rely on what `_Metrics` says; DataError for any other content."""
    document = parse_object(read_text(path, "metrics.json of a finished evaluation"), str(path))
    check(_Metrics, document, str(path), error=DataError)
    return document


def read_prompt_metrics(path: str | Path) -> dict[str, dict[str, float | None]]:
    """Reads a prompt_metrics.jsonl: prompt id -> metric -> number, None where a response could not be scored."""
    rows = read_records(
        path,
        lambda _, place, line: check(_PromptMetrics, line, place, error=DataError),
        "prompt_metrics.jsonl of a finished evaluation",
    )
    return {row.id: row.model_extra or {} for row in rows}


def unlike(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Finds what evaluations, name -> metrics.json, were not made alike in; comparison, sweep and report ask here.

    Returns fact -> what each evaluation has, for those in which two differ: of `MUST_AGREE`, `SAMPLED`, trace markers.
    An evaluation that does not know how its responses were drawn has none of `SAMPLED`, one without quality, or with
    that of a task whose options are not known, no `scoring`.
    """
    tables: dict[str, dict[str, Any]] = {fact: {} for fact in (*MUST_AGREE, "trace_markers", *SAMPLED)}
    for name, document in documents.items():
        facts = {fact: document.get(fact) for fact in (*MUST_AGREE, "trace_markers")}
        if facts["scoring"] is None:
            del facts["scoring"]
        if sampling := document.get("sampling"):
            # Of what was adapted only the names: the sentences name the server, which is another for every model.
            adapted = sorted(sampling["adapted"]) if isinstance(sampling.get("adapted"), dict) else None
            facts |= {fact: sampling.get(fact) for fact in SAMPLED} | {"adapted": adapted}
        for fact, value in facts.items():
            tables[fact][name] = value
    return {fact: of for fact, of in tables.items() if any(value != next(iter(of.values())) for value in of.values())}


def likeness_cautions(documents: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Says why differences between evaluations, name -> metrics.json, may not be differences between the models."""
    found = []
    for fact, of in unlike(documents).items():
        values = ", ".join(f"{name}: {str(value)[:80]}" for name, value in of.items())
        found.append(f"The evaluations differ in {fact} ({values}): read no difference between them as one of models.")
    unknown = [name for name, document in documents.items() if not document.get("sampling")]
    if 0 < len(unknown) < len(documents):
        found.append(
            f"Nothing says how the responses of {', '.join(unknown)} were drawn: temperature, length, system prompt "
            "and chat template may be others."
        )
    names = [name for name, document in documents.items() if document.get("scoring") == UNKNOWN_SCORING]
    if len(names) > 1:
        found.append(
            f"The rewards of {', '.join(names)} came with the responses, and nothing says what gave them: compare "
            "quality only if it was the same, or score all of them anew with --task or --reward."
        )
    return found


def run_notes(documents: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Says what the notes of evaluations, name -> metrics.json, say, each note once with the runs that have it."""
    of: dict[str, list[str]] = {}
    for name, document in documents.items():
        for note in document.get("notes", []):
            of.setdefault(note, []).append(name)
    every = len(documents) if len(documents) > 2 else 0
    return [f"{'all runs' if len(names) == every else ', '.join(names)}: {note}" for note, names in of.items()]


def carried_scoring(document: Mapping[str, Any]) -> dict[str, Any]:
    """Says what to record under `scoring` for rewards that came with the responses of a metrics.json."""
    # The task goes in here: an entry `task` of its own would say that the diversity is that of its answer spans.
    task = {} if document.get("task") is None else {"task": document["task"]}
    return (document.get("scoring") or {}) | task or UNKNOWN_SCORING


def short_names(paths: Sequence[Path]) -> list[str]:
    """Names evaluations by the last parts of each path that tell them apart, a closing `eval` left out."""
    parts = [path.resolve().parts[: -1 if path.resolve().name == "eval" else None] for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]  # a run and its own `eval/` under another link


class SamplingFolder:
    """The finished groups of one run, in memory and, where there is a folder, in groups.jsonl and sampling.json.

    A second run of the same settings keeps the whole lines and draws the rest.

    Args:
        out: The folder; None keeps nothing on disk.
        settings: What decides what is drawn; a folder of other settings is refused.
        prompts: What is asked.

    Raises:
        RecipeError: A folder that holds a run of other settings or weights.
        DataError: A folder that holds answers to other prompts.
    """

    def __init__(self, out: str | Path | None, settings: dict[str, Any], prompts: Sequence[Prompt]):
        self.path = None if out is None else Path(out) / "groups.jsonl"
        self.done = {} if out is None else _resume(Path(out), settings, prompts)

    def add(self, group: Group) -> None:
        """Keeps a finished group."""
        self.done[group.id] = group
        if self.path is not None:
            # An evaluation of the groups before it would not be one of this file.
            self.path.with_name("metrics.json").unlink(missing_ok=True)
            append_jsonl(self.path, line_of(group))

    def finish(self, prompts: Sequence[Prompt]) -> list[Group]:
        """Returns all groups in the order of the prompts, and puts the file in that order."""
        groups = [self.done[prompt.id] for prompt in prompts if prompt.id in self.done]
        if self.path is not None and list(self.done) != [group.id for group in groups]:
            write_groups(self.path, groups)
        return groups

    def record(self, adapted: Mapping[str, str], left_out: Mapping[str, str] | None = None) -> None:
        """Writes beside the settings what a server refused: parameters, to those of earlier starts, and prompts."""
        if self.path is None or (not adapted and left_out is None):
            return
        before = read_settings(self.path.parent) or {}
        refused = {"adapted": before.get("adapted", {}) | adapted}
        refused |= {} if left_out is None else {"left_out": dict(left_out)}
        after = {name: value for name, value in (before | refused).items() if value or name not in refused}
        write_json(self.path.with_name("sampling.json"), after)


def drawn(sampling: Mapping[str, Any] | None) -> str:
    """Says in a few words how responses were drawn, by sampling.json; what it does not say is "unknown"."""
    known = sampling or {}
    temperature, length, form = (known.get(name) for name in ("temperature", "max_new_tokens", "form"))
    if temperature is None and length is None:
        return "sampling unknown"
    heat = "unknown" if temperature is None else f"{temperature:g}"
    tokens = "length unknown" if length is None else f"at most {length} tokens"
    return f"temperature {heat}, {tokens}" + (f", {form}" if form not in (None, "plain") else "")


def sampling_notes(sampling: Mapping[str, Any] | None) -> list[str]:
    """Says what a reader of the numbers must know about how the responses were drawn, by sampling.json."""
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
    """Reads the sampling.json beside a groups.jsonl; None where there is none."""
    record = Path(folder) / "sampling.json"
    if not record.exists():
        return None
    return parse_object(read_text(record, "record of an earlier run"), str(record))


def _resume(out: Path, settings: dict[str, Any], prompts: Sequence[Prompt]) -> dict[str, Group]:
    record, path = out / "sampling.json", out / "groups.jsonl"
    before = read_settings(out)
    if before is None:
        if path.exists():
            raise DataError(f"{path}: expected {record.name} beside it to resume from; choose another folder.")
        write_json(record, settings)
        return {}
    # Where the weights are known, they say which model it is, and its path may be written in another way.
    same = {"model": settings["model"]} if "weights" in settings else {}
    remedy = "choose another folder or delete this one"
    check_unchanged(record, before | same, settings, "the settings of the run that is continued", remedy)
    if not path.exists():
        return {}
    whole = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, whole)  # a kill in the middle of a write leaves half a line
    # Rewards of an earlier evaluation in the same folder are not this run's.
    done = {group.id: replace(group, rewards=None) for group in read_groups(path)} if whole else {}
    asked = {prompt.id: prompt.prompt for prompt in prompts}
    if odd := next((group.id for group in done.values() if asked.get(group.id) != group.prompt), None):
        raise DataError(
            f"{path}: expected groups of the prompts asked for, but {odd!r} is none of them or has another text; ask "
            "for the same prompts or more, or choose another folder."
        )
    return done
