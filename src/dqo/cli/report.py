"""`dqo report` and `dqo watch`: files of runs and evaluations -> one HTML page, once or while training goes on."""

import argparse
from pathlib import Path

from dqo.errors import RecipeError


def run(args: argparse.Namespace) -> None:
    """Write the page and say where it is.

    Args:
        args: `runs`, `output`, `encoder` and `maps`; `every` for `dqo watch`.

    Raises:
        DQOError: A folder or encoder that does not do.
    """
    from dqo.report.page import write_report
    from dqo.report.watch import watch

    if Path(args.output).is_dir():
        raise RecipeError(f"-o {args.output}: expected an HTML file to write, got a folder; add report.html to it.")
    if Path(args.output).suffix.lower() not in (".html", ".htm"):
        raise RecipeError(
            f"-o {args.output}: expected the name of an HTML file, which is written anew; add .html to it."
        )
    options = {"encoder": args.encoder, "maps": args.maps}
    if args.command == "watch":
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
