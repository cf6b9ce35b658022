"""`dqo sweep`: arms × alphas × seeds from one file -> one table, one front."""

import argparse
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module

import torch

from dqo.embedders import load_embedder
from dqo.errors import DataError, RecipeError
from dqo.files.jsonio import is_number
from dqo.files.records import Prompt, write_text
from dqo.files.run import check_unchanged, owning, read_steps
from dqo.settings.yaml import to_yaml
from dqo.sweep.plan import BASE, Run, Sweep, check_evaluation, read_sweep
from dqo.sweep.plots import write_plots
from dqo.sweep.results import read_evaluations, summarise, write_tables
from dqo.sweep.schedule import LOCK, Job, Stage, run_jobs
from dqo.train.folder import RunFolder
from dqo.train.recipe import nested_settings, read_settings

# To evaluate and to write the results, after hours of training.
_NEEDED_LATE = ("matplotlib", "moocore", "numpy", "pandas", "rich", "rouge_score", "sacrebleu", "scipy", "tqdm")
_SAVING = 300.0  # seconds that a large checkpoint may take
DQO = [sys.executable, "-m", "dqo"]  # what runs a stage


def run(args: argparse.Namespace) -> int:
    """Does what is not done, then writes the results of all that is."""
    for package in _NEEDED_LATE:
        import_module(package)
    sweep, prompts = read_sweep(args.file)
    chosen = _chosen(sweep, args.only)
    for one in sweep.runs:
        _check_folder(one, sweep)
    _, wrong = read_evaluations(sweep.runs, sweep.evaluation, prompts)
    for sentence in wrong.values():  # now, not after hours of training
        _say(f"left out of the results: {sentence}")
    if args.dry_run:
        print(_plan(sweep, chosen))
        return 0
    if any(not _evaluated(one, sweep) for one in chosen):
        _check_encoders(sweep)
    _say(f"{sum(_evaluated(one, sweep) for one in chosen)} of {len(chosen)} runs are done already")
    errors = run_jobs(
        # done ones too, because a kill may have come before their checkpoints were tidied
        [_job(one, sweep) for one in chosen],
        slots=args.jobs,
        environment=environments(args.jobs, args.threads_per_job),
        say=_say,
    )
    errors = _report(sweep, prompts, errors)
    for name, error in errors.items():
        _say(f"failed: {name}: {error}")
    return 1 if errors else 0


# A misspelt name should not show after the first training.
def _check_encoders(sweep: Sweep) -> None:
    for name in (sweep.evaluation.encoder, sweep.evaluation.heldout_encoder):
        if name is not None and not name.startswith("policy:"):  # whose weights may be large
            load_embedder(name)


def _chosen(sweep: Sweep, only: Sequence[str]) -> list[Run]:
    arms = list(dict.fromkeys(one.arm for one in sweep.runs))
    for arm in only:
        if arm not in arms:
            raise RecipeError(f"--only {arm!r}: expected one of the arms {', '.join(arms)}; correct the name.")
    return [one for one in sweep.runs if not only or one.arm in only]


def _check_folder(one: Run, sweep: Sweep) -> None:
    check_evaluation(one, sweep.evaluation)
    if one.recipe.exists():
        before = read_settings(one.recipe)
        now = dict.fromkeys(before) | one.settings
        remedy = "set it back, delete that run folder, or set output_dir to another folder"
        check_unchanged(one.recipe, before, now, "the recipe of this sweep", remedy)


def _plan(sweep: Sweep, chosen: list[Run]) -> str:
    width = max(len(one.name) for one in chosen)
    lines = [f"{one.name:{width}}  {_state(one, sweep)}" for one in chosen]
    done = sum(_evaluated(one, sweep) for one in chosen)
    evaluation = [f"{name} {value}" for name, value in sweep.evaluation if value not in (None, {})]
    return "\n".join(
        [*lines, "", f"{len(chosen)} runs in {sweep.output_dir}, {done} done.", f"evaluation: {', '.join(evaluation)}"]
    )


def _state(one: Run, sweep: Sweep) -> str:
    if _evaluated(one, sweep):
        return "done"
    if one.arm == BASE or RunFolder(one.folder).final.is_dir():
        begun = (one.folder / sweep.evaluation.folder / "groups.jsonl").exists()
        return "evaluation to be continued" if begun else "to be evaluated"
    newest = RunFolder(one.folder).newest_checkpoint()
    return f"training to be continued from {newest.name}" if newest else "to be trained and evaluated"


