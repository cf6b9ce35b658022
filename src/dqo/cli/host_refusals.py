"""What the host, or a library behind it, refuses after it took the settings, told in one sentence."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dqo
from dqo.errors import DQOError, RecipeError
from dqo.hub import first_words

_PACKAGE = str(Path(dqo.__file__).parent)


@contextmanager
def refusals_told(started: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turns an error about settings that comes out of the host into a RecipeError.

    What our own code raises, and what is no error about values or packages, keeps its traceback: that is a bug, and
    nothing that a user can change.

    Args:
        started: Whether a step is done; from then on nothing is about settings.

    Raises:
        RecipeError: In the place of the host's error.
    """
    try:
        yield
    except (DQOError, ModuleNotFoundError):
        raise
    except (ValueError, TypeError, NotImplementedError, ImportError, RuntimeError) as error:
        # torch raises RuntimeError for whatever goes wrong, transformers for a logger that is not installed
        unclear = isinstance(error, RuntimeError) and "to be installed" not in str(error)
        if started() or _ours(error) or unclear:
            raise
        raise RecipeError(f"trainer: the host refuses these settings: {first_words(error)}; change them.") from error


def _ours(error: Exception) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return not frames or frames[-1].filename.startswith(_PACKAGE)
