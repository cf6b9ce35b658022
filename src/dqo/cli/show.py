"""`dqo compare`: evaluations side by side."""

import argparse
import sys
from pathlib import Path

from dqo.errors import RecipeError

_LOG_COLUMNS = 120  # of a log file, where rich would take 80 and cut names off


def run_compare(args: argparse.Namespace) -> None:
    """Write the comparison into DIR and print its tables: the runs, and the differences between them.

    Args:
        args: `runs`, folders of evaluations or of runs, the first being the baseline, and `out`.

    Raises:
        DataError: A folder that is no complete evaluation, or evaluations that cannot be compared.
    """
    from rich.console import Console

    from dqo.evaluation.compare import compare, comparison_table, difference_table

    comparison = compare(args.runs, args.out)
    console = Console(width=None if sys.stdout.isatty() else _LOG_COLUMNS)
    console.print(comparison_table(comparison))
    console.print(difference_table(comparison))
    for caution in comparison["cautions"]:
        print(f"note: {caution}")
    if comparison["front"]:
        print(f"no other run beats in both quality and diversity: {', '.join(comparison['front'])}")
    print(f"written: {Path(args.out) / 'comparison.json'}")


# `dqo report`: files of runs and evaluations -> one HTML page, once or while training goes on.


def run_report(args: argparse.Namespace) -> None:
    """Write the page and say where it is.

    Args:
        args: `runs`, `output`, `encoder`, `maps`, `watch` and `every`.

    Raises:
        DQOError: A folder or encoder that does not do.
    """
    from dqo.report.page import watch, write_report

    if Path(args.output).is_dir():
        raise RecipeError(f"-o {args.output}: expected an HTML file to write, got a folder; add report.html to it.")
    if Path(args.output).suffix.lower() not in (".html", ".htm"):
        raise RecipeError(
            f"-o {args.output}: expected the name of an HTML file, which is written anew; add .html to it."
        )
    options = {"encoder": args.encoder, "maps": args.maps}
    if args.watch:
        watch(args.runs, args.output, every=args.every, tell=_say, **options)
        return
    written = write_report(args.runs, args.output, **options)
    for note in written["notes"]:
        _say(f"note: {note}")
    runs = "1 run" if written["runs"] == 1 else f"{written['runs']} runs"
    told = f"{runs}, {written['prompts']:,} prompts, {written['bytes'] / 1e6:.1f} MB"
    _say(f"written: {args.output} ({told})")


def _say(sentence: str) -> None:
    print(sentence, flush=True)
