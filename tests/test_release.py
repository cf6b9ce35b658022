"""What a release rests on: one version, workflows that call targets of the Makefile, a short list of changes."""

import re
from pathlib import Path

import yaml

from dqo import __version__

ROOT = Path(__file__).parents[1]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())["jobs"]


def commands(jobs):
    """Every shell command of a workflow, one for each value of its matrix."""
    found = []
    for job in jobs.values():
        targets = job.get("strategy", {}).get("matrix", {}).get("target", [""])
        runs = [step["run"] for step in job.get("steps", []) if "run" in step]
        found += [run.replace("${{ matrix.target }}", target) for run in runs for target in targets]
    return found


def test_workflows_call_targets_of_the_makefile_and_all_that_ci_calls():
    called = {run.removeprefix("make ") for run in commands(workflow("ci")) if run.startswith("make ")}
    assert called <= TARGETS
    here = {line.split()[1] for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")}
    assert here <= called
    assert "make dist" in commands(workflow("release"))
    assert "dist" in TARGETS


def test_only_the_upload_may_ask_for_an_identity_and_it_waits_for_the_tests():
    jobs = workflow("release")
    asking = [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})]
    assert asking == ["publish"]
    assert set(jobs["publish"]["needs"]) == {"ci", "build"}


def test_the_version_is_one():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert __version__ in re.search(r"^## (.*)", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)[1]


def test_a_release_has_at_most_five_lines_of_changes():
    for section in re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)[1:]:
        assert 1 <= len(re.findall(r"^- ", section, flags=re.M)) <= 5, section.splitlines()[0]
