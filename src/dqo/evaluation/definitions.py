"""What every number means, who makes it and where it is shown: the table of metrics.yaml.

`definition_of` takes any name in metrics.json or in a training log: `pass@10` is defined by `pass@{k}`,
`heldout/vendi_1` by `vendi_1`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.resources import files

from dqo.errors import DQOError
from dqo.settings.yaml import parse_yaml

QUALITY, MEANING, WORDS, HEALTH = "quality", "diversity of meaning", "diversity of words", "health"
NO_REWARD = "not every response has a reward"


@dataclass(frozen=True)
class Definition:
    """What a number means: label, text, unit, range, direction, who makes it, where it is shown.

    The head of metrics.yaml explains every field. `better` is "" where neither direction is better in itself.
    """

    label: str
    text: str
    unit: str = ""
    low: float | None = None
    high: float | str | None = None
    better: str = ""
    kind: str = ""
    by_encoder: bool = False
    source: str = ""
    undefined: str = ""
    headline: str = ""
    logged_by: tuple[str, ...] = ()
    shown_in: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """Its range with the unit, such as "0 to n responses"."""
        if self.low is None:
            return self.unit if self.high is None else f"at most {self.high} {self.unit}"
        return f"{self.low} or more {self.unit}" if self.high is None else f"{self.low} to {self.high} {self.unit}"


def _read_table() -> dict[str, Definition]:
    source = files("dqo.evaluation") / "metrics.yaml"
    table = parse_yaml(source.read_text(encoding="utf-8"), source.name)
    return {
        name: Definition(**entry | {key: tuple(entry[key]) for key in ("logged_by", "shown_in")})
        for name, entry in table.items()
    }


DEFINITIONS: dict[str, Definition] = _read_table()
# The largest k of a metric that is also written as @k.
_AT_K = {"max": 10**9, "pass": 10**9, "distinct_right": 10}
_VARYING = {"{k}": r"(\d+)", "{n}": r"(\d+)", "{function}": "(.+)"}


def definition_of(name: str) -> Definition:
    """The definition of a number under any name it has in metrics.json or in the log of a training.

    Args:
        name: A key of `DEFINITIONS`, one with the part in braces filled in, or `heldout/` and a metric that depends on
            the encoder.

    Returns:
        The definition, with what fills the braces or the held-out encoder in its label and text.

    Raises:
        DQOError: An unknown name.
    """
    if name in DEFINITIONS:
        return DEFINITIONS[name]
    own = DEFINITIONS.get(name.removeprefix("heldout/"))
    if own and own.by_encoder:
        text = f"{own.text} By an encoder the policy was not trained against."
        return replace(own, label=f"{own.label}, held-out encoder", text=text)
    for general, found in DEFINITIONS.items():
        for part in (part for part in _VARYING if part in general):
            pattern = re.escape(general).replace(re.escape(part), _VARYING[part])
            if match := re.fullmatch(pattern, name):
                label, text = (words.replace(part, match[1]) for words in (found.label, found.text))
                return replace(found, label=label, text=text)
    nearest = get_close_matches(name, DEFINITIONS, n=1)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else "see evaluation/metrics.yaml."
    raise DQOError(f"expected the name of a metric, got {name!r}; {remedy}")


def explain(name: str) -> Definition:
    """The definition of a number, or of an unknown name one that says so, of kind "other"."""
    try:
        return definition_of(name)
    except DQOError:
        text = f"{name} has no definition: TRL, a function of your own or another version of dqo wrote it."
        return Definition(name, text, kind="other", undefined="it is not a number")


def headline(names: Iterable[str], primary: bool = False) -> list[str]:
    """The dozen of these numbers to look at first, in the order of metrics.yaml, or the primary ones among them.

    Of a metric by encoder the held-out one stands for both, where there is one.
    """
    there = set(names)
    ranks = ("primary",) if primary else ("primary", "beside")
    chosen = [name for name, found in DEFINITIONS.items() if found.headline in ranks]
    return [next(n for n in (f"heldout/{name}", name) if n in there) for name in chosen
            if not there.isdisjoint((name, f"heldout/{name}"))]  # fmt: skip


def tabled(names: Sequence[str], n_samples: int) -> list[str]:
    """The numbers of a whole table of n samples each: no number twice, as pass@n and pass@k, or max@1 and quality."""
    twins = {f"{stem}@{min(k, n_samples)}" for stem, k in _AT_K.items() if f"{stem}@k" in names}
    twins |= {"max@1"} if "quality" in names else set()
    shown = {*headline(names), *shown_in(names, "report")} - twins
    return [name for name in names if name in shown]


def shown_in(names: Iterable[str], place: str) -> list[str]:
    """The numbers shown in a place of `Definition.shown_in`; those without definition are shown everywhere."""
    entries = {name: explain(name) for name in names}
    return [name for name, found in entries.items() if place in found.shown_in or found.kind == "other"]


# What a terminal shows beside the step while a training runs.
PANEL = [name for name in shown_in(DEFINITIONS, "panel") if name != "step"]
