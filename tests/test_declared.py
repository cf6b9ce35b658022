"""Every import of the package is declared by the extra that needs it; an extra is enough for what it promises."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from dqo.cli import main as command_line
from dqo.sweep import run as sweep

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "dqo"
FILES = sorted(path.relative_to(SRC).as_posix() for path in SRC.rglob("*.py"))
# Of the packages that are not imported by their own name.
DISTRIBUTIONS = {"yaml": "pyyaml", "hydra": "hydra-core", "transfer_queue": "transferqueue"}
# The longest matching start of a path says which extras it belongs to; each of them must declare what it imports.
EXTRAS_OF = {
    "": [],
    "cli/": ["train"],
    "cli/show.py": ["report"],
    "settings/yaml.py": ["train", "report"],
    "embedders/": ["embed"],
    "embedders/served.py": ["endpoint"],
    "evaluation/": ["train", "report"],
    "evaluation/compare.py": ["report"],
    "evaluation/statistics.py": ["report"],
    "evaluation/engines.py": ["train"],
    "evaluation/frames.py": ["report"],
    "evaluation/responses.py": ["train"],
    "evaluation/words.py": ["report"],
    "evaluation/same_meaning.py": ["embed"],
    "models/": ["train"],
    "models/endpoint": ["endpoint"],
    "models/weights.py": ["train", "embed"],
    "integrations/inspect.py": ["inspect"],
    "integrations/lm_eval.py": ["lm-eval"],
    "integrations/trl/": ["train"],
    "integrations/verifiers.py": ["verifiers"],
    "integrations/verl/": ["verl"],
    "report/": ["report"],
    "rewards/": ["data"],
    "rewards/judge": ["endpoint"],
    "rewards/likelihood.py": ["train"],
    "rewards/reward_model.py": ["train"],
    "sweep/": ["report"],
    "sweep/launch.py": ["ray"],
    "sweep/run.py": ["train", "report"],
    "sweep/plan.py": ["train", "report"],
    "tasks/": ["data"],
    "train/": ["train"],
}
STARTED_BY_OTHERS = (["verl"], ["inspect"], ["lm-eval"], ["verifiers"])  # not by `dqo`, so it advises no extra
BROUGHT_FOR_OTHERS = {"gguf", "protobuf", "spacy", "cachetools", "fastapi", "uvicorn"}  # pyproject.toml says for whom
# What one extra alone must be able to import.
PROMISES = {
    "": ["core/__init__.py", "diversity/credit.py", "diversity/settings.py", "diversity/alpha.py",
         "diversity/signals.py", "files/records.py"],
    "train": ["train/run.py", "cli/evaluate.py", "integrations/trl/__init__.py"],
    "report": ["cli/show.py", "report/page.py", "sweep/results.py", "evaluation/run.py"],
    "embed": ["embedders/__init__.py", "embedders/local.py"],
    "data": ["tasks/__init__.py", "tasks/datasets.py", "rewards/sentences.py", "rewards/references.py"],
    "endpoint": ["models/endpoint.py", "embedders/served.py", "rewards/judge.py"],
}  # fmt: skip


def declared(extra):
    """Distributions of the base and an extra, normalised."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
    return {distribution(re.match(r"[\w.-]+", line)[0]) for line in lines}


def distribution(name):
    return DISTRIBUTIONS.get(name, name).lower().replace("_", "-")


def imports(file, everywhere=True):
    """Modules that a file imports, those for types left out: all of them, or those needed to import the file itself."""
    tree = ast.parse((SRC / file).read_text())
    found, waiting = set(), [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not for_types and (everywhere or not inside):
            waiting += ast.iter_child_nodes(node)
    return found


def others(modules):
    """Of modules the top names of those that neither Python nor this package brings."""
    tops = {module.split(".")[0] for module in modules}
    return tops - set(sys.stdlib_module_names) - {"dqo"}


def extras_of(file):
    return EXTRAS_OF[max((start for start in EXTRAS_OF if file.startswith(start)), key=len)]


@pytest.mark.parametrize("file", FILES)
def test_every_import_is_declared_by_the_extras_of_its_file(file):
    for extra in extras_of(file) or [""]:
        missing = {name for name in others(imports(file)) if distribution(name) not in declared(extra)}
        assert not missing, f"{file} belongs to dqo[{extra}], which does not declare {missing}"


@pytest.mark.parametrize(("extra", "file"), [(extra, file) for extra, files in PROMISES.items() for file in files])
def test_an_extra_alone_can_import_what_it_is_for(extra, file):
    """All that is loaded on the way, without the imports that wait for a call."""
    waiting, seen, missing = [file], set(), {}
    while waiting:
        here = waiting.pop()
        seen.add(here)
        modules = imports(here, everywhere=False)
        missing |= {name: here for name in others(modules) if distribution(name) not in declared(extra)}
        for module in modules:
            path = "/".join(module.split(".")[1:])
            packages = [f"{part}__init__.py" for part in ("", *(f"{path[:i]}/" for i in range(len(path) + 1)
                        if path[i : i + 1] in ("/", "")))]  # fmt: skip
            if module.split(".")[0] == "dqo":
                waiting += [there for there in (*packages, f"{path}.py") if there in FILES and there not in seen]
    assert not missing, f"dqo[{extra}] is to import {file}, and does not declare {missing}"


def test_what_is_declared_is_imported_or_brought_for_others():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    used = {distribution(name) for file in FILES for name in others(imports(file))}
    for extra in project["optional-dependencies"].keys() - {"dev", "docs"}:
        idle = declared(extra) - used - BROUGHT_FOR_OTHERS - {"dqo-llm"}
        assert not idle, f"dqo[{extra}] declares {idle}, which nothing imports"


def test_the_advice_for_a_missing_package_names_an_extra_that_has_it():
    used = {name for file in FILES for name in others(imports(file)) if extras_of(file) not in STARTED_BY_OTHERS}
    assert set(command_line.PACKAGES) == used
    assert "trl" in used
    assert "transfer_queue" not in used
    for name, extra in command_line.PACKAGES.items():
        assert distribution(name) in declared(extra), name


def test_a_sweep_looks_for_all_it_needs_late_before_it_starts():
    late = {name for file in FILES if "report" in extras_of(file) and file.startswith(("sweep/", "evaluation/"))
            for name in others(imports(file))}  # fmt: skip
    # Two come without an extra, a sweep writes no parquet, and Ray is asked for before anything starts.
    without = {"torch", "pydantic", "pyarrow", "ray"}
    assert set(sweep._NEEDED_LATE) == late - without
