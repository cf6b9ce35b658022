"""Measuring and reporting two runs of 2,000 prompts × 10 responses: seconds of each part, and the size of the page.

    python benchmarks/report.py                                              # all but the encoder's own time
    python benchmarks/report.py --encoder all-MiniLM-L6-v2 --prompts 200     # with it

Responses are random words of random letters with the frequencies of real text: they pack worse than real text does.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from dqo.embedders import load_embedder
from dqo.evaluation.run import evaluate
from dqo.files.records import Group, append_jsonl, read_groups
from dqo.report import write_report

VOCABULARY = 20_000
WIDTH = 384
PROMISED_SECONDS, PROMISED_BYTES = 60, 15_000_000


@contextmanager
def timed(what: str, found: dict[str, tuple[float, float]]) -> Iterator[None]:
    """Note wall and processor seconds of a part; on a busy machine only the second means something."""
    wall, processor = time.perf_counter(), time.process_time()
    yield
    found[what] = (time.perf_counter() - wall, time.process_time() - processor)
    print(f"{what:44} {found[what][0]:8.1f} s   {found[what][1]:8.1f} s of processor", flush=True)


class Drawn:
    """Random directions in place of an encoder, whose own time is then not measured."""

    name = "drawn"

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """(N, D) rows."""
        return torch.randn(len(texts), WIDTH, generator=self._generator)


def made_up(prompts: int, n: int, words: int, seed: int) -> list[Group]:
    """Groups of responses of about that many words, a third of a group copies of each other."""
    rng = random.Random(seed)
    letters = random.Random(0)  # the same vocabulary for every run
    vocabulary = ["".join(letters.choices("etaoinshrdlu", k=letters.randint(2, 9))) for _ in range(VOCABULARY)]
    weights = [1 / (rank + 3) for rank in range(VOCABULARY)]
    groups = []
    for p in range(prompts):
        fresh = [
            " ".join(rng.choices(vocabulary, weights, k=rng.randint(words // 2, 3 * words // 2))) for _ in range(n)
        ]
        texts = [fresh[0] if rng.random() < 1 / 3 else text for text in fresh]
        prompt = f"Prompt {p}: " + " ".join(random.Random(p).choices(vocabulary, weights, k=20))
        rewards = [round(rng.random(), 3) for _ in range(n)]
        groups.append(Group(f"p{p}", prompt, [], texts, ["eos"] * n, rewards, {}))
    return groups


def main() -> None:
    """Time every part and say whether the page keeps what is promised of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--words", type=int, default=40, help="of a response, on average (default: %(default)s)")
    parser.add_argument("--encoder", default="drawn", help="or a name as `dqo eval` takes it (default: random vectors)")
    parser.add_argument("--maps", type=int, default=100)
    args = parser.parse_args()
    encoder, found = Drawn() if args.encoder == "drawn" else load_embedder(args.encoder), {}
    encoder(["loaded before the clock starts"])
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / name for name in ("base", "trained")]
        for seed, run in enumerate(runs):
            groups = made_up(args.prompts, args.n, args.words, seed)
            with timed(f"metrics of {run.name} ({args.encoder})", found):
                evaluate(groups, encoder=encoder, heldout_encoder=Drawn(), out=run / "eval")
        for step in range(1, 1001):
            append_jsonl(runs[1] / "metrics.jsonl", {"step": step, "quality": step / 1000, "diversity/vendi": 5.0})
        page = Path(folder) / "report.html"
        with timed("report of both, without maps", found):
            write_report(runs, page, maps=0)
        with timed(f"report of both, {args.maps} maps", found):
            written = write_report(
                runs, page, encoder="hashed" if args.encoder == "drawn" else args.encoder, maps=args.maps
            )
        responses = sum(len(group.responses) for run in runs for group in read_groups(run / "eval" / "groups.jsonl"))
    seconds = found[f"report of both, {args.maps} maps"][0]
    facts = {"prompts": written["prompts"], "responses": responses, "page_MB": round(written["bytes"] / 1e6, 2),
             "report_s": round(seconds, 1), "notes": written["notes"]}  # fmt: skip
    print(json.dumps(facts))
    if seconds > PROMISED_SECONDS or written["bytes"] > PROMISED_BYTES:
        sys.exit(f"expected at most {PROMISED_SECONDS} s and {PROMISED_BYTES / 1e6:.0f} MB.")


if __name__ == "__main__":
    main()
