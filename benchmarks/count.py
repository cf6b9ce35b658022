"""Counts the code of src/dqo: size, checks, prose, and how it is divided into files.

    python benchmarks/count.py                 # this tree
    python benchmarks/count.py --against REV   # before and after
    python benchmarks/count.py --check         # exit status 1 where a budget is missed

A line is one of four kinds, judged by tokens: blank, whole-line comment, docstring, or code (everything else).
Statements are those of the syntax tree, docstrings among them.
Checking code is every code line of: a function named check, checked or refuse, or check_*, and so on, or
*contradictions or *misfits; a call of refuse; an `if` without else, or an `except`, whose body ends with `raise`; any
other `raise`, with its message; `assert`.
An importer of a file is another file of the package that imports it or a name from it, inside functions too.
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tarfile
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "src/dqo"
BESIDE_THE_PAPER = ("core/", "diversity/signals.py", "diversity/evidence.py", "diversity/credit.py",
                    "integrations/trl/trainer.py", "integrations/trl/step.py")  # fmt: skip
TOP = {"__init__.py", "__main__.py", "_version.py", "errors.py"}
# One file a member, however short; the doors are opened by the programs that they are named after.
FAMILIES = ("tasks/", "integrations/inspect.py", "integrations/lm_eval.py", "integrations/verifiers.py")
SMALL = 100  # lines below which a file needs two importers
# Figure -> (least, most); None where there is no limit.
BUDGETS = {
    "files": (None, 120),
    "code lines": (None, 11_000),
    "statements": (None, 9_500),
    "code lines beside the paper": (None, 1_300),
    "rooms beside the paper not found": (None, 0),
    "loose modules at the top": (None, 0),
    "checking code, % of code lines": (None, 10.0),
    "docstrings, % of lines": (None, 20.0),
    "comment lines, % of lines": (3.0, None),
    "lines of the biggest file": (None, 400),
    "lines of the longest function": (None, 59),
    "files under 100 lines with one importer": (None, 0),
}
_LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
_CHECKS = re.compile(r"_?(check|checked|refuse)(_|$)|.*(contradiction|misfit)s?$")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class File:
    """Counts of one file; the sets hold line numbers."""

    name: str
    lines: int
    code: set[int] = field(default_factory=set)
    comments: set[int] = field(default_factory=set)
    docstrings: set[int] = field(default_factory=set)
    checks: set[int] = field(default_factory=set)
    statements: int = 0
    longest: tuple[int, str] = (0, "")
    imports: set[str] = field(default_factory=set)


def count_file(name: str, source: str) -> File:
    """Counts one module; `name` is its path inside the package."""
    tree = ast.parse(source)
    found = File(name, len(source.splitlines()))
    for node in _docstrings(tree):
        found.docstrings |= _span(node)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        lines = set(range(token.start[0], token.end[0] + 1))
        if token.type == tokenize.COMMENT:
            found.comments |= lines
        elif token.type not in _LAYOUT:
            found.code |= lines
    found.code -= found.docstrings
    found.comments -= found.code | found.docstrings
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    found.statements = len(statements)
    for node in filter(_is_check, ast.walk(tree)):
        found.checks |= _span(node) & found.code
    functions = [node for node in statements if isinstance(node, _Function)]
    found.longest = max(((len(_span(node)), node.name) for node in functions), default=(0, ""))
    found.imports = set(_imports(tree, name))
    return found


def _span(node: ast.stmt | ast.ExceptHandler | ast.Call) -> set[int]:
    return set(range(node.lineno, node.end_lineno + 1))


def _docstrings(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | _Function) and ast.get_docstring(node, clean=False) is not None:
            yield node.body[0]


def _is_check(node: ast.AST) -> bool:
    if isinstance(node, _Function):
        return _CHECKS.match(node.name) is not None
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "refuse"
    if isinstance(node, ast.ExceptHandler) or (isinstance(node, ast.If) and not node.orelse):
        return isinstance(node.body[-1], ast.Raise)
    return isinstance(node, ast.Assert | ast.Raise)


def _imports(tree: ast.Module, name: str) -> Iterator[str]:
    """Absolute names of modules and of what is taken from them, one of which is a module where it is one."""
    package = ["dqo", *name.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def importers(files: list[File]) -> dict[str, set[str]]:
    """File -> the other files that import it."""
    modules = {}
    for file in files:
        parts = ["dqo", *file.name.removesuffix(".py").split("/")]
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file.name
    found: dict[str, set[str]] = {file.name: set() for file in files}
    for file in files:
        for name in file.imports:
            home = modules.get(name) or modules.get(name.rpartition(".")[0])
            if home is not None and home != file.name:
                found[home].add(file.name)
    return found


def figures(sources: Mapping[str, str]) -> dict[str, float | str]:
    """Every figure of a tree, given path inside the package -> source."""
    files = [count_file(name, source) for name, source in sources.items()]
    lines, code = sum(file.lines for file in files), sum(len(file.code) for file in files)
    imported_by = importers(files)
    lonely = [
        file.name
        for file in files
        if file.lines < SMALL and len(imported_by[file.name]) == 1
        and not file.name.endswith(("__init__.py", "__main__.py")) and not file.name.startswith(FAMILIES)
    ]  # fmt: skip
    biggest = max(files, key=lambda file: file.lines)
    longest = max(files, key=lambda file: file.longest)
    paper = [file for file in files if file.name.startswith(BESIDE_THE_PAPER)]
    return {
        "files": len(files),
        "lines": lines,
        "code lines": code,
        "statements": sum(file.statements for file in files),
        "code lines beside the paper": sum(len(file.code) for file in paper),
        "rooms beside the paper not found": sum(
            not any(name.startswith(room) for name in sources) for room in BESIDE_THE_PAPER
        ),
        "loose modules at the top": sum("/" not in file.name and file.name not in TOP for file in files),
        "checking code, % of code lines": round(100 * sum(len(file.checks) for file in files) / code, 1),
        "docstrings, % of lines": round(100 * sum(len(file.docstrings) for file in files) / lines, 1),
        "comment lines, % of lines": round(100 * sum(len(file.comments) for file in files) / lines, 1),
        "mean lines of a file": round(lines / len(files)),
        "lines of the biggest file": biggest.lines,
        "its name": biggest.name,
        "lines of the longest function": longest.longest[0],
        "its place": f"{longest.name}:{longest.longest[1]}",
        "files with one importer": sum(len(those) == 1 for those in imported_by.values()),
        "files under 100 lines with one importer": len(lonely),
    }


def tree_at(revision: str | None) -> dict[str, str]:
    """Path inside the package -> source, of the working tree or of a commit."""
    if revision is None:
        paths = sorted((ROOT / PACKAGE).rglob("*.py"))
        return {path.relative_to(ROOT / PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", revision, PACKAGE]
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive if entry.name.endswith(".py")}
        return {name.removeprefix(f"{PACKAGE}/"): file.read().decode() for name, file in sorted(files.items())}


def missed(found: Mapping[str, float | str]) -> list[str]:
    """Budgets that a tree does not keep, as sentences."""
    return [
        f"{name}: {found[name]:,}, but {f'at most {most:,}' if most is not None else f'at least {least:,}'} is allowed"
        for name, (least, most) in BUDGETS.items()
        if (most is not None and found[name] > most) or (least is not None and found[name] < least)
    ]


def main() -> int:
    """Print the table; with --check, what misses its budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="REV", help="commit to show beside this tree")
    parser.add_argument("--check", action="store_true", help="fail where a budget is missed")
    options = parser.parse_args()
    columns = [figures(tree_at(revision)) for revision in ([options.against, None] if options.against else [None])]
    for name in columns[0]:
        cells = "".join(f"{value:>40,}" if not isinstance(value, str) else f"{value:>40}"
                        for value in (column[name] for column in columns))  # fmt: skip
        print(f"{name:42}{cells}")
    found = missed(columns[-1]) if options.check else []
    print("".join(f"missed: {sentence}\n" for sentence in found), end="")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
