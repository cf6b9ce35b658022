"""What TRL, or a library behind it, refuses after it took the settings, told in one sentence."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dqo
from dqo.errors import DQOError, RecipeError
from dqo.hub import first_words

_PACKAGE = Path(dqo.__file__).parent
_HOSTS = ("accelerate", "datasets", "peft", "transformers", "trl")
# What we call with settings. Whatever else of TRL's we call with the wrong thing is a bug of ours.
_TAKE_SETTINGS = (
    "__init__", "__post_init__", "train", "create_optimizer", "create_scheduler", "get_reporting_integration_callbacks",
)  # fmt: skip


@contextmanager
def refusals_told(started: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turns an error about settings that comes out of TRL into a RecipeError.

    An error of our own code, of a library that it called, or of a part of TRL that takes no settings keeps its
    traceback: that is a bug, and nothing that a user can change. So does one that is not about values or packages.

    Args:
        started: Whether a step is done; from then on nothing is about settings.

    Raises:
        RecipeError: In the place of TRL's error.
    """
    try:
        yield
    except (DQOError, ModuleNotFoundError):
        raise
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        if started() or not _about_settings(error) or not _from_settings(error):
            raise
        raise RecipeError(f"trainer: TRL refuses these settings: {first_words(error)}; change them.") from error


def _about_settings(error: Exception) -> bool:
    """Whether the kind of error says so: torch raises RuntimeError for whatever goes wrong."""
    if not isinstance(error, RuntimeError):
        return True
    # a kind of RuntimeError that TRL raises for settings it does not offer, and one for a logger not installed
    return isinstance(error, NotImplementedError) or "to be installed" in str(error)


def _from_settings(error: Exception) -> bool:
    """Whether our code, where it was left last on the way to the error, had handed settings to TRL."""
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if not frame.filename.startswith("<")]  # of dataclasses
    left = max((place for place, one in enumerate(frames) if Path(one.filename).is_relative_to(_PACKAGE)), default=-1)
    if left + 1 >= len(frames):
        return False
    entered = frames[left + 1]
    return entered.name in _TAKE_SETTINGS and any(host in Path(entered.filename).parts for host in _HOSTS)
