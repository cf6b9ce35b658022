"""Times a tiny optimizer step on another commit and on this tree, in turn, and prints the ratio with its interval.

    python benchmarks/step_ratio.py --against REV [--kind grpo] [--pairs 40]

Two processes hold a trainer each, one with the package of REV, one with this tree's, and take a few steps in turn, so
that whatever else the machine does meets both. A pair is one such turn each, in alternating order. With the
tiny policy nearly all of the time is Python's and TRL's, which is what a change of structure can cost. The interval is
the 95 % bootstrap interval of the median ratio over the pairs. With nothing else running.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import golden

STEPS = 5  # per turn
WARM_UP = 2  # turns left out


def serve(kind: str, folder: Path) -> None:
    """Trains for ever, STEPS steps at every line on stdin, and writes how long these took."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        """Waits for its turn before the first of STEPS steps."""

        start = 0.0

        def on_step_begin(self, args, state, control, **kwargs):
            """Wait, at the first step of a turn."""
            if state.global_step % STEPS == 0:
                if not sys.stdin.readline():
                    os._exit(0)
                self.start = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            """Answer, at the last."""
            if state.global_step % STEPS == 0:
                print(f"turn {time.perf_counter() - self.start}", flush=True)

    trainer = golden.build_trainer(kind, folder, max_steps=10**6, logging_steps=10**6, learning_rate=1e-5)
    trainer.add_callback(Turns())
    trainer.train()


class Worker:
    """One process with the package of one tree."""

    def __init__(self, tree: Path, kind: str, folder: Path) -> None:
        folder.mkdir()
        env = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(Path(__file__).resolve()), "--child", str(folder), "--kind", kind]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=env, cwd=folder, text=True, **pipes)

    def turn(self) -> float:
        """Seconds of STEPS steps."""
        print(file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("turn "):
                return float(line.split()[1])
        sys.exit("a trainer ended; run benchmarks/golden.py to see why")


def interval(ratios: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(5000))
    return medians[125], medians[-126]


def main() -> None:
    """Compare, or serve as a child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", help="commit to compare with")
    parser.add_argument("--kind", choices=golden.RUNS, default="grpo")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return serve(options.kind, options.child)
    if not options.against:
        parser.error("--against: expected a commit to compare with")
    with tempfile.TemporaryDirectory() as folder, golden.tree_of(options.against, Path(folder) / "base") as base:
        workers = [Worker(tree, options.kind, Path(folder) / name) for name, tree in (("b", base), ("h", golden.ROOT))]
        ratios, times = [], [[], []]
        for pair in range(-WARM_UP, options.pairs):
            found = {i: workers[i].turn() for i in ((0, 1) if pair % 2 else (1, 0))}
            if pair >= 0:
                ratios.append(found[1] / found[0])
                for i in found:
                    times[i].append(found[i] / STEPS)
        for worker in workers:
            worker.process.stdin.close()
            worker.process.wait()
    before, after = map(statistics.median, times)
    low, high = interval(ratios)
    milliseconds = f"{before * 1000:.1f} ms a step before, {after * 1000:.1f} ms now"
    ratio = f"{statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]"
    print(f"{options.kind}: {milliseconds}; ratio {ratio}, {options.pairs} pairs of {STEPS} steps")


if __name__ == "__main__":
    main()
