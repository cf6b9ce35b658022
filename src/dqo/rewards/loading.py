"""The rewards of a recipe: a list of entries, each a name, its options and a weight.

    rewards:
      - {reward: reward_model, model: owner/name, sigmoid: true}
      - {reward: length, max_words: 120, weight: 0.1}
      - {reward: my_rewards.py:politeness, weight: 0.5, language: en}

| name | reward | range |
|---|---|---|
| `quality` | the task's own | [0, 1] |
| `math` | final answer equals the reference | 0 or 1 |
| `concepts` | share of the given words used | [0, 1] |
| `rouge`, `chrf` | best ROUGE or chrF over the references | [0, 1] |
| `similarity` | cosine with the nearest reference, by an encoder | [-1, 1] |
| `fluency` | likelihood under a frozen model | [0, 1] |
| `likelihood` | log-probability per token under a frozen model | nats, at most 0 |
| `length`, `format`, `ended` | shape of the response | [0, 1] |
| `reward_model` | score of a sequence classifier | any, (0, 1) with sigmoid |
| `judge` | score of a model behind a server | [0, 1] |
| `pkg.module.function`, `file.py:function` | your own; options are arguments that it names | any |
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from dqo.errors import RecipeError, RewardError, choices, nearest
from dqo.rewards.calling import CheckedReward, finite_number
from dqo.settings.checking import build

REWARDS = {
    "math": "dqo.rewards.mathematics:MathReward",
    "concepts": "dqo.rewards.sentences:ConceptReward",
    "rouge": "dqo.rewards.references:RougeReward",
    "chrf": "dqo.rewards.references:ChrfReward",
    "similarity": "dqo.rewards.references:SimilarityReward",
    "fluency": "dqo.rewards.likelihood:FluencyReward",
    "likelihood": "dqo.rewards.likelihood:LikelihoodReward",
    "length": "dqo.rewards.shape:LengthReward",
    "format": "dqo.rewards.shape:FormatReward",
    "ended": "dqo.rewards.shape:EndedReward",
    "reward_model": "dqo.rewards.reward_model:RewardModel",
    "judge": "dqo.rewards.judge:JudgeReward",
}
QUALITY = "quality"
# What a reward is called with beside prompts and completions.
COLUMNS = ("reference", "meta", "record", "ended")


@dataclass(frozen=True)
class Entry:
    """One line of `rewards`, checked but not loaded.

    Attributes:
        reward: Name of the reward.
        weight: Its factor in the sum.
        options: Its arguments.
    """

    reward: str
    weight: float
    options: Mapping[str, Any]


def read_entries(lines: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Reads the entries of a recipe; without any, the task's own quality."""
    entries = []
    for number, line in enumerate(lines, start=1):
        options = dict(line)
        name, weight = str(options.pop("reward", None)), options.pop("weight", 1.0)
        if name not in (QUALITY, *REWARDS) and "." not in name:
            valid = choices(name, [QUALITY, *REWARDS, "pkg.module.function", "file.py:function"])
            raise RecipeError(f"rewards, entry {number}: `reward` must be {valid}, got {name!r}.")
        if finite_number(weight) is None:
            raise RecipeError(f"rewards, entry {number} ({name}): `weight` must be a finite number, got {weight!r}.")
        if options and name == QUALITY:
            raise RecipeError(
                f"rewards, entry {number} ({name}): expected nothing beside `reward` and `weight`, got "
                f"{', '.join(map(str, options))}; correct or remove it."
            )
        entries.append(Entry(name, float(weight), options))
    return entries or [Entry(QUALITY, 1.0, {})]


def load_reward(entry: Entry, folder: str | Path | None = None) -> CheckedReward:
    """Loads the callable of an entry other than `quality`; a judge keeps its replies in judge.jsonl of the folder."""
    if entry.reward in REWARDS:
        extra = "endpoint" if entry.reward == "judge" else "data"
        own = {"cache": str(Path(folder) / "judge.jsonl")} if entry.reward == "judge" and folder else {}
        return CheckedReward(build("reward", REWARDS, entry.reward, own | dict(entry.options), extra))
    function = import_reward(entry.reward)
    checked = CheckedReward(_with_options(function, entry) if entry.options else function)
    checked.check_columns(COLUMNS)
    return checked


def _with_options(function: Callable[..., Any], entry: Entry) -> Callable[..., Any]:
    # Only arguments that the function names: to **columns a typo would be one more column.
    named = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and name not in ("prompts", "completions", *COLUMNS)
    ]
    for option in entry.options:
        if option not in named:
            raise RecipeError(
                f"reward {entry.reward!r}: expected `reward`, `weight` and arguments that the function names "
                f"({', '.join(named) or 'it names none'}), got {option!r}; correct or remove it."
            )
    bound = partial(function, **entry.options)
    bound.__name__ = getattr(function, "__name__", type(function).__name__)
    # For the logs, of a callable object.
    if hasattr(function, "counts"):
        bound.counts = function.counts
    return bound


def import_reward(path: str) -> Callable[..., Any]:
    """Imports a reward function by name; the module's own code runs, so name only files you trust."""
    return import_function(path, "reward", "prompts, completions, **columns")


def import_function(path: str, setting: str, arguments: str) -> Callable[..., Any]:
    """Imports a function by name; `setting` and `arguments` are for errors. The module's own code runs."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        # `python -m dqo` has the current folder there, the script `dqo` has not. It stays, for what the module imports
        # only when called, and comes last, so that a file of the user's hides no library.
        sys.path.append(here)
    is_file = ".py:" in path
    place, _, name = path.rpartition(":" if is_file else ".")
    if is_file and not Path(place).is_file():
        raise RecipeError(
            f"{setting} {path!r}: expected the file {str(Path(place).absolute())!r}, got none; correct it."
        )
    try:
        module = _module_of_file(Path(place)) if is_file else importlib.import_module(place)
        function = getattr(module, name, None)
    except Exception as error:
        raise RecipeError(
            f"{setting} {path!r}: expected 'pkg.module.function' or 'path/to/file.py:function', got "
            f"{type(error).__name__} ({error}); check the name, and that Python finds the module from here."
        ) from error
    if not callable(function):
        near = nearest(name, [other for other, value in vars(module).items() if callable(value)])
        came = "" if function is None else f", which is of type {type(function).__name__}"
        remedy = f"did you mean {near!r}?" if near else f"name one there that takes ({arguments})."
        kind = "file" if is_file else "module"
        raise RecipeError(f"{setting} {path!r}: expected a function of that {kind}, got {name!r}{came}; {remedy}")
    return function


def _module_of_file(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"dqo_user_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look the module up there
    spec.loader.exec_module(module)
    return module


def checked_span(span: Callable[[str], str] | None) -> Callable[[str], str]:
    """Makes a user's answer span raise a RewardError where it returns no text, as a pattern that finds nothing does."""
    return str if span is None else partial(_span_text, span)


def _span_text(span: Callable[[str], str], text: str) -> str:
    answer = span(text)
    if not isinstance(answer, str):
        raise RewardError(
            f"Expected the answer span to return text, got {answer!r} for the response {text[:80]!r}; return '' "
            "for a response without an answer."
        )
    return answer
