"""`dqo compare`: evaluations side by side."""

import argparse
import sys
from pathlib import Path

_LOG_COLUMNS = 120  # of a log file, where rich would take 80 and cut names off


def run(args: argparse.Namespace) -> None:
    """Write the comparison into DIR and print its tables: the runs, and the differences between them.

    Args:
        args: `runs`, folders of evaluations or of runs, the first being the baseline, and `out`.

    Raises:
        DataError: A folder that is no complete evaluation, or evaluations that cannot be compared.
    """
    from rich.console import Console

    from dqo.evaluation.compare import compare, comparison_table
    from dqo.evaluation.differences import difference_table

    comparison = compare(args.runs, args.out)
    console = Console(width=None if sys.stdout.isatty() else _LOG_COLUMNS)
    console.print(comparison_table(comparison))
    console.print(difference_table(comparison))
    for caution in comparison["cautions"]:
        print(f"note: {caution}")
    if comparison["front"]:
        print(f"no other run beats in both quality and diversity: {', '.join(comparison['front'])}")
    print(f"written: {Path(args.out) / 'comparison.json'}")
