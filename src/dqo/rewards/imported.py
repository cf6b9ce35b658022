"""A user's function named in a setting: "pkg.module.function" or "path/to/file.py:function"."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from dqo.errors import RecipeError, RewardError


def import_reward(path: str) -> Callable[..., Any]:
    """Import a reward function by name; the module's own code runs, so name only files you trust."""
    return import_function(path, "reward", "prompts, completions, **columns")


def import_function(path: str, setting: str, arguments: str) -> Callable[..., Any]:
    """Import a function by name; the module's own code runs, so name only files you trust.

    Args:
        path: "pkg.module.function", of an installed module or one in the current folder, or "path/to/file.py:function".
        setting: what named it, told in errors.
        arguments: what it is called with, told in errors.

    Returns:
        The callable.

    Raises:
        RecipeError: A name of neither form, a module that is missing or fails to import, an attribute that is missing
            or cannot be called; the message names the path.
    """
    is_file = ".py:" in path
    module_name, _, function_name = path.rpartition(":" if is_file else ".")
    if path.endswith(".py"):
        raise RecipeError(f"{setting} {path!r}: expected a function of that file, got the file; write {path}:function.")
    if not module_name or not function_name.isidentifier():
        raise RecipeError(
            f"{setting} {path!r}: expected 'pkg.module.function' or 'path/to/file.py:function'; name the function so."
        )
    try:
        module = _module_of_file(Path(module_name)) if is_file else _module_of_name(module_name)
    except Exception as error:
        raise RecipeError(
            f"{setting} {path!r}: importing {module_name!r} failed with {type(error).__name__} ({error}); check the "
            "name, and that Python finds the module from here."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        came = f"a {type(function).__name__}" if hasattr(module, function_name) else "nothing of that name"
        raise RecipeError(
            f"{setting} {path!r}: expected a function {function_name!r} in {module_name!r}, got {came}; define "
            f"`def {function_name}({arguments})` there."
        )
    return function


def checked_span(span: Callable[[str], str] | None) -> Callable[[str], str]:
    """A user's answer span that must return text: a pattern that finds nothing easily returns None.

    Args:
        span: response -> the text that is embedded; None is the whole response.

    Returns:
        The same function; it raises a RewardError that shows the response where the user's returns no text.
    """
    return str if span is None else _CheckedSpan(span)


class _CheckedSpan:
    """Can be pickled if the user's function can."""

    def __init__(self, span: Callable[[str], str]) -> None:
        self._span = span

    def __call__(self, text: str) -> str:
        answer = self._span(text)
        if not isinstance(answer, str):
            raise RewardError(
                f"Expected the answer span to return text, got {answer!r} for the response {text[:80]!r}; return '' "
                "for a response without an answer."
            )
        return answer


def _module_of_name(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        # `python -m dqo` has the current folder there, the script `dqo` has not. It stays, for what the module imports
        # only when called, and comes last, so that a file of the user's hides no library.
        sys.path.append(here)
    return importlib.import_module(name)


def _module_of_file(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"dqo_user_{file.stem}", file)
    assert spec is not None, "a name that ends in .py always has a loader"
    assert spec.loader is not None, "as above"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look the module up there
    spec.loader.exec_module(module)
    return module
