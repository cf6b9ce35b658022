"""What users rely on, read from the tree by public doors, and compared with contract.yaml.

    python tests/contract/snapshot.py            # what went and came; status 1 where something went without a reason
    python tests/contract/snapshot.py --write    # makes contract.yaml anew

Doors are `dqo`, `dqo.core`, `dqo.evaluation`, and the command line with the files that it writes; verl's settings have
none and are found by a field. Additions are free. What goes or changes stands in deleted.yaml with its reason.
Sections that need TRL, or verl, are left as they are where it is not installed.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


def gathered() -> dict[str, Any]:
    """The contract of this tree, as far as the installed packages show it."""
    found: dict[str, Any] = {}
    if find_spec("trl"):
        import command_line
        import python_names

        found |= python_names.public() | {"commands": command_line.commands()}
        with tempfile.TemporaryDirectory() as folder:
            found |= command_line.Lab(Path(folder)).contract()
    if find_spec("verl"):
        import python_names

        found["verl"] = python_names.verl_settings()
    return found


def flat(document: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every entry as its path, 'settings > DQOConfig > alpha', and what is said of it."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from flat(value, f"{path} > {key}" if path else key)
    elif isinstance(document, list):
        yield from ((f"{path} > {entry}", "") for entry in document)
    else:
        yield path, str(document)


def compare(before: Any, after: Any, deleted: Mapping[str, str]) -> tuple[list[str], list[str], list[str]]:
    """What went or changed, what came, and what is wrong about it, a line each.

    `deleted` maps paths, with * for anything, to reasons; a path stands for all below it.
    """
    old, new = dict(flat(before)), dict(flat(after))
    gone = [path for path in old if new.get(path) != old[path]]
    went = [f"{path}: {old[path]}" + (f" -> {new[path]}" if path in new else "") for path in gone]
    came = [f"{path}: {new[path]}" for path in new if path not in old]
    matches = {
        pattern: {path for path in gone if fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern} > *")}
        for pattern in deleted
    }
    excused = set().union(*matches.values())
    wrong = [f"went without a reason in deleted.yaml: {path}" for path in gone if path not in excused]
    wrong += [f"deleted.yaml names what has not gone: {pattern}" for pattern, those in matches.items() if not those]
    wrong += [f"deleted.yaml gives no reason: {pattern}" for pattern, reason in deleted.items() if not reason]
    return went, came, wrong


class _Readable(yaml.SafeDumper):
    """Lists in running lines, everything else a line each."""

    def represent_list(self, values: list) -> yaml.Node:
        """A list as `[a, b]`."""
        return self.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


_Readable.add_representer(list, _Readable.represent_list)


def main() -> int:
    """Compare, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="make contract.yaml anew")
    write = parser.parse_args().write
    path = HERE / "contract.yaml"
    before = yaml.safe_load(path.read_text()) if path.exists() else {}
    after = gathered()
    missing = [package for package in ("trl", "verl") if not find_spec(package)]
    unseen = [section for section in before if ("verl" if section == "verl" else "trl") in missing]
    if write:
        text = yaml.dump(after | {name: before[name] for name in unseen}, Dumper=_Readable, sort_keys=False, width=110)
        path.write_text("# Written by `python tests/contract/snapshot.py --write`.\n" + text)
        return 0
    deleted = yaml.safe_load((HERE / "deleted.yaml").read_text())["deleted"]
    went, came, wrong = compare(
        {section: what for section, what in before.items() if section not in unseen},
        after,
        {path: reason for path, reason in deleted.items() if path.partition(" > ")[0] not in unseen},
    )
    if "log" in after:
        from dqo.evaluation.definitions import explain

        logged = {name for names in after["log"].values() for name in names}
        wrong += [f"no entry in evaluation/metrics.yaml: {name}" for name in logged if explain(name).kind == "other"]
    for title, lines in (("went", went), ("came", came), ("WRONG", wrong)):
        print("".join(f"{title}: {line}\n" for line in lines), end="")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
