"""Whether a value from YAML fits a type hint, and the hint in words."""

import inspect
import sys
from collections.abc import Mapping
from enum import Enum
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from dqo.errors import RecipeError
from dqo.settings.checking import choices

_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", NoneType: "null",
          dict: "a mapping", list: "a list"}  # fmt: skip


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value may stand where the hint is written.

    Args:
        value: Plain data as YAML gives it.
        hint: A type hint of a settings dataclass: scalars, enums, unions, lists, dicts, Literal, Any.

    Returns:
        True if it fits; a whole number fits a float, a boolean or infinity fits no number, and a text fits an enum by
        value.
    """
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(fits(item, *get_args(hint)) for item in value)
    if hint in (int, float):
        numbers = int if hint is int else (int, float)
        return isinstance(value, numbers) and type(value) is not bool and abs(value) <= sys.float_info.max
    if isinstance(hint, type) and issubclass(hint, Enum):
        return value in [member.value for member in hint]
    return isinstance(value, origin or hint)


def plain(value: Any) -> Any:
    """A setting with one spelling for each number: 1, 1.0 and 1e0 are 1, in folder names and comparisons.

    Args:
        value: Plain data as YAML gives it.

    Returns:
        The value, numbers that are whole as int.
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


def in_words(hint: Any) -> str:
    """A type hint as part of a sentence.

    Args:
        hint: As for `fits`.

    Returns:
        Such as "a number or null".
    """
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(dict.fromkeys(in_words(part) for part in get_args(hint)))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    if get_origin(hint) is list and get_args(hint):
        return f"a list, each entry {in_words(get_args(hint)[0])}"
    return _WORDS.get(get_origin(hint) or hint, getattr(hint, "__name__", str(hint)))


def is_checkable(hint: Any) -> bool:
    """Whether `fits` can judge values by a hint.

    Args:
        hint: An annotation of a parameter, perhaps none or one written as text.

    Returns:
        True for scalars, enums, lists, dicts and Literal, and for unions of these.
    """
    if get_origin(hint) in (Union, UnionType):
        return all(map(is_checkable, get_args(hint)))
    if get_origin(hint) in (Literal, list, dict):
        return True
    return hint in _WORDS or (isinstance(hint, type) and issubclass(hint, Enum))


# From a name in a recipe to an object: tables of "module:Class", imported on first use, with their options checked.


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
