"""The rewards of a recipe: a list of entries, each a name, its options and a weight.

    rewards:
      - {reward: reward_model, model: owner/name}
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
| `reward_model` | score of a sequence classifier | any |
| `judge` | a model behind a server scores, ranks or sorts | [0, 1] |
| `pkg.module.function`, `file.py:function` | your own; options are arguments that it names | any |
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from dqo.errors import RecipeError, RewardError, check_choice, nearest
from dqo.rewards.calling import CheckedReward
from dqo.settings.checking import Strict, build, check

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


class Entry(Strict, extra="allow"):
    """One line of `rewards`, checked but not loaded: a name, the factor in the sum, and options beside them."""

    reward: str
    weight: float = 1.0

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the reward."""
        return self.model_extra or {}


def read_entries(lines: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Reads the entries of a recipe; without any, the task's own quality."""
    entries = []
    for number, given in enumerate(lines, start=1):
        origin = f"rewards, entry {number}"
        entry = check(Entry, given, origin)
        if "." not in entry.reward:
            valid = [QUALITY, *REWARDS, "pkg.module.function", "file.py:function"]
            check_choice(f"{origin}: reward", entry.reward, valid, RecipeError)
        if entry.reward == QUALITY and entry.options:
            raise RecipeError(f"{origin}: quality has no options, got {', '.join(entry.options)}; remove them.")
        entries.append(entry)
    return entries or [Entry(reward=QUALITY)]


def load_reward(entry: Entry, folder: str | Path | None = None) -> CheckedReward:
    """Loads the callable of an entry other than `quality`; a judge keeps its replies in judge.jsonl of the folder."""
    if entry.reward in REWARDS:
        extra = "endpoint" if entry.reward == "judge" else "data"
        own = {"cache": str(Path(folder) / "judge.jsonl")} if entry.reward == "judge" and folder else {}
        return CheckedReward(build("reward", REWARDS, entry.reward, own | entry.options, extra))
    return import_reward(entry.reward, entry.options)


def import_reward(
    path: str, options: Mapping[str, Any] | None = None, columns: Sequence[str] = COLUMNS
) -> CheckedReward:
    """Imports a reward function by name, and refuses it before a rollout if it does not take columns and options."""
    function, options = import_function(path, "reward", "prompts, completions, **columns"), options or {}
    signature = inspect.signature(function)
    # Only arguments that the function names: to **columns a misspelt option would be one more column.
    named = {name: one for name, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD}
    takes_any = len(named) < len(signature.parameters)
    handed = [column for column in ("prompts", "completions", *columns) if column in named or not takes_any]
    try:
        signature.replace(parameters=list(named.values())).bind(**dict.fromkeys(handed), **options)
    except TypeError as error:
        raise RecipeError(
            f"reward {path!r}: expected a function of prompts, completions, {', '.join(columns)} and its options, got "
            f"{signature} ({error}); correct the options, or end its arguments with **columns."
        ) from None
    return CheckedReward(function, options)


def import_function(path: str, setting: str, arguments: str) -> Callable[..., Any]:
    """Imports a function by name; `setting` and `arguments` are for errors. The module's own code runs."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        # `python -m dqo` has the current folder there, the script `dqo` has not. It stays, for what the module imports
        # only when called, and comes last, so that a file of the user's hides no library.
        sys.path.append(here)
    is_file = ".py:" in path
    place, _, name = path.rpartition(":" if is_file else ".")
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
        remedy = f"did you mean {near!r}?" if near else f"name one there that takes ({arguments})."
        raise RecipeError(f"{setting} {path!r}: expected a function of that module, got {name!r}; {remedy}")
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
        said = f"Expected the answer span to return text, got {answer!r} for the response {text[:80]!r}"
        raise RewardError(f"{said}; return '' for a response without an answer.")
    return answer
