"""A user's mistake found in a Ray process is told as if it had been found here."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayTaskError

from dqo.errors import DQOError


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise a DQOError of another process as itself; Ray's wrapping has a page of traceback for its message."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, DQOError):
            raise error.cause from error
        raise
