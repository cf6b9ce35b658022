"""Reading what `dqo eval` wrote, checked: metrics.json and prompt_metrics.jsonl. Standard library only.

Comparison, sweep and report all read them here, so that a file is taken by all three or refused by all three.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dqo.errors import DataError
from dqo.json_files import is_number, parse_object, read_text
from dqo.run_format import check_format

# What stands under `scoring` where rewards came with the responses and nothing says what gave them.
UNKNOWN_SCORING = {"rewards": "carried, origin unknown"}
# Differences in any of these would be read as differences between the models.
MUST_AGREE = ("n_samples", "encoder", "heldout_encoder", "equivalence", "task", "scoring", "pass_threshold")
# Of how the responses were drawn: differences in these are cautioned, because to compare temperatures is a purpose.
SAMPLED = (
    "temperature",
    "max_new_tokens",
    "system_prompt",
    "chat_template",
    "chat_template_kwargs",
    "form",
    "parameters",  # of a server, as given
    "adapted",  # parameters that the server refused, so that its own default counted
)
_TEXT = ("trace_markers",)  # what text of a response is judged

_INTERVAL = ("mean", "low", "high")
_TEXTS = ("encoder", "heldout_encoder", "task", "equivalence", "protocol", "version")
_COUNTS = ("n_prompts", "n_samples")


def read_metrics(path: str | Path) -> dict[str, Any]:
    """A metrics.json.

    Args:
        path: The file.

    Returns:
        Its content: `metrics` maps names to None or {"mean", "low", "high"}, `n_prompts` and `n_samples` are at least
        1, `notes`, where there are any, a list of texts, `scoring` and `sampling` are objects or None, and what names
        something is a text or None.

    Raises:
        DataError: A file that is missing, broken, incomplete or of a newer format.
    """
    document = parse_object(read_text(path, "metrics.json of a finished evaluation"), str(path))
    check_format(document, path)
    metrics = document.get("metrics")
    if not isinstance(metrics, dict):
        raise _odd(path, "metrics", "an object", metrics)
    for name, value in metrics.items():
        if value is not None and not (isinstance(value, dict) and all(is_number(value.get(p)) for p in _INTERVAL)):
            raise _odd(path, f"metrics.{name}", "null or an object of the numbers mean, low and high", value)
    for name in _COUNTS:
        count = document.get(name)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise _odd(path, name, "a whole number of 1 or more", count)
    for name in _TEXTS:
        if not isinstance(document.get(name), str | None):
            raise _odd(path, name, "a text or null", document[name])
    if not is_number(document.get("pass_threshold", 0.5)):
        raise _odd(path, "pass_threshold", "a number", document["pass_threshold"])
    for name in ("scoring", "sampling"):
        if not isinstance(document.get(name), dict | None):
            raise _odd(path, name, "an object or null", document[name])
    notes = document.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise _odd(path, "notes", "a list of texts", notes)
    return document


def read_prompt_metrics(path: str | Path) -> dict[str, dict[str, float | None]]:
    """A prompt_metrics.jsonl.

    Args:
        path: The file.

    Returns:
        Prompt id -> metric -> number, None where a response could not be scored; at least one prompt.

    Raises:
        DataError: Naming file and line of what is missing or no number.
    """
    values: dict[str, dict[str, float | None]] = {}
    for number, line in enumerate(read_text(path, "prompt_metrics.jsonl of a finished evaluation").split("\n"), 1):
        if not line.strip():
            continue
        row = parse_object(line, f"{path}, line {number}")
        prompt_id = row.pop("id", None)
        if not isinstance(prompt_id, str) or prompt_id in values:
            raise DataError(f"{path}, line {number}: expected an id that no other line has, got {prompt_id!r}; "
                            "evaluate again.")  # fmt: skip
        for name, value in row.items():
            if value is not None and not is_number(value):
                raise DataError(f"{path}, line {number}, field {name!r}: expected a number or null, got {value!r}; "
                                "evaluate again.")  # fmt: skip
        values[prompt_id] = row
    if not values:
        raise DataError(f"{path}: expected one line of metrics a prompt, got an empty file; evaluate again.")
    return values


def unlike(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Finds what evaluations were not made alike in. Comparison, sweep and report all decide it here.

    Args:
        documents: Name of each evaluation -> what its metrics.json holds.

    Returns:
        Fact -> what each evaluation has, for those in which two differ: of `MUST_AGREE`, `SAMPLED`, the trace markers.
        An evaluation that does not know how its responses were drawn has none of `SAMPLED`. One without `scoring` has
        no quality to compare, or a task and is older than that entry; without a task its quality is of unknown origin.
    """
    tables: dict[str, dict[str, Any]] = {fact: {} for fact in (*MUST_AGREE, *_TEXT, *SAMPLED)}
    for name, document in documents.items():
        for fact in (*MUST_AGREE, *_TEXT):
            value = _scoring(document) if fact == "scoring" else document.get(fact)
            if value is not None or fact != "scoring":
                tables[fact][name] = value
        if document.get("sampling"):
            for fact in SAMPLED:
                value = document["sampling"].get(fact)
                # which ones, not the sentences: those name the server, which is another for every model
                tables[fact][name] = sorted(value) if fact == "adapted" and isinstance(value, dict) else value
    return {fact: told for fact, told in tables.items() if not _equal([*told.values()])}


