"""`dqo sweep`: arms × alphas × seeds from one file -> one table, one front."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from importlib import import_module

import torch

from dqo.errors import RecipeError
from dqo.files.records import Prompt, write_text
from dqo.files.run import RunPaths, check_unchanged, newest_whole, owning
from dqo.settings.yaml import to_yaml
from dqo.sweep.launch import connect_ray
from dqo.sweep.plan import Run, Sweep, check_evaluation, read_sweep
from dqo.sweep.results import read_evaluations, summarise, write_results
from dqo.sweep.schedule import LOCK, Job, Stage, run_jobs
from dqo.tasks import load_encoder, load_task
from dqo.train.recipe import nested_settings, read_settings

# To evaluate and to write the results, after hours of training.
_NEEDED_LATE = ("matplotlib", "moocore", "numpy", "pandas", "rich", "rouge_score", "sacrebleu", "scipy", "tqdm")
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
    states = {one.name: _state(one, sweep) for one in chosen}
    done = f"{sum(state == 'done' for state in states.values())} of {len(chosen)} runs are done already"
    if args.dry_run:
        width = max(map(len, states))
        print("\n".join([*(f"{name:{width}}  {state}" for name, state in states.items()), "", done]))
        return 0
    if set(states.values()) != {"done"}:
        _check_encoders(sweep)
    _say(done)
    # Done ones too, because a kill may have come before their checkpoints were tidied.
    jobs = [_job(one, sweep) for one in chosen]
    if args.ray is None:
        errors = run_jobs(jobs, environments(args.jobs or 1), _say)
    else:
        launch = connect_ray(args.ray, sweep.resources)
        # Ray makes those wait that no machine has room for.
        errors = run_jobs(jobs, [{}] * (args.jobs or len(jobs)), _say, launch)
    errors = _report(sweep, prompts, errors)
    for name, error in errors.items():
        _say(f"failed: {name}: {error}")
    return 1 if errors else 0


# A misspelt name should not show after the first training.
def _check_encoders(sweep: Sweep) -> None:
    task = load_task(sweep.evaluation.task, **sweep.evaluation.task_options)
    for name in (sweep.evaluation.encoder, sweep.evaluation.heldout_encoder):
        if name is not None and not name.startswith("policy:"):  # whose weights may be large
            load_encoder(name, task)


def _chosen(sweep: Sweep, only: Sequence[str]) -> list[Run]:
    arms = dict.fromkeys(one.arm for one in sweep.runs)
    if unknown := [arm for arm in only if arm not in arms]:
        raise RecipeError(f"--only {unknown[0]!r}: expected one of the arms {', '.join(arms)}.")
    return [one for one in sweep.runs if not only or one.arm in only]


def _check_folder(one: Run, sweep: Sweep) -> None:
    check_evaluation(one, sweep.evaluation)
    if one.recipe.exists():
        before = read_settings(one.recipe)
        now = dict.fromkeys(before) | one.settings
        remedy = "set it back, delete that run folder, or set output_dir to another folder"
        check_unchanged(one.recipe, before, now, "the recipe of this sweep", remedy)


def _state(one: Run, sweep: Sweep) -> str:
    if _evaluated(one, sweep):
        return "done"
    folder = RunPaths(one.folder)
    if one.seed is None or folder.final.is_dir():
        return "to be evaluated"
    newest = newest_whole(folder.checkpoints).newest
    return f"training to be continued from {newest.name}" if newest else "to be trained and evaluated"


def _evaluated(one: Run, sweep: Sweep) -> bool:
    return (one.folder / sweep.evaluation.folder / "metrics.json").exists()


def _job(one: Run, sweep: Sweep) -> Job:
    evaluation, folder = sweep.evaluation, RunPaths(one.folder)
    out = one.folder / evaluation.folder

    def write_recipe() -> None:
        write_text(one.recipe, to_yaml(nested_settings(one.settings)))

    def claim() -> None:
        check_evaluation(one, evaluation, claim=True)
        write_recipe()  # of the base model too, which no training has written down

    def tidy() -> None:
        for path in folder.checkpoints.glob("*") if sweep.keep != "all" else ():
            if path.is_dir() and (sweep.keep == "none" or path != folder.final):  # a model card lies there too
                shutil.rmtree(path)

    training = Stage(
        "training",
        [*DQO, "train", str(one.recipe), "--resume"],
        one.folder / "train.log",
        # checkpoints may have been deleted after the evaluation, which does not make the run undone
        lambda: folder.final.is_dir() or _evaluated(one, sweep),
        one.folder,
        write_recipe,
    )
    model = one.settings["model"] if one.seed is None else one.folder
    evaluating = Stage(
        "evaluation",
        [*DQO, "eval", f"--model={model}", *evaluation.flags(), f"--out={out}"],
        one.folder / f"{evaluation.folder}.log",
        lambda: _evaluated(one, sweep),
        out,
        claim,
    )
    return Job(one.name, one.folder, [evaluating] if one.seed is None else [training, evaluating], tidy)


def environments(jobs: int) -> list[dict[str, str]]:
    """Gives the processes of each slot their share of the processor, and a GPU of their own."""
    share = str(max(1, torch.get_num_threads() // jobs))  # which follows OMP_NUM_THREADS
    variables = {"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share}
    all_devices = ",".join(map(str, range(torch.cuda.device_count())))
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", all_devices).split(",")
    if len(devices) == 1:
        return [variables] * jobs
    # a process takes one device, and refuses to be shown several
    return [variables | {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} for slot in range(jobs)]


def _report(sweep: Sweep, prompts: list[Prompt], errors: dict[str, str]) -> dict[str, str]:
    """Writes tables and pictures of every evaluated run of the sweep; returns what is wrong with the others."""
    evaluated, wrong = read_evaluations(sweep.runs, sweep.evaluation, prompts)
    errors = errors | wrong
    if not evaluated:
        _say("no run is evaluated, so there are no results")
        return errors
    there = {one.run.name for one in evaluated}
    left_out = [one.name for one in sweep.runs if one.name not in there]
    missing = [{"run": name, "reason": errors.get(name, "not run yet").rstrip(".")} for name in left_out]
    facts = {"evaluation": sweep.evaluation.model_dump(), "n_prompts": len(prompts), "missing": missing}
    document = summarise(evaluated) | facts
    own = sweep.evaluation.folder != "eval"
    out = sweep.output_dir / sweep.evaluation.folder if own else sweep.output_dir
    with owning(out, LOCK, grace=-1):  # sweeps that share the work may end together
        print(write_results(out, document, evaluated))
    print(f"written: {out}")
    return errors


def _say(line: str) -> None:
    print(f"dqo: {line}", file=sys.stderr, flush=True)
