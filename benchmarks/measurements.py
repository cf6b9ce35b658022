"""Measurements in processes of their own, kept in a JSON-lines file so that none is made twice.

This module loads no torch: Linux hands a new process the peak memory of the one that started it, so that a heavy
driver would show up in the figures of every worker.
"""

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("worker.py")
PACKAGES = ("torch", "transformers", "trl", "accelerate", "sentence-transformers")
LIMIT_S = 2 * 3600  # a measurement that takes longer has hung


@dataclass(frozen=True)
class Shape:
    """Tokens of every prompt, tokens of every completion, and G, the completions a prompt."""

    prompt: int
    completion: int
    G: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """From "512,64,8"."""
        return cls(*map(int, text.split(",")))

    def __str__(self) -> str:
        return f"({self.prompt}, {self.completion}, {self.G})"


@dataclass(frozen=True)
class Job:
    """All that decides one measurement.

    Attributes:
        arm: "stock" (GRPOTrainer, no diversity term), "unshared" or "shared" (DQOTrainer without and with
            shared_prefix).
        shape: lengths and group size, forced.
        prompts: P, prompts an optimizer step.
        micro: rows in one forward and backward pass; the passes of a step add up to its P*G rows.
        checkpointing: recompute activations in the backward pass.
        engine: "generate" (the trainer's default path) or "continuous" (transformers' continuous batching).
        dtype: "float32", or "bf16" for autocast.
        model: name or folder of the policy.
        encoder: name or folder of the encoder of the two arms that have one.
        threads: CPU threads.
        steps: optimizer steps measured, after one that is not.
        seed: of prompts and sampling.
        stage: "screen" chooses stock's settings, "timed" compares.
        repeat: number of this process among equal ones.
    """

    arm: str
    shape: Shape
    prompts: int
    micro: int
    checkpointing: bool = False
    engine: str = "generate"
    dtype: str = "float32"
    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    encoder: str = "all-MiniLM-L6-v2"
    threads: int = 1
    steps: int = 1
    seed: int = 0
    stage: str = "timed"
    repeat: int = 0

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The job that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**fields | {"shape": Shape(**fields["shape"])})

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def rows(self) -> int:
        """P*G, completions an optimizer step."""
        return self.prompts * self.shape.G

    @property
    def setting(self) -> str:
        """What was chosen, in words."""
        words = [f"{self.micro} rows a pass"]
        words += ["checkpointing"] if self.checkpointing else []
        words += ["continuous batching"] if self.engine == "continuous" else []
        return ", ".join(words)


class Measurements:
    """Measurements made, and those in a file from a run before this one.

    Args:
        path: JSON-lines file, one measurement a line; made where there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.environment = path, environment()
        self.results: dict[str, dict] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        whole, _, torn = text.rpartition("\n")
        if torn:  # the last run was killed while it wrote
            path.write_text(whole + "\n" if whole else "")
        for line in whole.splitlines():
            record = json.loads(line)
            self.results[record["key"]] = record["result"]

    def known(self, job: Job) -> dict | None:
        """The result of this job under these versions on this machine, or None."""
        return self.results.get(self._key(job))

    def take(self, job: Job) -> dict:
        """The result of a job, from the file or from a new process.

        Args:
            job: what to measure.

        Returns:
            What `worker.measure` returns, or {"error": sentence} where the process failed. While settings are screened
            a failure is kept and not tried again: running out of memory is an answer there.
        """
        key = self._key(job)
        if key in self.results:
            return self.results[key]
        result = run_worker(job)
        if "error" not in result or job.stage == "screen":
            self.results[key] = result
            record = {"key": key, "job": json.loads(job.to_json()), "environment": self.environment, "result": result}
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        return result

    def _key(self, job: Job) -> str:
        """Stock's screening stays valid when our own code changes; a comparison does not."""
        leave_out = {"commit"} if job.stage == "screen" else set()
        return job.to_json() + json.dumps({k: v for k, v in self.environment.items() if k not in leave_out})


def run_worker(job: Job) -> dict[str, Any]:
    """One measurement in a new process: its result, or {"error": sentence}."""
    env = os.environ | {"OMP_NUM_THREADS": str(job.threads), "TOKENIZERS_PARALLELISM": "false"}
    try:
        process = subprocess.run(
            [sys.executable, str(WORKER), job.to_json()], capture_output=True, text=True, env=env, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {LIMIT_S} s"}
    if process.returncode < 0:
        return {"error": f"killed by signal {-process.returncode}, as happens when memory runs out"}
    if process.returncode:
        return {"error": (process.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(process.stdout.splitlines()[-1])


def environment() -> dict[str, Any]:
    """Machine, versions and commit."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """Short hash, with a plus where the code differs from it; "unknown" outside a repository."""
    try:
        head, changes = (
            subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "src", "benchmarks"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changes else "")