def likeness_cautions(documents: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Says why differences between evaluations may not be differences between the models.

    Args:
        documents: Name of each evaluation -> what its metrics.json holds.

    Returns:
        A sentence for each fact in which they are unlike, and for what nothing says of some of them.
    """
    found = []
    for fact, told in unlike(documents).items():
        values = ", ".join(f"{name}: {str(value)[:80]}" for name, value in told.items())
        found.append(f"The evaluations differ in {fact} ({values}): read no difference between them as one of models.")
    unknown = [name for name, document in documents.items() if not document.get("sampling")]
    if 0 < len(unknown) < len(documents):
        found.append(
            f"Nothing says how the responses of {', '.join(unknown)} were drawn: temperature, length, system prompt "
            "and chat template may be others."
        )
    names = [name for name, document in documents.items() if _scoring(document) == UNKNOWN_SCORING]
    if len(names) > 1:
        found.append(
            f"The rewards of {', '.join(names)} came with the responses, and nothing says what gave them: compare "
            "quality only if it was the same, or score all of them anew with --task or --reward."
        )
    return found


def carried_scoring(document: Mapping[str, Any]) -> dict[str, Any]:
    """What to record under `scoring` for rewards that came with the responses.

    The task goes in there: an entry `task` of its own would say that the diversity is that of its answer spans.

    Args:
        document: What the metrics.json beside those responses holds; empty where there is none.

    Returns:
        What gave the rewards: `scoring` of that evaluation with its task, or `UNKNOWN_SCORING`.
    """
    task = {} if document.get("task") is None else {"task": document["task"]}
    return (document.get("scoring") or {}) | task or UNKNOWN_SCORING


def _equal(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values)


def _scoring(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """What gave the quality; None where there is none, or where the task says it and only its options are untold."""
    told = document.get("scoring")
    if told or document.get("task") or document["metrics"].get("quality") is None:
        return told
    return UNKNOWN_SCORING


def short_names(paths: Sequence[Path]) -> list[str]:
    """What to call the evaluations in some folders.

    Args:
        paths: Run folders or their `eval/`.

    Returns:
        The last parts of each path that tell them apart, a closing `eval` left out.
    """
    parts = [path.resolve().parts[: -1 if path.resolve().name == "eval" else None] for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]  # a run and its own `eval/` under another link


def _odd(path: str | Path, field: str, expected: str, came: Any) -> DataError:
    return DataError(f"{path}, field {field!r}: expected {expected}, got {came!r}; evaluate again.")
