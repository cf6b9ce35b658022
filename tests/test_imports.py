"""Layers: imports point one way, the front door is light, and only dqo/integrations knows a host."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dqo

SRC = Path(dqo.__file__).parent
# Lowest first; a module may import from its own layer and from those before it.
LAYERS = (
    {"_version", "errors"},
    {"settings"},
    {"files"},
    {"core"},
    {"diversity"},
    {"models"},
    {"embedders"},
    {"rewards"},
    {"tasks"},
    {"evaluation"},
    {"report"},
    {"integrations"},
    {"train"},
    {"sweep"},
    {"cli", "__main__"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
BASE = ("filelock", "pydantic")  # beside torch, which this layer does without
HOSTS = {"trl", "verl", "ray", "transfer_queue", "verifiers", "lm_eval", "inspect_ai"}
FILES = sorted(path.relative_to(SRC).as_posix() for path in SRC.rglob("*.py") if path != SRC / "__init__.py")


def imported(source: str, package: str) -> set[str]:
    """Absolute names of every module imported anywhere in the source, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] + "." if node.level else ""
            module = (base + (node.module or "")).rstrip(".")
            # `from dqo import core` names its target in the alias; a public name there stands for its home.
            names = {dqo._HOMES.get(alias.name, f"dqo.{alias.name}") for alias in node.names}
            found |= names if module == "dqo" else {module}
    return found


def violations(file: str, source: str) -> list[str]:
    """What in a file of src/dqo breaks the layering, as sentences."""
    layer = file.split("/")[0].removesuffix(".py")
    package = ".".join(["dqo", *file.split("/")[:-1]])
    problems = []
    for name in sorted(imported(source, package)):
        top, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if top == "dqo" and target in RANK and RANK[target] > RANK[layer]:
            problems.append(f"{file} ({layer}) imports {name}, which stands above it")
        if top == "dqo" and target == "report" and layer not in ("report", "cli"):
            problems.append(f"{file} imports {name}; the report reads files and is called by the command line only")
        if top in HOSTS and layer != "integrations" and (top, file) != ("ray", "sweep/launch.py"):
            problems.append(f"{file} imports the host {name}")
        if layer == "core" and top not in {"dqo", "torch", *sys.stdlib_module_names}:
            problems.append(f"{file} imports {name}, but the core stands on torch alone")
        if layer in ("_version", "errors", "files") and top not in {"dqo", *BASE, *sys.stdlib_module_names}:
            problems.append(
                f"{file} imports {name}, but this layer stands on the standard library, {' and '.join(BASE)}"
            )
    return problems


@pytest.mark.parametrize("file", FILES)
def test_file_imports_downwards_only(file):
    layer = file.split("/")[0].removesuffix(".py")
    assert layer in RANK, f"{file} belongs to no layer; give {layer} a place in LAYERS"
    assert violations(file, (SRC / file).read_text()) == []


@pytest.mark.parametrize(
    ("file", "source", "problem"),
    [
        ("core/volume.py", "from dqo.diversity.settings import DiversitySpec", "stands above it"),
        ("core/volume.py", "from ..tasks import load_task", "stands above it"),
        ("core/volume.py", "from dqo import rewards", "stands above it"),
        ("rewards/calling.py", "from dqo import DQOTrainer", "imports dqo.integrations.trl, which stands above it"),
        ("core/volume.py", "def f():\n    import numpy as np", "the core stands on torch alone"),
        ("files/records.py", "import torch", "the standard library, filelock and pydantic"),
        ("rewards/diversity.py", "def f():\n    from trl import GRPOTrainer", "imports the host trl"),
        ("integrations/trl/config.py", "import dqo.report.page", "the report reads files"),
    ],
)
def test_the_check_itself_can_fail(file, source, problem):
    assert problem in violations(file, source)[0]


def test_the_check_passes_what_is_allowed():
    assert violations("integrations/trl/trainer.py", "import trl\nfrom dqo.core import leave_one_out") == []
    assert violations("core/volume.py", "import math\nimport torch\nfrom .kernels import cosine_kernel") == []


def leaked(module: str, banned: list[str]) -> list[str]:
    """Which of the banned packages a fresh interpreter holds after importing the module."""
    probe = f"import sys, {module}; print(*[m for m in {banned!r} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()


HEAVY = ["transformers", "trl", "verl", "datasets", "accelerate", "peft", "sentence_transformers", "onnxruntime"]


def test_front_door_loads_neither_torch_nor_a_host():
    assert leaked("dqo", ["torch", "numpy", *HEAVY]) == []
    assert leaked("dqo.errors, dqo.files.records", ["torch", "numpy", *HEAVY]) == []


def test_core_loads_torch_and_nothing_heavier():
    # numpy is left out of the list: torch itself loads it when it is installed.
    assert leaked("dqo.core, dqo.diversity.credit", [*HEAVY, "yaml", "scipy", "matplotlib"]) == []
    assert leaked("dqo.core", ["torch"]) == ["torch"], "the probe must be able to see a loaded module"


def test_unknown_public_name_lists_what_there_is():
    with pytest.raises(AttributeError, match="module 'dqo' has no attribute 'Trainer'; it offers DQOConfig"):
        _ = dqo.Trainer
