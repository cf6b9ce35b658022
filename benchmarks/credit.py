"""Leave-one-out credit: one Cholesky factorisation against G+1 log-determinants and against one matrix inverse.

Run `python benchmarks/credit.py`, with `--json FILE` to keep the numbers. All ways read the same float64 kernels and
run in turn within each repeat, so a busy moment of the machine hits them alike; times are medians.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dqo.core import cosine_kernel, leave_one_out, log_volume


def by_inverse(L: Tensor) -> Tensor:
    """-log of the diagonal of A^-1, from a general inverse."""
    A = torch.eye(L.shape[-1], dtype=L.dtype) + L  # (P, G, G)
    return -torch.linalg.inv(A).diagonal(dim1=-2, dim2=-1).log()  # (P, G)


def by_determinants(L: Tensor) -> Tensor:
    """V - V without i: G+1 calls, each over all P groups."""
    G = L.shape[-1]
    whole = log_volume(L)  # (P,)
    parts = []
    for i in range(G):
        rest = [j for j in range(G) if j != i]
        parts.append(whole - log_volume(L[:, rest][:, :, rest]))  # (P,)
    return torch.stack(parts, dim=-1)  # (P, G)


def by_determinants_batched(L: Tensor) -> Tensor:
    """The same in two calls: the P*G deleted matrices are gathered first, which pays for small groups only."""
    G = L.shape[-1]
    rest = torch.tensor([[j for j in range(G) if j != i] for i in range(G)])  # (G, G-1)
    deleted = L[:, rest.unsqueeze(-1), rest.unsqueeze(-2)]  # (P, G, G-1, G-1)
    return log_volume(L).unsqueeze(-1) - log_volume(deleted)  # (P, G)


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "cholesky": leave_one_out,
    "inverse": by_inverse,
    "determinants": by_determinants,
    "determinants_batched": by_determinants_batched,
}
BATCHED_ENTRIES = 2**22  # gathering more than this is slower than the loop and takes gigabytes


def measure(P: int, G: int, D: int, repeats: int, seed: int) -> dict[str, float]:
    """Median milliseconds of each way for P groups of G, and how far any way is from the first."""
    gen = torch.Generator().manual_seed(seed)
    L = cosine_kernel(torch.randn(P, G, D, generator=gen))  # (P, G, G)
    ways = dict(WAYS)
    if P * G**3 > BATCHED_ENTRIES:
        del ways["determinants_batched"]
    reference = leave_one_out(L)  # (P, G)
    difference = max((way(L) - reference).abs().max().item() for way in ways.values())  # also the warm-up
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way(L)
            times[name].append(1e3 * (time.perf_counter() - start))
    medians = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
    return {"P": P, "G": G, **medians, "max_abs_difference": difference}


def row_of(result: dict[str, float]) -> str:
    """One line of the table; the speed-up is against the fastest way by determinants."""
    times = {name: result.get(f"{name}_ms") for name in WAYS}  # None where a way was left out
    cells = [f"{'-' if ms is None else format(ms, '.3f'):>{max(9, len(name))}}" for name, ms in times.items()]
    best = min(ms for name, ms in times.items() if ms is not None and name.startswith("determinants"))
    speedup = f"{best / times['cholesky']:>8.1f}x"
    return f"{result['P']:>4} {result['G']:>3} {' '.join(cells)} {speedup} {result['max_abs_difference']:>9.1e}"


def main() -> None:
    """Measure every P and G, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[32, 256], help="numbers P of groups (default 32 256)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="group sizes G")
    parser.add_argument("--width", type=int, default=384, help="embedding width D (default 384, all-MiniLM-L6-v2)")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each way (default 7)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random embeddings")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings and results here")
    options = parser.parse_args()

    print("milliseconds, median; speed-up: cholesky against the fastest way by determinants")
    print(f"{'P':>4} {'G':>3} {' '.join(f'{name:>9}' for name in WAYS)} {'speed-up':>9} {'max diff':>9}")
    results = []
    for P in options.groups:
        for G in options.sizes:
            results.append(measure(P, G, options.width, options.repeats, options.seed))
            print(row_of(results[-1]), flush=True)
    if options.json:
        settings = {"width": options.width, "repeats": options.repeats, "seed": options.seed}
        machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
        partial = options.json.with_name(options.json.name + ".part")
        partial.write_text(json.dumps({"settings": settings, "machine": machine, "results": results}, indent=1) + "\n")
        os.replace(partial, options.json)


if __name__ == "__main__":
    main()
