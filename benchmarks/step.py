"""One optimizer step: stock GRPOTrainer without a diversity term against DQOTrainer with it, on a CPU.

Run `python benchmarks/step.py` (hours on two cores; killed, the same command goes on where it stopped), or with
`--short` (minutes). Same model, prompts, forced completion length, dtype, threads and prompts a step in every arm;
every measurement in a process of its own, arms in turn. Two arms:

    stock     GRPOTrainer, in its fastest setting, and in its leanest where that is another (least memory within 1.1
              times the fastest time)
    shared    DQOTrainer as it comes, in whole groups

`comparison.py` says how stock's settings are screened, `worker.py` how lengths are forced. "div." is embedding plus
credit as a share of the step. "tok/s" counts completion tokens, each generated and trained on once. Peak memory is that
of the process, imports and encoder included. Growth is measured at 64 completion tokens and one prompt a step, stock in
the setting that was fastest at the listed shape nearest in prompt length.
"""

import argparse
from dataclasses import replace
from typing import Any

from comparison import (
    HEADER,
    Grid,
    add_options,
    compare_all,
    in_turn,
    line_of,
    lines_of,
    prompts_a_step,
    summary_of,
    write,
)
from measurements import Job, Measurements, Shape

SHAPES = [Shape(512, 64, 8), Shape(384, 48, 6), Shape(48, 32, 8), Shape(96, 256, 8), Shape(128, 512, 8)]
GROWTH = [Shape(48, 64, 8), Shape(48, 64, 16), Shape(512, 64, 8), Shape(512, 64, 16)]
SHORT_SHAPES = [Shape(48, 32, 8), Shape(512, 64, 8)]
SHORT_GRID = Grid(micro=(1, 4), checkpointing=(False,), engines=())


def grow(options: argparse.Namespace, measurements: Measurements, comparisons: list[dict]) -> dict[str, Any]:
    """Step time over prompt length and group size, stock and shared, and what one more response costs.

    Args:
        options: the command line.
        measurements: where results are kept.
        comparisons: of the listed shapes; stock's settings are taken from them.

    Returns:
        "rows", and "response_s": (t(G=16) - t(G=8)) / 8 in seconds by arm and prompt length.
    """
    rows = []
    for shape in GROWTH:
        nearest = min(comparisons, key=lambda c: abs(c["rows"][0]["shape"]["prompt"] - shape.prompt))
        chosen = Job.from_json(nearest["fastest"])
        stock = replace(
            chosen, shape=shape, prompts=1, micro=min(chosen.micro, shape.G), stage="timed", steps=options.steps
        )
        shared = replace(stock, arm="shared", micro=shape.G, checkpointing=False, engine="generate")
        arms = {name: job for name, job in (("stock", stock), ("shared", shared)) if name in options.growth}
        results = in_turn(measurements, arms, max(1, options.repeats))
        for name, job in arms.items():
            first = rows[-1] if name != next(iter(arms)) else None
            rows.append(summary_of(name, job, results[name], first))
    time = {(row["arm"], *row["shape"].values()): row["step_s"] for row in rows}
    response_s = {
        arm: {prompt: (time[arm, prompt, 64, 16] - time[arm, prompt, 64, 8]) / 8 for prompt in (48, 512)}
        for arm in options.growth
    }
    return {"rows": rows, "response_s": response_s}


def print_growth(growth: dict[str, Any]) -> None:
    """The table of growth and the cost of one more response."""
    print("\ngrowth\n" + HEADER)
    for row in growth["rows"]:
        print(line_of(row))
    for arm, cost in growth["response_s"].items():
        print(f"one more response, {arm}: {cost[48]:.3f} s at prompt 48, {cost[512]:.3f} s at prompt 512, "
              f"{cost[512] / cost[48]:.2f}x")  # fmt: skip


def grid_of(options: argparse.Namespace) -> Grid:
    """Stock's settings that the command line asks for."""
    checkpointing = (False,) if options.no_checkpointing else (False, True)
    return Grid(micro=tuple(options.micro), checkpointing=checkpointing, engines=tuple(options.engines))


def main() -> None:
    """Measure, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, SHAPES)
    parser.add_argument(
        "--dtype", choices=("float32", "bf16"), default="float32", help="bf16 is autocast, as TRL's bf16"
    )
    parser.add_argument("--engines", nargs="*", choices=("continuous",), default=["continuous"], metavar="NAME",
                        help="stock's engines screened beside generate: continuous (default) or none")  # fmt: skip
    parser.add_argument(
        "--no-checkpointing", action="store_true", help="screen stock without gradient checkpointing only"
    )
    parser.add_argument("--growth", nargs="*", choices=("stock", "shared"), default=["stock", "shared"], metavar="ARM",
                        help="arms whose growth is measured: stock, shared, both (default) or none")  # fmt: skip
    parser.add_argument("--short", action="store_true", help="two shapes, two settings of stock, one step, no growth")
    options = parser.parse_args()
    if options.short:
        options.shapes = [shape for shape in options.shapes if shape in SHORT_SHAPES] or options.shapes[:1]
        options.steps, options.repeats = 1, 0
        options.prompts = options.prompts or 1

    def base(shape: Shape) -> Job:
        return Job(
            arm="stock", shape=shape, prompts=prompts_a_step(shape, options.prompts), micro=1, dtype=options.dtype,
            model=options.model, threads=options.threads, steps=options.steps, seed=options.seed,
        )  # fmt: skip

    measurements = Measurements(options.out.with_suffix(".jsonl"))
    grid = SHORT_GRID if options.short else grid_of(options)
    comparisons = compare_all(options, measurements, base, grid)
    growth = None if options.short or not options.growth else grow(options, measurements, comparisons)
    write(options, measurements, comparisons=comparisons, growth=growth)
    print("\nmedians; speed-up against stock's fastest setting\n" + HEADER)
    for comparison in comparisons:
        print(*lines_of(comparison), sep="\n")
    if growth:
        print_growth(growth)
    print(f"\nwritten to {options.out}")


if __name__ == "__main__":
    main()
