"""Starts everything twice, interrupts it at random points, goes on, and counts what was lost: it must be nothing.

    python tests/helpers/storm.py POLICY --times 20                 # Ctrl-C: SIGINT to the process groups
    python tests/helpers/storm.py POLICY --times 20 --signal KILL   # kill -9

A tiny policy and the hashed encoder make a run last seconds, so that most interruptions fall into the moments that
matter: a checkpoint that is written, the last lines of a file. Every command runs as two forked processes in groups of
their own, begun a random time apart: one is refused (train, eval), or they share the work (sweep). Both are interrupted
after a random share of the time that the command takes undisturbed, and started again until it is done. With KILL, of a
sweep the signal hits the sweep, the process that works for it, or both. Each ending is compared with the undisturbed
one.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}

import yaml

from dqo.cli.main import main as dqo
from dqo.files.run import damage
from dqo.sweep import launch
from dqo.sweep import run as sweep  # noqa: F401  (imported before the first fork, so that no child has to)
from dqo.train import run as train  # noqa: F401  (imported before the first fork, so that no child has to)

WORDS = [
    "the",
    "a",
    "dog",
    "cat",
    "bird",
    "runs",
    "sings",
    "sleeps",
    "red",
    "blue",
    "green",
    "big",
    "small",
    "house",
    "and",
]
REWARD = """
def words(prompts, completions, **columns):
    return [min(1.0, len(set(text.split())) / 5) for text in completions]
"""


def make_inputs(policy: str, folder: Path) -> None:
    """Prompts, a reward, a recipe of 10 steps (4 updates a rollout, 2 epochs) and a sweep of 3 runs."""
    (folder / "policy").symlink_to(Path(policy).resolve())
    (folder / "reward.py").write_text(REWARD)
    for name, numbers in (("train", range(4)), ("unseen", range(4, 14))):
        prompts = [f"{WORDS[i]} {WORDS[i + 1]}" for i in numbers]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    trainer = {
        "use_cpu": True, "max_steps": 10, "num_generations": 4, "per_device_train_batch_size": 4,
        "steps_per_generation": 2, "num_iterations": 2, "gradient_accumulation_steps": 1, "save_steps": 1,
        "save_total_limit": 2, "learning_rate": 1e-2, "gradient_checkpointing": False,
    }  # fmt: skip
    recipe = {
        "model": str(folder / "policy"), "task": "jsonl", "algorithm": "ppo", "alpha": "auto", "vendi_target": 2.5,
        "task_options": {"reward": f"{folder / 'reward.py'}:words", "train": str(folder / "train.jsonl"),
                         "max_completion_length": 6},
        "output_dir": "unused", "encoder": "hashed", "trainer": trainer,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    short = recipe | {"algorithm": "grpo", "alpha": 1.0, "trainer": trainer | {"max_steps": 3}}
    del short["vendi_target"]
    (folder / "base.yaml").write_text(yaml.safe_dump(short))
    for name in ("whole", "disturbed"):
        document = {"base": str(folder / "base.yaml"), "output_dir": str(folder / f"sweep-{name}"), "seeds": [0],
                    "arms": {"dqo": {}}, "alphas": [0.5, 1.0],
                    "evaluation": {"data": str(folder / "unseen.jsonl"), "n": 4}}  # fmt: skip
        (folder / f"sweep-{name}.yaml").write_text(yaml.safe_dump(document))


def command(kind: str, inputs: Path, name: str) -> list[str]:
    """The command line of one kind of work, into a folder `<kind>-<name>`."""
    out = str(inputs / f"{kind}-{name}")
    if kind == "train":
        return ["train", str(inputs / "recipe.yaml"), f"output_dir={out}", "--resume"]
    if kind == "sweep":
        return ["sweep", str(inputs / f"sweep-{name}.yaml")]
    task = ["--task", "jsonl", "--task-option", f"reward={inputs / 'reward.py'}:words", "--max-new-tokens", "12"]
    data = ["--data", str(inputs / "unseen.jsonl"), "--n", "6", "--batch-size", "3", "--encoder", "hashed"]
    return ["eval", "--model", str(inputs / "policy"), *task, *data, "--out", out]


class Forked(subprocess.Popen):
    """What a sweep starts its stages with here: a fork that runs the command line, no new interpreter."""

    def __init__(self, argv, *, stdout, env, **_):
        self.returncode, self.args = None, argv
        self.pid = start(argv[3:], Path(stdout.name), env)

    def poll(self):
        """Exit status, None while it runs."""
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if done else None
        return self.returncode

    def wait(self, timeout=None):
        """Exit status once it has ended."""
        deadline = time.monotonic() + (3600 if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        return self.returncode

    def __del__(self, *_):
        """A stage may outlive its sweep."""


def start(argv: list[str], log: Path, env: dict[str, str] | None = None) -> int:
    """Run `dqo ARGV` in a fork, its output into a file; returns the process."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setpgid(0, 0)
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            signal.signal(number, handler)  # a test run in the background ignores Ctrl-C
        os.environ |= env or {}
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, 1), os.dup2(target, 2)
        names = {name: getattr(subprocess, name) for name in ("DEVNULL", "TimeoutExpired")}
        launch.subprocess = SimpleNamespace(Popen=Forked, **names)
        status = dqo(argv)
        sys.stdout.flush()  # the exit below does not
    except KeyboardInterrupt:  # before the command line took over: it ends as an interpreter does
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def working_for(process: int) -> list[int]:
    """Children of a process that are still there."""
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def strike(process: int, number: signal.Signals, dice: random.Random) -> None:
    """Interrupt the group of a process; kill a process, the one that works for it, or both."""
    if number == signal.SIGINT:
        os.killpg(process, number)
        return
    workers = working_for(process)
    hit = dice.choice(["command", "worker", "both"]) if workers else "command"
    for victim in ([process] if hit != "worker" else []) + (workers if hit != "command" else []):
        os.kill(victim, number)


