"""Evaluation and report at scale: seconds and memory of each stage for 10,000 prompts × 64 responses of 40 words.

    python benchmarks/evaluation_scale.py                      # one run at full size; encoders are not measured
    python benchmarks/evaluation_scale.py --prompts 300        # a minute
    python benchmarks/evaluation_scale.py --runs 2 --n 10 --encoder all-MiniLM-L6-v2 --prompts 200

Random directions stand for the vectors of both encoders unless one is named. Responses are random words of random
letters with the frequencies of real text, a third of a group copies of each other: they pack worse than real text.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np
import torch

from dqo.embedders import load_embedder
from dqo.evaluation.run import evaluate
from dqo.files.records import Group, append_jsonl, read_groups, write_groups
from dqo.report import write_report

VOCABULARY = 100_000
WIDTH = 384
# What is promised of one run of 10,000 × 64: seconds of one core, bytes of memory and of the page.
EVALUATION_SECONDS, REPORT_SECONDS, PEAK_MB, PAGE_MB = 300, 60, 3000, 15


class Drawn:
    """Random directions in place of an encoder, whose own time is then not measured."""

    name = "drawn"

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """(N, D) rows."""
        return torch.randn(len(texts), WIDTH, generator=self._generator)


def made_up(prompts: int, n: int, words: int, seed: int) -> Iterator[Group]:
    """Groups of responses of about that many words."""
    letters, rng = Random(0), np.random.default_rng(seed)  # the same vocabulary for every run
    vocabulary = ["".join(letters.choices("etaoinshrdlu", k=letters.randint(2, 9))) for _ in range(VOCABULARY)]
    weights = np.cumsum(1 / (np.arange(VOCABULARY) + 3))

    def text(length: int, source: np.random.Generator = rng) -> str:
        places = np.searchsorted(weights, weights[-1] * source.random(length))  # (length,)
        return " ".join([vocabulary[place] for place in places.tolist()])

    for p in range(prompts):
        fresh = [text(length) for length in rng.integers(words // 2, 3 * words // 2, size=n, endpoint=True)]
        responses = [fresh[0] if copied else own for own, copied in zip(fresh, rng.random(n) < 1 / 3, strict=True)]
        prompt = f"Prompt {p}: {text(20, np.random.default_rng(p))}"
        yield Group(f"p{p}", prompt, [], responses, ["eos"] * n, rng.random(n).round(3).tolist(), {})


@contextmanager
def stage(name: str, table: dict[str, dict[str, float]]) -> Iterator[None]:
    """Notes seconds of the clock and of the processor, and the peak memory of the process so far."""
    clock, processor = time.perf_counter(), time.process_time()
    yield
    wall, used = time.perf_counter() - clock, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    table[name] = {"wall_s": round(wall, 1), "processor_s": round(used, 1), "peak_MB": round(peak)}
    print(f"{name:24} {wall:9.1f} {used:14.1f} {peak:9.0f}", flush=True)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Makes, evaluates and reports the runs in a folder: stage -> its numbers, the page's bytes under "page"."""
    table: dict[str, dict[str, float]] = {}
    named = options.encoder != "drawn"
    encoder = load_embedder(options.encoder) if named else Drawn(0)
    encoder(["loaded before the clock starts"])
    print(f"{'stage':24} {'seconds':>9} {'of processor':>14} {'peak MB':>9}")
    runs = [folder / f"run{seed}" for seed in range(options.runs)]
    for seed, run in enumerate(runs):
        made = run / "responses.jsonl"
        with stage(f"making {run.name}", table):
            write_groups(made, made_up(options.prompts, options.n, options.words, seed))
        with stage(f"reading {run.name}", table):
            groups = read_groups(made)
        with stage(f"evaluating {run.name}", table):
            evaluate(groups, encoder=encoder, heldout_encoder=Drawn(1), out=run / "eval")
        del groups
    for step in range(1, 1001):
        append_jsonl(runs[-1] / "metrics.jsonl", {"step": step, "quality": step / 1000, "diversity/vendi": 5.0})
    with stage("report", table):
        written = write_report(
            runs, folder / "report.html", encoder=options.encoder if named else "hashed", maps=options.maps
        )
    table["page"] = {"MB": round(written["bytes"] / 1e6, 2)}
    print(f"page: {written['bytes'] / 1e6:.1f} MB", *written["notes"], sep="\n")
    return table


def missed(table: dict[str, dict[str, float]]) -> list[str]:
    """What is over the promised figures, in sentences."""
    seconds = {name: row["processor_s"] for name, row in table.items() if name != "page"}
    evaluation = max(seconds[f"reading {run}"] + seconds[f"evaluating {run}"] for run in (
        name.removeprefix("evaluating ") for name in seconds if name.startswith("evaluating ")))  # fmt: skip
    found = {
        "seconds of processor to read and evaluate a run": (evaluation, EVALUATION_SECONDS),
        "seconds of processor for the report": (seconds["report"], REPORT_SECONDS),
        "MB of memory": (max(row.get("peak_MB", 0) for row in table.values()), PEAK_MB),
        "MB of page": (table["page"]["MB"], PAGE_MB),
    }
    return [f"expected at most {most} {what}, got {value}" for what, (value, most) in found.items() if value > most]


def main() -> None:
    """Prints the table, keeps it with --json, and exits with what misses the promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--n", type=int, default=64, help="responses per prompt (default: %(default)s)")
    parser.add_argument("--words", type=int, default=40, help="of a response, on average (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="evaluations on the page (default: %(default)s)")
    parser.add_argument("--encoder", default="drawn", help="a name as `dqo eval` takes it (default: random vectors)")
    parser.add_argument("--maps", type=int, default=100, help="prompts with a map on the page (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings and table here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        table = measure(options, Path(folder))
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({"settings": settings, "stages": table}, indent=1) + "\n")
    if over := missed(table):
        sys.exit("; ".join(over) + ".")


if __name__ == "__main__":
    main()
