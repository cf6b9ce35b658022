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

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.errors import RecipeError
from dqo.registry import build, choices
from dqo.rewards.checked import CheckedReward
from dqo.rewards.imported import import_reward

if TYPE_CHECKING:
    pass

REWARDS = {
    "math": "dqo.rewards.math_answer:MathReward",
    "concepts": "dqo.rewards.sentence:ConceptReward",
    "rouge": "dqo.rewards.rouge:RougeReward",
    "chrf": "dqo.rewards.references:ChrfReward",
    "similarity": "dqo.rewards.references:SimilarityReward",
    "fluency": "dqo.rewards.sentence:FluencyReward",
    "likelihood": "dqo.rewards.likelihood:LikelihoodReward",
    "length": "dqo.rewards.shape:LengthReward",
    "format": "dqo.rewards.shape:FormatReward",
    "ended": "dqo.rewards.shape:EndedReward",
    "reward_model": "dqo.rewards.reward_model:RewardModel",
    "judge": "dqo.rewards.judge:JudgeReward",
}
QUALITY = "quality"
COLUMNS = ("reference", "meta", "record", "ended")  # what a reward is called with beside prompts and completions


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
    """The entries of a recipe; without any, the task's own quality.

    Args:
        lines: As written, each with "reward", perhaps "weight", and options.

    Returns:
        At least one entry.

    Raises:
        RecipeError: A line without or with an unknown name, or a weight that is no finite number.
    """
    entries = []
    for number, line in enumerate(lines, start=1):
        options = dict(line)
        name, weight = options.pop("reward", None), options.pop("weight", 1.0)
        valid = [QUALITY, *REWARDS, "pkg.module.function", "file.py:function"]
        if not isinstance(name, str) or (name not in (QUALITY, *REWARDS) and "." not in name):
            raise RecipeError(f"rewards, entry {number}: `reward` must be {choices(str(name), valid)}, got {name!r}.")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
            raise RecipeError(f"rewards, entry {number} ({name}): `weight` must be a finite number, got {weight!r}.")
        if options and name == QUALITY:
            raise RecipeError(
                f"rewards, entry {number} ({name}): expected nothing beside `reward` and `weight`, got "
                f"{', '.join(map(str, options))}; correct or remove it."
            )
        entries.append(Entry(name, float(weight), options))
    return entries or [Entry(QUALITY, 1.0, {})]


def load_reward(entry: Entry, folder: str | Path | None = None) -> CheckedReward:
    """The callable of an entry other than `quality`, with everything it returns checked.

    Args:
        entry: Of `read_entries`.
        folder: Of the run or evaluation; a judge keeps its replies in judge.jsonl there, unless its entry says where.

    Returns:
        A reward in TRL's convention, called with `prompts`, `completions` and COLUMNS.

    Raises:
        DQOError: An option, model, package or function that does not do.
    """
    if entry.reward in REWARDS:
        extra = "endpoint" if entry.reward == "judge" else "data"
        own = {"cache": str(Path(folder) / "judge.jsonl")} if entry.reward == "judge" and folder else {}
        return CheckedReward(build("reward", REWARDS, entry.reward, own | dict(entry.options), extra))
    function = own_reward(entry)
    own = function.func if isinstance(function, partial) else function
    if inspect.iscoroutinefunction(own) or inspect.iscoroutinefunction(getattr(own, "__call__", None)):  # noqa: B004
        raise RecipeError(
            f"reward {entry.reward!r}: expected a plain function, got an asynchronous one; define it with def."
        )
    checked = CheckedReward(function)
    checked.check_columns(COLUMNS)
    return checked


def own_reward(entry: Entry) -> Callable[..., Any]:
    """The user's function of an entry with its options: only those that it names, or a typo would be a column to it.

    Args:
        entry: Of `read_entries`, with a function's name.

    Returns:
        The function, plain or asynchronous.

    Raises:
        RecipeError: A function that cannot be imported, or an option that it does not name.
    """
    function: Callable[..., Any] = import_reward(entry.reward)
    if not entry.options:
        return function
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
    if hasattr(function, "counts"):  # for the logs, of a callable object
        bound.counts = function.counts
    return bound
