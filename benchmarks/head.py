"""TRL's log-probability head and ours on a CPU: processor time and memory, of the head alone and within an update.

    python benchmarks/head.py [--rows 1024 64] [--update 512,64,8]

The head alone goes forward and backward over random hidden states at SmolLM2's shape, with a gradient for every
log-probability and with entropies, as TRL's trainers ask. An update is one micro-batch of a group that shares its
prompt. Seconds are the process's, user and system together, medians of arms in turn, so that neighbours on the machine
weigh on both. Memory is the most that a process of its own held beyond what it held before the first call.
"""

import argparse
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.utils import add_fused_lm_head

from dqo.integrations.trl.fast import head, packing
from dqo.models.policy import DEFAULT_POLICY, load_policy

V, D = 49152, 576
Call = Callable[[], None]


def alone(rows: int, bf16: bool) -> dict[str, Call]:
    """Forward and backward of either head."""
    torch.manual_seed(0)
    weight = (torch.randn(V, D) * 0.13).requires_grad_()  # (V, D)
    hidden, targets = torch.randn(rows, D).requires_grad_(), torch.randint(V, (rows,))  # (K, D), (K,)
    gradient = torch.randn(rows)  # (K,)

    def arm(apply: Callable) -> Call:
        def call() -> None:
            weight.grad = hidden.grad = None
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                values = apply(hidden, weight, None, targets, 1.0, 32768, None, 1.0, ("log_probs", "entropy"))
            values[0].backward(gradient)

        return call

    return {"TRL": arm(ChunkedLogProbFunction.apply), "ours": arm(head._apply)}


def update(shape: str, bf16: bool) -> dict[str, Call]:
    """Forward and backward of one group of G responses of C tokens to a prompt of P tokens."""
    P, C, G = map(int, shape.split(","))
    model, _ = load_policy(DEFAULT_POLICY)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    torch.manual_seed(0)
    ids = torch.randint(V, (G, P + C))  # (G, P+C)
    ids[:, :P] = ids[0, :P]
    gradient = torch.randn(G, C)  # (G, C)

    def arm(context: Callable) -> Call:
        def call() -> None:
            model.zero_grad()
            with (
                mock.patch.object(packing, "faster_head", context),
                torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            ):
                logps, _ = packing.shared_prefix_logps(model, ids, torch.ones_like(ids), C)
            logps.backward(gradient)

        return call

    return {"TRL": arm(nullcontext), "ours": arm(head.faster_head)}


def seconds(call: Call) -> tuple[float, float]:
    """Processor time of one call, and the system's share."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    return after.ru_utime - before.ru_utime + system, system


def peak_mb(arm: str, job: str, bf16: bool) -> float:
    """Memory of two calls, in units of 10^6 bytes."""
    command = [sys.executable, __file__, "--child", arm, job, "bf16" if bf16 else "float32"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def child(arm: str, job: str, dtype: str) -> None:
    """Prints what two calls of one arm held."""
    call = arms_of(job, dtype == "bf16")[arm]
    before = status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    call()
    call()
    print(status_mb("VmHWM") - before)


def status_mb(name: str) -> float:
    """Linux's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def arms_of(job: str, bf16: bool) -> dict[str, Call]:
    """Of a number of rows, or of the shape of an update."""
    return update(job, bf16) if "," in job else alone(int(job), bf16)


def main() -> None:
    """Measure and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=["1024", "64"], help="scored positions of the head alone")
    parser.add_argument("--update", nargs="*", default=[], metavar="P,C,G", help="shapes of micro-batches")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(*options.child)
    for job in [*options.rows, *options.update]:
        for bf16 in (True, False):
            arms = arms_of(job, bf16)
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
            for repeat in range(options.repeats + 1):
                for name in sorted(arms, reverse=bool(repeat % 2)):
                    times[name].append(seconds(arms[name]))
            median = {
                name: [statistics.median(column) for column in zip(*t[1:], strict=True)] for name, t in times.items()
            }
            ratio = median["TRL"][0] / median["ours"][0]
            both = ", ".join(f"{name} {s:.3f} s (system {system:.3f}), {peak_mb(name, job, bf16):.0f} MB"
                             for name, (s, system) in median.items())  # fmt: skip
            print(f"{job} {'bf16' if bf16 else 'float32'}: {both}; {ratio:.2f}x", flush=True)


if __name__ == "__main__":
    main()
