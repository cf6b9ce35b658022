"""Measures kept responses again with the metrics, tasks and rewards of today; nothing is sampled.

    python runs/rescore.py outputs/sweep -o rescored

Every evaluation below the folders (metrics.json beside groups.jsonl) is made anew with the encoders, the task or reward
and the equivalence that it records, under its own path in the folder of `-o`. The measures that a protocol adds are
left out. A quality or an equivalence by an LLM judge is not asked for again: the kept rewards stay, and the encoder's
threshold decides where there is one.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dqo.files.evaluation import read_metrics
from dqo.tasks import option_flags


def flags(document: dict[str, Any]) -> list[str]:
    """Returns the flags of `dqo eval` that the content of a metrics.json asks for."""
    scoring, equivalence = document.get("scoring") or {}, document.get("equivalence") or ""
    found = ["--encoder", document["encoder"], "--seed", str(document.get("seed", 0))]
    if document.get("trace_markers"):
        found += ["--trace-markers", document["trace_markers"]]
    if document.get("heldout_encoder"):
        found += ["--heldout-encoder", document["heldout_encoder"]]
    if document.get("task"):
        found += ["--task", document["task"], *option_flags(scoring.get("task_options") or {})]
    elif scoring.get("reward"):
        found += ["--reward", str(scoring["reward"])]
    if equivalence.startswith(("nli:", "noveltybench-1.0")):
        found += ["--equivalence", equivalence]
    return found


def main() -> int:
    """Rescores all that is found; returns 1 where one could not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of evaluations, or of runs that hold them")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the new evaluations")
    args = parser.parse_args()
    folders = [folder.resolve() for folder in args.folders]
    found = sorted({path.parent for folder in folders for path in folder.rglob("metrics.json")})
    above = os.path.commonpath([folder.parent for folder in folders])  # so that no two have one path below `-o`
    failed = []
    for evaluation in found:
        responses = evaluation / "groups.jsonl"
        out = args.out / evaluation.relative_to(above)
        command = [sys.executable, "-m", "dqo", "eval", "--responses", str(responses), "--out", str(out)]
        if (
            not responses.exists()
            or subprocess.run([*command, *flags(read_metrics(evaluation / "metrics.json"))]).returncode
        ):
            failed.append(evaluation)
    print(f"rescored: {len(found) - len(failed)} of {len(found)} evaluations, into {args.out}")
    for evaluation in failed:
        print(f"not rescored: {evaluation}")
    return 1 if failed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
