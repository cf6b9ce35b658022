"""`dqo compare`: evaluations side by side."""

import argparse
from pathlib import Path

from dqo.evaluation.compare import compare, comparison_table


def run(args: argparse.Namespace) -> None:
    """Write the comparison into DIR and print its table.

    Args:
        args: `runs`, folders of evaluations or of runs, the first being the baseline, and `out`.

    Raises:
        DataError: A folder that is no complete evaluation, or evaluations that cannot be compared.
    """
    from rich.console import Console

    comparison = compare(args.runs, args.out)
    Console().print(comparison_table(comparison))
    print(f"written: {Path(args.out) / 'comparison.json'}")
