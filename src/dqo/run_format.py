"""The version of the files of a run: config.yaml, sampling.json and metrics.json carry it as `format`.

It is raised when an older program would read a newer file wrongly, and then only. A file without it was written before
it was introduced and is read as format 1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqo._version import __version__
from dqo.errors import DataError

FORMAT = 1


def check_format(document: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a file that a newer program wrote, before it is read wrongly.

    Args:
        document: Its content.
        path: The file, for messages.

    Raises:
        DataError: A format above `FORMAT`, or one that is no whole number of 1 or more.
    """
    found = document.get("format", FORMAT)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise DataError(f"{path}: expected `format` as a whole number above 0, got {found!r}; restore the file.")
    if found > FORMAT:
        raise DataError(
            f"{path}: expected a run of format {FORMAT} or older, got format {found}, which a newer dqo than this "
            f"{__version__} has written; update this installation."
        )
