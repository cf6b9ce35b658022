"""Stock's best settings by screening, arms in turn, medians and ratios.

Stock is screened in two rounds. Micro-batch and gradient checkpointing change the update alone, the generation engine
changes the rollout alone, so the full product is not needed: first every micro-batch with and without checkpointing on
the default engine, then every other engine at the fastest of those. Where another engine wins, the settings of the
first round that can still be within `LEAN` of the fastest are measured with it too, so that the leanest is one that was
measured.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from measurements import Job, Measurements, Shape

LEAN = 1.1  # the leanest setting may take this many times as long as the fastest
HEAVY = 5000  # tokens of a group from which one prompt a step is enough to measure
MEMORY = "peak_mb"


@dataclass(frozen=True)
class Grid:
    """Stock's settings to be screened: rows a pass, checkpointing, engines beside `generate`."""

    micro: tuple[int, ...] = (1, 2, 4, 8, 16)
    checkpointing: tuple[bool, ...] = (False, True)
    engines: tuple[str, ...] = ("continuous",)


def prompts_a_step(shape: Shape, wanted: int | None) -> int:
    """P: what was asked for, otherwise 2, or 1 where a group is long."""
    return wanted or (1 if shape.G * (shape.prompt + shape.completion) > HEAVY else 2)


def add_options(parser: argparse.ArgumentParser, shapes: list[Shape]) -> None:
    """The options of step.py and their defaults."""
    parser.add_argument("--shapes", type=Shape.parse, nargs="+", default=shapes, metavar="P,T,G",
                        help="prompt tokens, completion tokens, completions a prompt")  # fmt: skip
    parser.add_argument("--prompts", type=int, help=f"prompts a step (default 2; 1 for groups over {HEAVY} tokens)")
    parser.add_argument("--steps", type=int, default=2, help="steps measured in a process, after one warm-up")
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="processes of each arm, arms in turn; 0: the one step in which stock was screened, ours and growth once",
    )
    parser.add_argument("--micro", type=int, nargs="+", default=list(Grid.micro), metavar="N",
                        help="stock's micro-batches to be screened (default: %(default)s)")  # fmt: skip
    parser.add_argument("--model", default=Job.model, help=f"policy (default {Job.model})")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    parser.add_argument("--seed", type=int, default=0, help="of prompts and sampling")
    parser.add_argument("--out", type=Path, default=Path("outputs") / "step.json",
                        help="results; measurements stand beside it in a .jsonl file and are not repeated")  # fmt: skip


def measured(measurements: Measurements, job: Job) -> dict:
    """The job's result, with a line before and after, because one can take minutes."""
    known = measurements.known(job) is not None
    print(f"  {job.stage:<6} {job.shape!s:<16} {job.arm:<9} {job.setting:<42}", end="", flush=True)
    result = measurements.take(job)
    words = f"failed: {result['error']}" if "error" in result else f"{seconds(result):8.2f} s  {result[MEMORY]:8.0f} MB"
    print(words + (" (known)" if known else ""), flush=True)
    return result


def seconds(result: dict) -> float:
    """Median step time of one process."""
    return statistics.median(result["step_s"])


def screen(measurements: Measurements, base: Job, grid: Grid) -> tuple[Job, Job, dict[Job, dict]]:
    """Stock's settings for one shape.

    Args:
        measurements: where results are kept.
        base: shape, prompts and dtype.
        grid: what to try.

    Returns:
        The fastest job; the leanest, which takes at most `LEAN` times as long; and the result of every job tried.

    Raises:
        SystemExit: no setting works.
    """
    base = replace(base, arm="stock", stage="screen", steps=1)
    tried: dict[Job, dict] = {}

    def attempt(jobs: list[Job]) -> None:
        for job in jobs:
            tried.setdefault(job, measured(measurements, job))

    def fastest() -> Job:
        works = [job for job in tried if "error" not in tried[job]]
        if not works:
            raise SystemExit(f"expected a setting in which stock TRL runs {base.shape}, but all failed, the last with: "
                             f"{tried[next(reversed(tried))]['error']}")  # fmt: skip
        return min(works, key=lambda job: seconds(tried[job]))

    micro = [m for m in grid.micro if m <= base.rows and base.rows % m == 0]
    attempt([replace(base, micro=m, checkpointing=c) for c in grid.checkpointing for m in micro])
    first = fastest()
    attempt([replace(first, engine=engine) for engine in grid.engines])
    best = fastest()
    if best.engine != first.engine:
        gain = seconds(tried[first]) - seconds(tried[best])
        near = [job for job, result in tried.items() if job.engine == first.engine and "error" not in result
                and seconds(result) - gain <= LEAN * seconds(tried[best])]  # fmt: skip
        attempt([replace(job, engine=best.engine) for job in near if job != first])
        best = fastest()
    lean = [job for job, result in tried.items()
            if "error" not in result and seconds(result) <= LEAN * seconds(tried[best])]  # fmt: skip
    leanest = min(lean, key=lambda job: tried[job][MEMORY])
    return best, leanest, tried