def _evaluated(one: Run, sweep: Sweep) -> bool:
    return (one.folder / sweep.evaluation.folder / "metrics.json").exists()


def _job(one: Run, sweep: Sweep) -> Job:
    evaluation = sweep.evaluation
    out = one.folder / evaluation.folder
    training = Stage(
        "training",
        [*DQO, "train", str(one.recipe), "--resume"],
        one.folder / "train.log",
        # checkpoints may have been deleted after the evaluation, which does not make the run undone
        lambda: RunFolder(one.folder).final.is_dir() or _evaluated(one, sweep),
        one.folder,
        lambda: _write_recipe(one),
        lambda: _patience(one),
    )
    model = sweep.model if one.arm == BASE else str(one.folder)
    evaluating = Stage(
        "evaluation",
        [*DQO, "eval", "--model", model, *evaluation.flags(), "--out", str(out)],
        one.folder / f"{evaluation.folder}.log",
        lambda: _evaluated(one, sweep),
        out,
        lambda: _claim(one, sweep),
    )
    stages = [evaluating] if one.arm == BASE else [training, evaluating]
    return Job(one.name, one.folder, stages, lambda: _tidy(one, sweep.keep))


# Long enough to finish a step, as the log knows it, and to save it.
def _patience(one: Run) -> float:
    log = RunFolder(one.folder).metrics
    with suppress(DataError):  # a log that cannot be read says as little as none: the training is waited for
        steps = [row["time/step"] for row in read_steps(log) if is_number(row.get("time/step"))]
        return _SAVING + 3 * max(steps, default=math.inf)
    return math.inf


def _claim(one: Run, sweep: Sweep) -> None:
    check_evaluation(one, sweep.evaluation, claim=True)
    if one.arm == BASE:  # which no training has written down
        _write_recipe(one)


def _write_recipe(one: Run) -> None:
    write_text(one.recipe, to_yaml(nested_settings(one.settings)))


def _tidy(one: Run, keep: str) -> None:
    folder = RunFolder(one.folder)
    for path in folder.checkpoints.glob("*") if keep != "all" else ():
        if path.is_dir() and (keep == "none" or path != folder.final):  # a model card lies there too
            shutil.rmtree(path)


def environments(jobs: int, threads: int | None) -> Callable[[int], dict[str, str]]:
    """Gives the processes of each slot their share of the processor, and a GPU of their own."""
    if threads is None and jobs > 1:
        threads = max(1, torch.get_num_threads() // jobs)
    variables = {} if threads is None else {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = map(str, range(torch.cuda.device_count())) if shown is None else filter(None, shown.split(","))
    devices = list(devices)

    def environment(slot: int) -> dict[str, str]:  # a process takes one device, and refuses to be shown several
        return variables | ({"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if len(devices) > 1 else {})

    return environment


def _report(sweep: Sweep, prompts: list[Prompt], errors: dict[str, str]) -> dict[str, str]:
    """Writes tables and pictures of every evaluated run of the sweep; returns what is wrong with the others."""
    evaluated, wrong = read_evaluations(sweep.runs, sweep.evaluation, prompts)
    errors = errors | wrong
    if not evaluated:
        _say("no run is evaluated, so there are no results")
        return errors
    left_out = [one.name for one in sweep.runs if one not in [other.run for other in evaluated]]
    missing = [{"run": name, "reason": errors.get(name, "not run yet").rstrip(".")} for name in left_out]
    facts = {"evaluation": sweep.evaluation.model_dump(), "n_prompts": len(prompts), "missing": missing}
    document = summarise(evaluated) | facts
    with owning(sweep.results, LOCK, grace=-1):  # sweeps that share the work may end together
        print(write_tables(sweep.results, document, evaluated))
        pictures = write_plots(sweep.results, document)
    names = ["results.json", "results.csv", "results.md", *(path.name for path in pictures)]
    print(f"written: {sweep.results}/{{{','.join(names)}}}")
    return errors


def _say(line: str) -> None:
    print(f"dqo: {line}", file=sys.stderr, flush=True)
