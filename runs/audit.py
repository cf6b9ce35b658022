"""Licences and known vulnerabilities of everything `dqo` brings along; what `make audit` runs.

    python runs/audit.py [--pip-audit PATH]

Licences are read from the metadata of the installed packages. Vulnerabilities are asked of an advisory service by
pip-audit; where it is missing or cannot reach the service, that is said and the status is 2: unknown is not good.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
from collections import Counter
from importlib.metadata import PackageNotFoundError, distribution

from packaging.markers import default_environment
from packaging.requirements import Requirement

EXTRAS = ("train", "embed", "data", "endpoint", "report")
# Words of licences whose terms would reach users of a program that imports the package.
_COPYLEFT = (
    "AGPL",
    "AFFERO",
    "GPL-2",
    "GPL-3",
    "GPLV2",
    "GPLV3",
    "GNU GENERAL PUBLIC",
    "SSPL",
    "COMMONS CLAUSE",
    "NON-COMMERCIAL",
)
_WEAK = ("LGPL", "LESSER GENERAL", "MPL", "MOZILLA", "EPL", "ECLIPSE")


def brought_along(root: str, extras: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """Every package that a package requires, directly and through others.

    Args:
        root: Name of the package.
        extras: Of its extras.

    Returns:
        Those installed and those that are not, by normalised name, without `root`.
    """
    waiting, installed, absent = [(root, extras)], set(), set()
    seen = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            absent.add(name)
            continue
        installed.add(name)
        for need in map(Requirement, needs):
            settings = [default_environment() | {"extra": extra} for extra in (*wanted, "")]
            if need.marker is None or any(map(need.marker.evaluate, settings)):
                waiting.append((need.name.lower().replace("_", "-"), tuple(sorted(need.extras))))
    return installed - {root}, absent


def licence(name: str) -> str:
    """What the metadata of an installed package says: an SPDX expression, else classifiers, else its free text."""
    about = distribution(name).metadata
    classifiers = [c.split(" :: ")[-1] for c in about.get_all("Classifier") or [] if c.startswith("License :: OSI")]
    text = about.get("License-Expression") or ", ".join(classifiers) or (about.get("License") or "").strip()
    return text.splitlines()[0][:80] if text else "unknown"


def verdict(text: str) -> str:
    """One of "copyleft", "weak copyleft", "unknown" and "permissive"; a choice of licences counts as its mildest."""
    kinds = [_kind(part) for part in text.upper().split(" OR ")]
    return min(kinds, key=("permissive", "weak copyleft", "copyleft", "unknown").index)


def _kind(text: str) -> str:
    if text in ("UNKNOWN", ""):
        return "unknown"
    if any(word in text for word in _WEAK):
        return "weak copyleft"
    return "copyleft" if any(word in text for word in _COPYLEFT) else "permissive"


def licences() -> int:
    """Print what is not permissive and a count of the rest; 1 where a licence is copyleft or unknown."""
    installed, absent = brought_along("dqo-llm", EXTRAS)
    found = {name: licence(name) for name in sorted(installed)}
    counts = Counter(map(verdict, found.values()))
    for name, text in found.items():
        if verdict(text) != "permissive":
            print(f"  {name}: {text} ({verdict(text)})")
    told = ", ".join(f"{number} {kind}" for kind, number in counts.most_common())
    missing = f"; not installed and not looked at: {', '.join(sorted(absent))}" if absent else ""
    print(f"licences of {len(found)} packages: {told}{missing}")
    return 1 if counts["copyleft"] or counts["unknown"] else 0


def vulnerabilities(pip_audit: list[str]) -> int:
    """Ask the advisory service; 0 none known, 1 some are, 2 could not be asked.

    Args:
        pip_audit: The command.

    Returns:
        As above.
    """
    command = [*pip_audit, "--path", sysconfig.get_path("purelib"), "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run([*command, "--timeout", "20"], capture_output=True, text=True, timeout=300)
        report = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
        said = done.stderr.strip().splitlines() if "done" in locals() else []
        reason = (said or [str(error)])[-1][:200]
        print(f"vulnerabilities: NOT checked, because pip-audit gave no answer ({reason}); run this where the advisory "
              "service can be reached, with pip-audit installed.")  # fmt: skip
        return 2
    hit = [entry for entry in report if entry.get("vulns")]
    skipped = [entry["name"] for entry in report if "skip_reason" in entry]
    for entry in hit:
        known = ", ".join(
            f"{found['id']} (fixed in {', '.join(found['fix_versions']) or 'none'})" for found in entry["vulns"]
        )
        print(f"  {entry['name']} {entry['version']}: {known}")
    rest = f"; not in the service: {', '.join(skipped)}" if skipped else ""
    print(f"vulnerabilities: {len(hit)} of {len(report)} packages have a known one{rest}")
    return 1 if hit else 0


def main() -> int:
    """Both checks; the worse status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pip-audit", default="", metavar="PATH", help="the program (default: the module pip_audit)")
    args = parser.parse_args()
    command = [args.pip_audit] if args.pip_audit else [sys.executable, "-m", "pip_audit"]
    return max(licences(), vulnerabilities(command))


if __name__ == "__main__":
    sys.exit(main())
