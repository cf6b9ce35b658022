"""Reading metrics.jsonl, the log of a training run, checked; it may still be written. Standard library only."""

from pathlib import Path
from typing import Any

from dqo.errors import DataError
from dqo.json_files import from_utf8, is_number, parse_object


def read_steps(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl.

    Args:
        path: The file.

    Returns:
        One object a step in the order of the steps, of several for one step the last; `step` is a whole number, and
        numbers are finite. Half a line at the end is one that is being written and is passed over.

    Raises:
        DataError: A file that cannot be read, no UTF-8, or a line that is no JSON object with a step.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a readable metrics.jsonl, got {error.strerror or error}.") from error
    whole = from_utf8(path, content[: content.rfind(b"\n") + 1])  # half a character may end what is being written
    by_step = {}
    for number, line in enumerate(whole.split("\n"), start=1):
        if line.strip():
            row = parse_object(line, f"{path}, line {number}")
            step = row.get("step")
            if not isinstance(step, int) or isinstance(step, bool) or not is_number(step):
                raise DataError(f"{path}, line {number}: expected a JSON object with a whole number as `step`, got "
                                f"{line[:60]!r}; remove that line.")  # fmt: skip
            by_step[step] = {name: value for name, value in row.items() if _finite(value)}
    return [by_step[step] for step in sorted(by_step)]


def _finite(value: Any) -> bool:
    return not isinstance(value, int | float) or isinstance(value, bool) or is_number(value)
