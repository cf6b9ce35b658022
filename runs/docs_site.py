"""Adds to the site what no file of docs/ holds: a page of the command line, and formulas as MathML with their font.

mkdocs calls it while `make docs` builds (`hooks` of mkdocs.yml). Nothing on the page is fetched from a network.
"""

import argparse
import re
from html import escape, unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from dqo.cli.main import build_parser

FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.DOTALL)
TAG = re.compile(r"\\tag\{([\d.]+)\}")


def on_files(files: Files, config: Any) -> Files:
    """Adds the page of the command line, written from its parser, and the font of the formulas (SIL OFL 1.1)."""
    (ziamath,) = find_spec("ziamath").submodule_search_locations
    font = Path(ziamath) / "fonts" / "STIXTwoMath-Regular.ttf"
    files.append(File.generated(config, "assets/STIXTwoMath-Regular.ttf", abs_src_path=str(font)))
    files.append(File.generated(config, "reference/cli.md", content=command_line(build_parser())))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Replaces LaTeX by MathML, which browsers draw by themselves."""
    return FORMULA.sub(lambda found: formula(unescape(found[2]).strip(), block=found[1] == "div"), html)


def formula(latex: str, block: bool) -> str:
    """A formula as MathML; a numbered one stands in a line of its own."""
    number = TAG.search(latex)
    mathml = convert(TAG.sub("", latex), display="block" if block else "inline")
    if number is None:
        return mathml
    return f'<div class="equation">{mathml}<span>({number[1]})</span></div>'


def command_line(parser: argparse.ArgumentParser) -> str:
    """Every command with its usage and a table of its arguments."""
    lines = ["# Command line", "", f"{parser.description} Every command explains itself with `--help`.", ""]
    (commands,) = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.items():
        lines += [f"## dqo {name}", "", command.description, "", "```text", command.format_usage().strip(), "```", ""]
        lines += ["| argument | meaning |", "|---|---|"]
        lines += [f"| {shown(action)} | {meaning(action, command)} |" for action in command._actions
                  if action.dest != "help"]  # fmt: skip
        lines.append("")
    return "\n".join(lines)


def shown(action: argparse.Action) -> str:
    """An argument as it is written on the command line."""
    value = action.metavar or (action.choices and "{" + ",".join(action.choices) + "}") or action.dest.upper()
    if not action.option_strings:
        return f"`{value}`"
    return f"`{', '.join(action.option_strings)}{'' if action.nargs == 0 else f' {value}'}`"


def meaning(action: argparse.Action, command: argparse.ArgumentParser) -> str:
    """Its help, with the default in it."""
    return escape(command._get_formatter()._expand_help(action), quote=False).replace("|", "\\|")