def ended(process: int, seconds: float) -> int | None:
    """Exit status within so many seconds; None where it goes on."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def finished(folder: Path) -> dict[str, object]:
    """What a folder holds that is finished: whole checkpoints, sampled groups, evaluated runs, final policies."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith("checkpoint-") and path.is_dir() and damage(path) is None:
            found[name] = "whole"
        elif path.name == "final":
            found[name] = (path / "model.safetensors").read_bytes()
        elif path.name == "metrics.json":
            found[name] = path.read_bytes()
        elif path.name == "groups.jsonl" and not (path.parent / "metrics.json").exists():
            found[name] = {json.loads(line)["id"] for line in path.read_bytes().split(b"\n")[:-1]}
    return found


def lost(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """What was finished before and is no more; a checkpoint may make room for two newer ones."""
    gone = []
    for name, value in before.items():
        place, last = Path(name).parent, Path(name).name
        if last.startswith("checkpoint-"):
            others = [Path(other) for other in after if Path(other).parent == place and "checkpoint-" in other]
            kept = name in after or sum(int(other.name[11:]) > int(last[11:]) for other in others) >= 2
        elif last == "groups.jsonl":
            kept = value <= after.get(name, set()) or str(place / "metrics.json") in after
        else:
            kept = after.get(name) == value
        if not kept:
            gone.append(name)
    return gone


def ending(kind: str, folder: Path) -> object:
    """What must stay as it is: weights and log of a training, files of an evaluation, results of a sweep."""
    if kind == "train":
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        rows = [{name: value for name, value in row.items() if "time" not in name} for row in rows]
        files = sorted((folder / "checkpoints" / "final").glob("*.safetensors"))
        return rows, [path.read_bytes() for path in files]
    if kind == "eval":
        return [(folder / name).read_bytes() for name in ("groups.jsonl", "prompt_metrics.jsonl", "metrics.json")]
    results = json.loads((folder / "results.json").read_text())
    policies = sorted(folder.glob("runs/*/checkpoints/final/model.safetensors"))
    return results["points"], results["hypervolume"], [path.read_bytes() for path in policies]


def twice(
    kind: str, inputs: Path, log: Path, duration: float, number: signal.Signals, dice: random.Random
) -> tuple[list[int], int]:
    """Start a command twice and interrupt what still runs; returns the exit statuses and how many were interrupted."""
    running, statuses, hit = [], [], 0
    for wait in (dice.uniform(0, 0.5 * duration), dice.uniform(0, 0.8 * duration)):
        running.append(start(command(kind, inputs, "disturbed"), log))
        time.sleep(wait)
    for process in running:
        status = ended(process, 0.01)
        if status is None:
            strike(process, number, dice)
            hit += 1
            status = ended(process, 3600)  # a training finishes its step
        statuses.append(status)
    return statuses, hit


def storm(kind: str, inputs: Path, times: int, number: signal.Signals, dice: random.Random) -> dict[str, object]:
    """Work undisturbed once, then under interruptions, in as many rounds as they take; returns the counts."""
    log, begun = inputs / f"{kind}.log", time.monotonic()
    if ended(start(command(kind, inputs, "whole"), log), 3600) != 0:
        sys.exit(f"{kind} fails undisturbed: {log.read_text()[-2000:]}")
    duration, expected = time.monotonic() - begun, ending(kind, inputs / f"{kind}-whole")
    counts, gone, statuses = Counter({"interruptions": 0, "different endings": 0}), [], Counter()
    folder = inputs / f"{kind}-disturbed"
    while counts["interruptions"] < times:
        shutil.rmtree(folder, ignore_errors=True)
        before: dict[str, object] = {}
        found = [None]
        while 0 not in found:
            if counts["interruptions"] < times:
                found, hit = twice(kind, inputs, log, duration, number, dice)
                counts["interruptions"] += hit > 0
            else:
                found = [ended(start(command(kind, inputs, "disturbed"), log), 3600)]
            statuses.update(found)
            now = finished(folder) if folder.exists() else {}
            gone += lost(before, now)
            before = now
        counts["rounds"] += 1
        counts["different endings"] += ending(kind, folder) != expected
    return {"kind": kind, "undisturbed_s": round(duration, 1), **counts, "statuses": dict(statuses), "lost": gone}


# Done, refused because the other one works, interrupted, interrupted before the command line took over; killed; and of
# a sweep whose process was killed: a run failed.
EXPECTED = {signal.SIGINT: {0, 75, 130, -2}, signal.SIGKILL: {0, 1, 75, -9}}


def main() -> int:
    """Run the storm and print one JSON line a kind; 1 where something was lost or ended differently."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", help="folder of a tiny policy")
    parser.add_argument("--times", type=int, default=20, help="interruptions of each kind (default: %(default)s)")
    parser.add_argument("--signal", choices=("INT", "KILL"), default="INT", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="train,eval,sweep")
    args = parser.parse_args()
    sys.stdout.flush()
    failed, number = False, signal.Signals[f"SIG{args.signal}"]
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(args.policy, Path(folder))
        for kind in args.kinds.split(","):
            counts = storm(kind, Path(folder), args.times, number, random.Random(f"{args.seed} {kind}"))
            failed |= bool(counts["lost"]) or counts["different endings"] > 0
            print(json.dumps(counts), flush=True)
            if not set(counts["statuses"]) <= EXPECTED[number]:
                failed = True
                print((Path(folder) / f"{kind}.log").read_text(), file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
