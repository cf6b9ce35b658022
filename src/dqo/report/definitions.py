"""What every number of a report means: label, definition, which way is better, range. The table is a data file."""

import re
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from dqo.errors import DQOError


class Definition(NamedTuple):
    """How a number is explained on the page; `better` is "higher", "lower" or "" where neither is better as such."""

    label: str
    text: str
    better: str = ""
    range: str = ""


def define(name: str, *, training: bool = False) -> Definition:
    """What a metric means.

    Args:
        name: Key of metrics.json, prompt_metrics.jsonl or metrics.jsonl.
        training: Whether it stands in the log of a training run, where some names mean another set of prompts.

    Returns:
        Its definition; for a name nobody here knows, one that says so and who logged it.
    """
    if name.startswith("heldout/"):
        known = define(name.removeprefix("heldout/"))
        text = f"{known.text} Measured with an encoder the policy was not trained against."
        return known._replace(label=f"{known.label}, held out", text=text)
    table = _table()
    if known := table["training" if training else "evaluation"].get(name):
        return Definition(**known)
    for pattern in table["patterns"]:
        if match := re.fullmatch(pattern["match"], name):
            what = match[1].replace("_", " ")
            spent = table["times"].get(match[1], what) if name.startswith("time/") else what
            filled = {"label": pattern["label"].format(what), "text": pattern["text"].format(spent)}
            return Definition(**filled, better=pattern.get("better", ""), range=pattern.get("range", ""))
    if not training and (measured := _measured(name)):
        return measured
    origin = "Logged by the training host or by one of its reward functions" if training else "Found in metrics.json"
    return Definition(name, f"{origin} under the name {name}; this report has no definition of it.")


def _measured(name: str) -> Definition | None:
    """What evaluation says of a metric that the table lacks; imported here because torch comes with it."""
    from dqo.evaluation.definitions import definition_of

    try:
        found = definition_of(name)
    except DQOError:
        return None
    low, high = ("no limit" if end is None else f"{end}" for end in (found.low, found.high))
    return Definition(found.title, found.text, found.better, f"{low} to {high} {found.unit}")


@cache
def _table() -> dict[str, Any]:
    source = files("dqo.report") / "assets" / "definitions.yaml"
    return yaml.safe_load(source.read_text(encoding="utf-8"))
