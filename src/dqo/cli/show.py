"""`dqo compare`, `dqo report` and `dqo schema`: what there is, shown."""

import argparse
import json
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from dqo.errors import RecipeError

_LOG_COLUMNS = 120  # of a log file, where rich would take 80 and cut names off


def run_compare(args: argparse.Namespace) -> None:
    """Writes the comparison into DIR and prints what it shows, in 15 lines or, with --all, whole."""
    from dqo.evaluation.compare import compare, short_comparison

    comparison = compare(args.runs, args.out)
    if args.all:
        _print_tables(comparison)
    else:
        width = get_terminal_size((_LOG_COLUMNS, 0)).columns if sys.stdout.isatty() else _LOG_COLUMNS
        print("\n".join(short_comparison(comparison, width)))
    print(f"written: {Path(args.out) / 'comparison.json'}")


def _print_tables(comparison: dict[str, Any]) -> None:
    from rich.console import Console

    from dqo.evaluation.compare import comparison_table, difference_table

    console = Console(width=None if sys.stdout.isatty() else _LOG_COLUMNS)
    console.print(comparison_table(comparison))
    console.print(difference_table(comparison))
    for caution in comparison["cautions"]:
        print(f"note: {caution}")
    if comparison["front"]:
        print(f"no other beats in both quality and diversity: {', '.join(comparison['front'])}")


# `dqo report`: files of runs and evaluations -> one HTML page, once or while training goes on.


def run_report(args: argparse.Namespace) -> None:
    """Writes the page and says where it is."""
    from dqo.report.page import watch, write_report

    if Path(args.output).suffix.lower() not in (".html", ".htm") or Path(args.output).is_dir():
        raise RecipeError(f"-o {args.output}: expected the name of an HTML file to write anew; add report.html to it.")
    options = {"encoder": args.encoder, "maps": args.maps}
    if args.watch:
        watch(args.runs, args.output, every=args.every, tell=partial(print, flush=True), **options)
        return
    written = write_report(args.runs, args.output, **options)
    for note in written["notes"]:
        print(f"note: {note}")
    print(f"written: {args.output} ({written['prompts']:,} prompts, {written['bytes'] / 1e6:.1f} MB)")


# `dqo schema`: what editors need to complete recipes, and docs/reference/settings.md.


def run_schema(args: argparse.Namespace) -> None:
    """Prints a JSON schema, or the settings reference in Markdown."""
    from dqo.sweep.plan import SweepFile
    from dqo.train.recipe import recipe_schema

    if args.what == "reference":
        print(reference(recipe_schema()), end="")
    else:
        print(json.dumps(recipe_schema() if args.what == "recipe" else SweepFile.model_json_schema(), indent=1))


def reference(schema: dict[str, Any]) -> str:
    """Writes the settings of dqo as tables; those of TRL are TRL's to document."""
    from dqo.train.recipe import CONFIGS, DIVERSITY, NOT_IN_A_RECIPE

    sections = schema["properties"]
    parts = {name: schema["$defs"][sections[name]["$ref"].rpartition("/")[2]] for name in ("data", "lora", "trainer")}
    ours = {one.name for config in CONFIGS.values() for one in fields(config) if one.metadata.get("checked")}
    trainer = {name: one for name, one in parts["trainer"]["properties"].items() if name in ours}
    tables = {
        "The run": {name: one for name, one in sections.items() if name not in (*DIVERSITY, *parts)},
        "Diversity, at the top level": {name: sections[name] for name in DIVERSITY},
        "`data`": parts["data"]["properties"],
        "`lora`": parts["lora"]["properties"],
        "`trainer`: what dqo adds to TRL's settings, or has another default for": trainer,
    }
    lines = ["# Settings", "", "Written by `dqo schema reference > docs/reference/settings.md`. A recipe may also",
             "set, under `trainer`, all fields of TRL's GRPOConfig and RLOOConfig but those below.", ""]  # fmt: skip
    for title, table in tables.items():
        lines += [f"## {title}", "", "| setting | value | default | meaning |", "|---|---|---|---|"]
        lines += [f"| `{name}` | {_value(one)} | {_default(one)} | {one.get('description', '').replace('<', '&lt;')} |"
                  for name, one in table.items()]  # fmt: skip
        lines.append("")
    lines += ["## What a recipe does not set under `trainer`", ""]
    lines += [f"- `{name}`: {remedy}" for name, remedy in NOT_IN_A_RECIPE.items()]
    return "\n".join(lines) + "\n"


def _value(one: dict[str, Any]) -> str:
    """The type, choices and bounds of a property, such as "number > 0"."""
    if "anyOf" in one:
        return " or ".join(_value(part) for part in one["anyOf"])
    if "enum" in one:
        return ", ".join(map(str, one["enum"]))
    bounds = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = [f"{sign} {one[name]:.10g}" for name, sign in bounds.items() if name in one]
    return " ".join([str(one.get("const", one.get("type", "section"))), *limits])


def _default(one: dict[str, Any]) -> str:
    return f"`{json.dumps(one['default'])}`" if "default" in one else ""