def arms_of(fastest: Job, leanest: Job, steps: int) -> dict[str, Job]:
    """The jobs to compare: ours with as many rows a pass as stock's fastest, in whole groups, on its own engine."""
    base = replace(fastest, stage="timed", steps=steps)
    arms = {"stock": base}
    if leanest != fastest:
        arms["stock, leanest"] = replace(leanest, stage="timed", steps=steps)
    micro = max(base.micro, base.shape.G)
    arms["shared"] = replace(base, arm="shared", micro=micro, checkpointing=False, engine="generate")
    return arms


def in_turn(measurements: Measurements, arms: dict[str, Job], repeats: int) -> dict[str, list[dict]]:
    """Every arm once, then every arm again: a busy minute of the machine hits all alike.

    Args:
        measurements: where results are kept.
        arms: jobs by name.
        repeats: rounds.

    Returns:
        Results by arm, one a round.

    Raises:
        SystemExit: a process failed.
    """
    results: dict[str, list[dict]] = {name: [] for name in arms}
    for repeat in range(repeats):
        for name, job in arms.items():
            result = measured(measurements, replace(job, repeat=repeat))
            if "error" in result:
                raise SystemExit(f"{name} at {job.shape}, {job.setting}: {result['error']}")
            results[name].append(result)
    return results


def summary_of(arm: str, job: Job, results: list[dict], reference: dict | None = None) -> dict[str, Any]:
    """Medians over all measured steps of all processes; `speedup` is against the reference's step time."""
    steps = [step for result in results for step in result["step_s"]]
    spans = {name: statistics.median(r["spans"][name] for r in results) for name in results[0]["spans"]}
    step_s = statistics.median(steps)
    summary = {
        "arm": arm,
        "shape": asdict(job.shape),
        "prompts": job.prompts,
        "setting": job.setting,
        "step_s": step_s,
        "all_step_s": steps,
        "tokens_per_s": job.rows * job.shape.completion / step_s,
        MEMORY: statistics.median(result[MEMORY] for result in results),
        "spans": spans,
        "speedup": reference["step_s"] / step_s if reference else 1.0,
    }
    if spans:
        summary["diversity_share"] = (spans["time/embed"] + spans["time/credit"]) / step_s
    return summary


def compare(measurements: Measurements, base: Job, grid: Grid, repeats: int) -> dict[str, Any]:
    """Screens stock at one shape and compares the arms there: the choices, and a summary of each arm.

    With no repeats, as in a short form, stock's figures are those of the screening, one step, and our arms are measured
    once.
    """
    fastest, leanest, tried = screen(measurements, base, grid)
    arms = arms_of(fastest, leanest, base.steps)
    if repeats:
        results = in_turn(measurements, arms, repeats)
    else:
        stock = {
            name: [tried[replace(job, stage="screen", steps=1)]] for name, job in arms.items() if job.arm == "stock"
        }
        results = stock | in_turn(measurements, {name: job for name, job in arms.items() if job.arm != "stock"}, 1)
    rows: list[dict] = []
    for name, job in arms.items():
        rows.append(summary_of(name, job, results[name], rows[0] if rows else None))
    lean = next((row for row in rows if row["arm"] == "stock, leanest"), rows[0])
    return {
        "rows": rows,
        "fastest": fastest.to_json(),
        "screened": [{"setting": job.setting, **result} for job, result in tried.items()],
        "memory_against_leanest": rows[-1][MEMORY] / lean[MEMORY],
    }


HEADER = (
    f"{'shape':<16} {'P':>2} {'arm':<14} {'step s':>8} {'speed-up':>8} {'tok/s':>8} {'peak MB':>8} {'div.':>6}  setting"
)


def line_of(row: dict[str, Any]) -> str:
    """One line of the table."""
    share = f"{row['diversity_share']:.1%}" if "diversity_share" in row else "-"
    return (
        f"{Shape(**row['shape'])!s:<16} {row['prompts']:>2} {row['arm']:<14} {row['step_s']:>8.2f} "
        f"{row['speedup']:>7.2f}x {row['tokens_per_s']:>8.1f} {row[MEMORY]:>8.0f} {share:>6}  {row['setting']}"
    )


def lines_of(comparison: dict[str, Any]) -> Iterator[str]:
    """The table of one shape, and its memory against stock's."""
    yield from map(line_of, comparison["rows"])
    yield f"{'':<16}    shared: {comparison['memory_against_leanest']:.2f} of the memory of stock's leanest setting"


def write(options: argparse.Namespace, measurements: Measurements, **results: Any) -> None:
    """Settings, environment and results into --out, whole or not at all."""
    settings = vars(options) | {"out": str(options.out), "shapes": [asdict(shape) for shape in options.shapes]}
    document = {"settings": settings, "environment": measurements.environment, **results}
    partial = options.out.with_name(options.out.name + ".part")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(partial, options.out)


def compare_all(
    options: argparse.Namespace, measurements: Measurements, base: Callable[[Shape], Job], grid: Grid
) -> list[dict[str, Any]]:
    """Every shape; the file is written after each, the table at the end."""
    comparisons: list[dict[str, Any]] = []
    for number, shape in enumerate(options.shapes, 1):
        print(f"shape {number} of {len(options.shapes)}: {shape}", flush=True)
        comparisons.append(compare(measurements, base(shape), grid, options.repeats))
        write(options, measurements, comparisons=comparisons)
    return comparisons
