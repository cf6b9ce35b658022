"""Training logs as columns of numbers, short enough to draw."""

from collections.abc import Mapping, Sequence
from typing import Any

POINTS = 1000  # more than a chart has pixels for


def columns(steps: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Every number of a log, one list a name, parallel to "step".

    A log of more than 1,000 steps is averaged over stretches of equal length; a stretch stands at its last step.

    Args:
        steps: Lines of metrics.jsonl in order of steps.

    Returns:
        "step" first, then names in the order of their first appearance; a name without any number is left out.
    """
    names = dict.fromkeys(name for row in steps for name in row)
    stride = -(-len(steps) // POINTS) or 1
    stretches = [steps[start : start + stride] for start in range(0, len(steps), stride)]
    table = {name: [_mean([row.get(name) for row in rows]) for rows in stretches] for name in names if name != "step"}
    table = {name: column for name, column in table.items() if any(value is not None for value in column)}
    return {"step": [rows[-1]["step"] for rows in stretches]} | table


def _mean(values: list[Any]) -> float | None:
    known = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return significant(sum(known) / len(known)) if known else None


def significant(value: float, digits: int = 6) -> float:
    """A number of so many significant digits, for a smaller page."""
    return float(f"{value:.{digits}g}")
