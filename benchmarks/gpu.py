"""One optimizer step on a CUDA device, in bf16: the arms of step.py, and how much of the card's matrix rate they use.

Run `python benchmarks/gpu.py`. Stock's engines are `generate`, continuous batching and, where it is installed, vLLM in
the same process. Where vLLM is the fastest, it generates in every arm: it shares prompts itself. Peak memory is that
of torch's tensors on the device, vLLM's included.

"of card" is the work a step needs over what the card could have done in that time. Needed, the same in every arm: each
prompt token once and each completion token once through the layers, completion tokens through the output head as well,
2 operations a parameter in the rollout and 6 in forward and backward; attention is left out. The card's rate is
measured here, with a large bf16 matrix product.
"""

import argparse
import statistics
import sys
import time
from importlib.util import find_spec
from typing import Any

from comparison import HEADER, Grid, add_options, compare_all, lines_of, prompts_a_step, write
from measurements import Job, Measurements, Shape

SHAPES = [Shape(48, 32, 8), Shape(512, 64, 8), Shape(1024, 64, 4), Shape(512, 64, 16), Shape(128, 512, 8)]
WIDTH = 8192


def matrix_rate() -> float:
    """Operations a second of a square bf16 product, the median of 20."""
    import torch

    A = torch.randn(WIDTH, WIDTH, device="cuda", dtype=torch.bfloat16)  # (WIDTH, WIDTH)
    times = []
    for _ in range(25):
        torch.cuda.synchronize()
        start = time.perf_counter()
        A @ A
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * WIDTH**3 / statistics.median(times[5:])


def work_of_step(row: dict[str, Any], parameters: dict[str, int]) -> float:
    """Operations that a step needs when nothing is computed twice."""
    shape = Shape(**row["shape"])
    completion = row["prompts"] * shape.G * shape.completion
    prompt = row["prompts"] * shape.prompt
    return (2 + 6) * (parameters["layers"] * (prompt + completion) + parameters["head"] * completion)


def main() -> None:
    """Measure, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, SHAPES, "gpu")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit(
            "expected a CUDA device, but torch sees none; run this where there is one, or benchmarks/step.py here."
        )
    rate, card = matrix_rate(), torch.cuda.get_device_name()
    torch.cuda.empty_cache()
    print(f"{card}: {rate / 1e12:.0f} TFLOP/s measured, bf16, {WIDTH} x {WIDTH}")

    def base(shape: Shape) -> Job:
        return Job(
            arm="stock", shape=shape, prompts=prompts_a_step(shape, options.prompts), micro=1, dtype="bf16",
            device="cuda", model=options.model, threads=options.threads, steps=options.steps, seed=options.seed,
        )  # fmt: skip

    measurements = Measurements(options.out.with_suffix(".jsonl"))
    measurements.environment["card"] = card
    engines = ("continuous", "vllm") if find_spec("vllm") else ("continuous",)
    comparisons = compare_all(options, measurements, base, Grid(micro=tuple(options.micro), engines=engines))
    print("\nmedians; speed-up against stock's fastest setting\n" + HEADER)
    for comparison in comparisons:
        for row in comparison["rows"]:
            row["of_card"] = work_of_step(row, comparison["parameters"]) / row["step_s"] / rate
        print(*lines_of(comparison), sep="\n")
        print(f"{'':<19} of card: " + ", ".join(f"{row['arm']} {row['of_card']:.2%}" for row in comparison["rows"]))
    write(options, measurements, comparisons=comparisons, card={"name": card, "flop_per_s": rate})
    print(f"\nwritten to {options.out}")


if __name__ == "__main__":
    main()
