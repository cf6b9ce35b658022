"""Which versions of TRL and transformers this works with: a table, made by what `make test-trl` runs.

    python runs/trl_versions.py [TRL[:TRANSFORMERS] ...]

Each pair gets an environment for the time of its tests, laid over this one: TRL, transformers and what they want in
other versions lie in it, torch and all else are shared. The tests marked `trl` run there. A pair without transformers
takes those of this environment. The status is 1 where a test failed.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# 1.15 does not train on a CPU: its head is a Triton kernel.
MINORS = ("1.8", "1.9", "1.10", "1.11", "1.12", "1.13", "1.14", "1.16")
PAIRS = (*MINORS, "1.16:5.9.0", "1.16:5.10.4", "1.16:5.17.0")
COLUMNS = ("drop-in", "advantages", "alpha auto", "resume", "PPO", "entropy", "shared prompts")  # arguments of `trl`
_MINUTES = 15  # for the tests of one pair
_WORST = ("passed", "off", "refused", "failed")  # of a column's tests, the last one counts


class Verdicts:
    """Sorts the tests of a run by column: passed, off (skipped), refused (by an error of dqo) or failed, with why."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[str, str]]] = {}

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> None:
        """Note one phase of a test; a phase that passes says nothing."""
        from dqo.errors import DQOError

        name, error = item.get_closest_marker("trl").args[0], call.excinfo and call.excinfo.value
        if error is None:
            verdict = ("passed", "")
        elif isinstance(error, pytest.skip.Exception):
            verdict = ("off", str(error))
        elif isinstance(error, DQOError):
            verdict = ("refused", str(error))
        else:
            verdict = ("failed", f"{item.name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        self.found.setdefault(name, []).append(verdict)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported fails all columns."""
        if report.failed:
            why = ("failed", f"{report.nodeid}: {str(report.longrepr).splitlines()[-1]}")
            self.found |= {name: [why] for name in COLUMNS}


def inside(out: Path) -> None:
    """Run the marked tests in this environment; write versions and verdicts to a file."""
    verdicts = Verdicts()
    files = [str(path) for path in ROOT.glob("tests/integrations/trl/test_*.py") if "mark.trl(" in path.read_text()]
    pytest.main(["-q", "-p", "no:cacheprovider", "-m", "trl", *files], plugins=[verdicts])
    cells = {name: max(found, key=lambda one: _WORST.index(one[0])) for name, found in verdicts.found.items()}
    out.write_text(json.dumps({"cells": cells} | {name: version(name) for name in ("trl", "transformers", "torch")}))


def lay_over(folder: Path, requirements: list[str]) -> Path:
    """Make an environment over this one; return its interpreter."""
    venv.create(folder, symlinks=True)
    here, python = sysconfig.get_path("purelib"), folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
    (site / "shared.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    # What lies outside of the new environment is used, and left as it is.
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *requirements]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return python


def try_pair(pair: str, folder: Path) -> dict[str, Any]:
    """Lay an environment over this one and run the tests there: versions and verdicts, of which some may lack."""
    trl, _, transformers = pair.partition(":")
    folder.mkdir()
    seen: dict[str, Any] = {"trl": trl, "transformers": transformers or version("transformers"), "cells": {}}
    try:
        named = [f"trl=={trl}" if trl.count(".") > 1 else f"trl=={trl}.*"]
        named += [f"transformers=={transformers}"] if transformers else []
        python, out = lay_over(folder / "env", named), folder / "out.json"
        env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [python, __file__, "--inside", out]
        with (folder / "log").open("w") as log:
            subprocess.run(command, cwd=ROOT, env=env, stdout=log, stderr=log, timeout=60 * _MINUTES, check=True)
        return json.loads(out.read_text())
    except subprocess.SubprocessError as error:
        return seen | {"cells": dict.fromkeys(COLUMNS, ("failed", str(error)))}


def main() -> int:
    """Print a table as it is made, then what was said; 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", default=PAIRS, metavar="TRL[:TRANSFORMERS]", help=f"(default: {PAIRS})")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(args.inside)
        return 0
    print(f"{datetime.date.today()}, Python {sys.version.split()[0]}, torch {version('torch')}\n")
    print("| TRL | transformers | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 2) + "|", flush=True)
    said: dict[str, None] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, pair in enumerate(args.pairs):
            seen = try_pair(pair, Path(scratch) / str(number))
            cells = [seen["cells"].get(name, ("failed", "no test ran")) for name in COLUMNS]
            print(f"| {seen['trl']} | {seen['transformers']} | " + " | ".join(c[0] for c in cells) + " |", flush=True)
            said |= {
                f"{seen['trl']}, {seen['transformers']}, {name}: {cell[0]}: {cell[1]}": None
                for name, cell in zip(COLUMNS, cells, strict=True)
                if cell[1]
            }
    print("", *said, sep="\n")
    return int(any(": failed: " in line for line in said))


if __name__ == "__main__":
    sys.exit(main())
