"""What the host, or a library behind it, refuses after it took the settings, told in one sentence."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dqo
from dqo.errors import DQOError, RecipeError
from dqo.hub import first_words

_PACKAGE = Path(dqo.__file__).parent
_HOSTS = ("accelerate", "datasets", "peft", "transformers", "trl")


@contextmanager
def refusals_told(started: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turns an error about settings that comes out of the host into a RecipeError.

    An error of our own code, or of a library that it called, keeps its traceback: that is a bug, and nothing that a
    user can change. So does one that is not about values or packages.

    Args:
        started: Whether a step is done; from then on nothing is about settings.

    Raises:
        RecipeError: In the place of the host's error.
    """
    try:
        yield
    except (DQOError, ModuleNotFoundError):
        raise
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        if started() or not _about_settings(error) or not _of_the_host(error):
            raise
        raise RecipeError(f"trainer: the host refuses these settings: {first_words(error)}; change them.") from error


def _about_settings(error: Exception) -> bool:
    """Whether the kind of error says so: torch raises RuntimeError for whatever goes wrong."""
    if not isinstance(error, RuntimeError):
        return True
    # a kind of RuntimeError that the host raises for settings it does not offer, and one for a logger not installed
    return isinstance(error, NotImplementedError) or "to be installed" in str(error)


def _of_the_host(error: Exception) -> bool:
    """Whether our code, where it was left last on the way to the error, had called the host."""
    frames = traceback.extract_tb(error.__traceback__)
    files = [Path(frame.filename) for frame in frames if not frame.filename.startswith("<")]  # of dataclasses
    left = max((place for place, file in enumerate(files) if file.is_relative_to(_PACKAGE)), default=-1)
    return left + 1 < len(files) and any(host in files[left + 1].parts for host in _HOSTS)
