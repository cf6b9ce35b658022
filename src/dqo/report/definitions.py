"""What every number of a report means: label, definition, which way is better, range.

Of an evaluation what evaluation itself says of it, of the log of a training what a data file says.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from dqo.errors import DQOError
from dqo.evaluation.definitions import definition_of
from dqo.settings.yaml import parse_yaml


class Definition(NamedTuple):
    """How a number is explained on the page: `better` is "higher", "lower" or ""; `undefined` says when null."""

    label: str
    text: str
    better: str = ""
    range: str = ""
    undefined: str = ""


def define(name: str, *, training: bool = False) -> Definition:
    """What a metric means.

    Args:
        name: Key of metrics.json, prompt_metrics.jsonl or metrics.jsonl.
        training: Whether it stands in the log of a training run, where some names mean another set of prompts.

    Returns:
        Its definition; for a name nobody here knows, one that says so and who logged it.
    """
    return _logged(name) if training else _measured(name)


def _logged(name: str) -> Definition:
    table = _table()
    if known := table["training"].get(name):
        return Definition(**known)
    for pattern in table["patterns"]:
        if match := re.fullmatch(pattern["match"], name):
            what = match[1].replace("_", " ")
            spent = table["times"].get(match[1], what) if name.startswith("time/") else what
            filled = {"label": pattern["label"].format(what), "text": pattern["text"].format(spent)}
            return Definition(**filled, better=pattern.get("better", ""), range=pattern.get("range", ""))
    return Definition(
        name,
        f"Logged by the training host or by one of its reward functions under the name {name}; this report has no "
        "definition of it.",
    )


def _measured(name: str) -> Definition:
    try:
        found = definition_of(name)
    except DQOError:
        return Definition(name, f"Found in metrics.json under the name {name}; this report has no definition of it.")
    return Definition(found.title, found.text, found.better, _range(found.low, found.high, found.unit), found.undefined)


def _range(low: float | None, high: float | str | None, unit: str) -> str:
    if low is None and high is None:
        return f"in units of {unit}"
    return f"{low} to {high} {unit}" if high is not None else f"{low} or more {unit}"


@cache
def _table() -> dict[str, Any]:
    source = files("dqo.report") / "assets" / "definitions.yaml"
    return parse_yaml(source.read_text(encoding="utf-8"), source.name)
