"""Tasks: where prompts come from, which text of a response is embedded, and how good a response is.

A task is any object with the five members of `Task`; the built-in ones are classes named in `TASKS` and imported on
first use, so that looking up one name loads the packages of no other.
"""

import difflib
import inspect
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, Protocol

from dqo.errors import RecipeError
from dqo.records import Prompt

TASKS = {
    "concepts": "dqo.tasks.concepts:ConceptsTask",
    "cities": "dqo.tasks.cities:CitiesTask",
    "countdown": "dqo.tasks.countdown:CountdownTask",
    "jsonl": "dqo.tasks.jsonl:JsonlTask",
}


class Task(Protocol):
    """What training and evaluation ask of a task.

    Attributes:
        name: The name in recipes and logs.
        max_completion_length: Tokens a response may have, a sensible default of the task.
    """

    name: str
    max_completion_length: int

    def prompts(self, split: str) -> list[Prompt]:
        """Prompts of "train", "dev" or "test": disjoint, and the same in every process for the same options."""
        ...

    def answer_span(self, response: str) -> str:
        """The part of a response that is embedded, so that chatter around an answer earns no diversity."""
        ...

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """Quality of each response in [0, 1], None where it cannot be scored; all three arguments have N rows."""
        ...


def load_task(name: str, **options: Any) -> Task:
    """Build a task by name.

    Args:
        name: A key of `TASKS`.
        **options: Arguments of the task's class.

    Returns:
        The task; models it scores with are loaded at its first `quality` call.

    Raises:
        RecipeError: An unknown name or option, with the nearest valid ones, or a missing option.
    """
    if name not in TASKS:
        raise RecipeError(f"task: expected {_choices(name, TASKS)}, got {name!r}.")
    module, class_name = TASKS[name].split(":")
    try:
        task_class = getattr(import_module(module), class_name)
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"task {name!r} needs the package {error.name!r}, which is not installed; run `pip install 'dqo[data]'`."
        ) from error
    parameters = inspect.signature(task_class).parameters
    for option in options:
        if option not in parameters:
            raise RecipeError(f"task {name!r}: expected the option {_choices(option, parameters)}, got {option!r}.")
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in options:
            raise RecipeError(f"task {name!r}: the option {option!r} is required; add `{option}:` to the task.")
    return task_class(**options)


def _choices(wrong: str, valid: Iterable[str]) -> str:
    names = list(valid)
    near = difflib.get_close_matches(wrong, names, n=1)
    return f"one of {', '.join(names)}" + (f" (did you mean {near[0]!r}?)" if near else "")
