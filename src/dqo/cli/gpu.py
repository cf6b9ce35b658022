"""`dqo doctor --gpu`: what of a GPU machine is there and usable, in words also where there is none."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from dqo.cli.finding import Finding
from dqo.hub import first_words

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
    yield _package(
        "vllm", "engine of fast rollouts, `trainer.use_vllm` and `--backend vllm`", "pip install 'trl[vllm]'"
    )
    yield _package(
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
        told = f"device {index} cannot be used ({first_words(error)})"
        return Finding(False, told, "free it, or choose another with CUDA_VISIBLE_DEVICES")
    major, minor = torch.cuda.get_device_capability(index)
    bf16 = "bfloat16 in hardware" if major >= 8 else "no bfloat16: set dtype and trainer.bf16 to float32 or float16"
    told = f"device {index}: {torch.cuda.get_device_name(index)}, {free / _GB:.0f} of {total / _GB:.0f} GB free, "
    return Finding(works, f"{told}compute capability {major}.{minor}, {bf16}", "it gives wrong products: do not use it")


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
    yield _package(
        "flash_attn",
        "flash-attn (a model given to a trainer in Python with `attn_implementation`)",
        advice,
        "flash-attn",
    )


def _package(module: str, what: str, mend: str, distribution: str | None = None) -> Finding:
    try:
        return Finding(True, f"{what}: {module} {version(distribution or module)}", vital=False)
    except PackageNotFoundError:
        return Finding(False, f"{what}: {module} is not installed", mend, False)
