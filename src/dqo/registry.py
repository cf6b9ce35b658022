"""From a name in a recipe to an object: tables of "module:Class", imported on first use, with their options checked."""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from dqo.errors import RecipeError
from dqo.setting_types import fits, in_words, is_checkable


def build(kind: str, table: Mapping[str, str], name: str, options: Mapping[str, Any], extra: str) -> Any:
    """An object of a table.

    Args:
        kind: What the table holds, such as "task", for messages.
        table: Name -> "module:Class".
        name: A key of the table.
        options: Keyword arguments of the class.
        extra: The extra of this package that brings what the classes of the table import.

    Returns:
        The object.

    Raises:
        RecipeError: An unknown name or option, with the nearest valid ones, a value of another type than the class
            says, a missing option or a missing package.
    """
    target = find(kind, table, name, extra)
    parameters = inspect.signature(target).parameters
    for option in options:
        if option not in parameters:
            raise RecipeError(f"{kind} {name!r}: expected the option {choices(option, parameters)}, got {option!r}.")
        hint = parameters[option].annotation
        if is_checkable(hint) and not fits(options[option], hint):
            raise RecipeError(
                f"{kind} {name!r}: `{option}` must be {in_words(hint)}, got {options[option]!r}; change the value."
            )
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in options:
            raise RecipeError(f"{kind} {name!r}: the option {option!r} is required; add `{option}:` to the {kind}.")
    return target(**options)


def find(kind: str, table: Mapping[str, str], name: str, extra: str) -> Any:
    """The class of a name; arguments and errors as for `build`."""
    if name not in table:
        raise RecipeError(f"{kind}: expected {choices(name, table)}, got {name!r}.")
    module, class_name = table[name].split(":")
    try:
        return getattr(import_module(module), class_name)
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"{kind} {name!r} needs the package {error.name!r}, which is not installed; run "
            f"`pip install -e '.[{extra}]'`."
        ) from error


def choices(wrong: str, valid: Iterable[str]) -> str:
    """The valid names in words, with the nearest to a wrong one."""
    names = list(valid)
    near = difflib.get_close_matches(str(wrong), names, n=1)
    return f"one of {', '.join(names)}" + (f" (did you mean {near[0]!r}?)" if near else "")
