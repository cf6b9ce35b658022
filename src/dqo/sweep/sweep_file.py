"""The file of a sweep: a base recipe, named arms, alphas and seeds, and one evaluation for all.

base: recipes/concepts.yaml
output_dir: outputs/sweep
arms:
  reward-only: {alpha: 0}                       # an alpha of its own: the grid does not apply
  dqo: {}
  gated: {combine: gate, quality_threshold: 0.5}
alphas: [0.5, 1.0]
seeds: [0, 1, 2]
evaluation: {split: dev, prompts: 30, n: 10}
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from dqo.errors import DQOError, RecipeError
from dqo.files.records import Prompt, read_prompts
from dqo.settings.types import fits, in_words, plain
from dqo.settings.yaml import flat_settings, not_cleared, read_settings, read_yaml_file
from dqo.sweep.plan import BASE, Evaluation, Run, Sweep, run_name
from dqo.tasks import Task, load_task, takes_path
from dqo.train.inputs import task_options
from dqo.train.recipe import Recipe, build_recipe, outside_training, peft_config

_KEYS = {"base": str, "output_dir": str, "arms": dict[str, Any], "alphas": list[float | str], "seeds": list[int],
         "evaluation": dict[str, Any], "base_model": bool, "keep": str}  # fmt: skip
_KEEP = ("all", "final", "none")
_NOT_IN_AN_ARM = {
    "output_dir": "every run gets a folder of its own below the sweep's output_dir",
    "seed": "list the seeds under `seeds`",
    "task": "runs on other tasks cannot be compared; make a sweep of each",
    "system_prompt": "every policy is asked alike; set it in the base recipe",
    "heldout_encoder": "every run is judged alike; set evaluation.heldout_encoder",
}
_DEFAULTS = {"data": None, "split": None, "prompts": None, "n": 10, "seed": 0, "temperature": 1.0, "batch_size": 32,
             "folder": "eval"}  # fmt: skip


def read_sweep(path: str | Path) -> tuple[Sweep, list[Prompt]]:
    """Read and check a whole sweep, before anything costs time.

    Args:
        path: YAML file; paths in it are relative to the current folder, as in a recipe.

    Returns:
        The sweep, and the prompts that every run is evaluated on.

    Raises:
        RecipeError: An unknown key, a missing or bad base recipe, an arm that is no valid recipe, two runs of one
            folder, an alpha or seed that comes twice, or evaluation prompts that a run is trained on.
        DataError: A bad file of prompts.
    """
    document = read_yaml_file(path)
    _check_keys(document, _KEYS, str(path))
    for key in ("base", "output_dir", "arms", "evaluation"):
        if not document.get(key):
            raise RecipeError(f"{path}: expected the setting `{key}`, got none; add it.")
    keep = document.get("keep", "all")
    if keep not in _KEEP:
        raise RecipeError(f"{path}: `keep` must be one of {', '.join(_KEEP)}, got {keep!r}; change the value.")
    base = read_settings(document["base"])
    output_dir = Path(document["output_dir"]).expanduser()
    runs, recipes = _runs(document, base, output_dir, str(path))
    first = recipes[0]
    # not the first arm's: the base recipe says what all are measured by
    options = {key.removeprefix("task_options."): value for key, value in base.items() if "task_options." in key}
    if base.get("data.path") and takes_path(first.task):
        options["path"] = base["data.path"]
    task = load_task(first.task, **options)
    evaluation = _evaluation(document["evaluation"], base, task, options, str(path))
    if document.get("base_model", True):
        own = {"task": first.task, "model": base.get("model", Recipe.model)}
        runs.insert(0, Run(BASE, None, None, output_dir / "runs" / BASE, own))
    _check_judge(recipes, evaluation, str(path))
    prompts = _unseen_prompts(evaluation, task, recipes, str(path))
    return Sweep(output_dir, base.get("model", Recipe.model), runs, evaluation, keep), prompts


def _runs(document: Mapping[str, Any], base: dict[str, Any], output_dir: Path, path: str) -> tuple[list, list[Recipe]]:
    """Every training run with its recipe: arms in file order, each alpha, each seed."""
    seeds = document.get("seeds", [0])
    _check_grid(seeds, "seeds", path)
    runs, recipes, folders = [], [], dict[str, str]()
    grid_used = False
    for arm, overrides in document["arms"].items():
        origin = f"{path}, arm {arm!r}"
        changes, alphas = _arm(arm, overrides, origin)
        if alphas is None and "alpha" not in changes:
            alphas, grid_used = document.get("alphas"), True
        if alphas is not None:
            _check_grid(alphas, "alphas", origin)
            if changes.get("diversity", base.get("diversity")) == "none" and len(alphas) > 1:
                raise RecipeError(
                    f"{origin}: diversity: none has no weight, so the runs at alphas {alphas} would be one and the "
                    "same; give the arm `alpha: 0`."
                )
        for given in alphas if alphas is not None else [changes.get("alpha", base.get("alpha", 1.0))]:
            alpha = plain(given)  # the folder's name, and so the run, is the same however a number is written
            for seed in seeds:
                name = run_name(arm, alpha, seed)
                if name.lower() in folders:  # some file systems do not tell Dqo from dqo
                    raise RecipeError(
                        f"{origin}: expected a folder of its own for every run, but {name!r} and "
                        f"{folders[name.lower()]!r} are one; rename an arm."
                    )
                folders[name.lower()] = name
                folder = output_dir / "runs" / name
                own = {"alpha": alpha, "seed": seed, "output_dir": str(folder)}
                settings = not_cleared(base, overrides or {}) | changes | own
                came_from = dict.fromkeys(base, str(document["base"])) | dict.fromkeys([*changes, *own], origin)
                recipe = build_recipe(settings, came_from, str(document["base"]))
                try:
                    _ = recipe.config  # the host's own checks, before the first run starts
                    peft_config(recipe.lora)
                except DQOError as error:
                    raise RecipeError(f"{origin}: {error}") from error
                runs.append(Run(arm, alpha, seed, folder, settings))
                recipes.append(recipe)
    if document.get("alphas") is not None and not grid_used:
        raise RecipeError(f"{path}: `alphas` is a grid for arms without an alpha of their own, but every arm has one; "
                          "remove it, or the arms' own.")  # fmt: skip
    return runs, recipes


def _arm(arm: str, overrides: Any, origin: str) -> tuple[dict[str, Any], list[Any] | None]:
    """Settings that an arm changes, and its own grid of alphas."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", arm) or arm.lower() == BASE:
        raise RecipeError(
            f"{origin}: the name of an arm is part of a folder's, so letters, digits, '.', '_', '+' and '-', and not "
            f"{BASE!r}, which is the untrained model; rename it."
        )
    if overrides is None:
        overrides = {}
    if not isinstance(overrides, dict):
        raise RecipeError(f"{origin}: expected a mapping of settings that differ from the base, got {overrides!r}.")
    changes = flat_settings({key: value for key, value in overrides.items() if key != "alphas"}, origin)
    for key in changes:
        if key in _NOT_IN_AN_ARM:
            raise RecipeError(f"{origin}: `{key}` cannot differ between arms; {_NOT_IN_AN_ARM[key]}.")
    alphas = overrides.get("alphas")
    if alphas is not None and "alpha" in changes:
        raise RecipeError(
            f"{origin}: an arm has one `alpha` or a grid of `alphas`, got {changes['alpha']!r} and {alphas!r}; leave "
            "one out."
        )
    return changes, alphas


def _evaluation(
    given: dict[str, Any], base: dict[str, Any], task: Task, options: dict[str, Any], path: str
) -> Evaluation:
    origin = f"{path}, evaluation"
    hints = {spec.name: get_type_hints(Evaluation)[spec.name] for spec in fields(Evaluation)}
    del hints["task"], hints["task_options"], hints["system_prompt"]
    _check_keys(given, hints, origin)
    length = base.get("trainer.max_completion_length") or task.max_completion_length
    defaults = _DEFAULTS | {
        "encoder": base.get("encoder", "all-MiniLM-L6-v2"),
        "heldout_encoder": base.get("heldout_encoder"),
        "max_new_tokens": length,
    }
    # null stands for the default, but a held-out encoder that the base has can be had without
    settings = defaults | {
        name: value for name, value in given.items() if value is not None or name == "heldout_encoder"
    }
    for name in ("encoder", "heldout_encoder"):
        settings[name] = settings[name] and outside_training(settings[name], base.get("model", Recipe.model))
    if (settings["split"] is None) == (settings["data"] is None):
        raise RecipeError(f"{origin}: expected either `split` (dev to choose by, test to report) or `data`, a file of "
                          f"prompts, got {'both' if settings['split'] else 'neither'}; give one.")  # fmt: skip
    for name in ("prompts", "n", "max_new_tokens", "batch_size", "temperature"):
        if settings[name] is not None and not settings[name] > 0:
            raise RecipeError(f"{origin}: `{name}` must be above 0, got {settings[name]!r}; change the value.")
    if not 0 <= settings["seed"] < 2**32:
        raise RecipeError(
            f"{origin}: `seed` must be at least 0 and below 2^32, got {settings['seed']}; change the value."
        )
    if not re.fullmatch(r"eval[A-Za-z0-9._-]*", settings["folder"]):
        raise RecipeError(f"{origin}: `folder` must be a plain name that begins with eval, such as eval-test, got "
                          f"{settings['folder']!r}.")  # fmt: skip
    system = base.get("system_prompt")
    return Evaluation(task=task.name, task_options=options, system_prompt=system, **settings)


def _check_judge(recipes: list[Recipe], evaluation: Evaluation, path: str) -> None:
    from dqo.embedders.loading import canonical

    heldout = evaluation.heldout_encoder
    for recipe in recipes if heldout is not None else ():
        if canonical(outside_training(recipe.config.encoder, recipe.model)) == canonical(heldout):
            raise RecipeError(
                f"{path}: expected a held-out encoder that no arm is trained against, got {heldout!r}, which "
                f"{Path(recipe.output_dir).name} trains with as {recipe.config.encoder!r}; choose another."
            )


def _unseen_prompts(evaluation: Evaluation, task: Task, recipes: list[Recipe], path: str) -> list[Prompt]:
    """The prompts of the evaluation, after a check that no run is trained on one of them."""
    prompts = read_prompts(Path(evaluation.data).expanduser()) if evaluation.data else task.prompts(evaluation.split)
    prompts = prompts[: evaluation.prompts]
    if evaluation.prompts and len(prompts) < evaluation.prompts:
        raise RecipeError(f"{path}, evaluation: expected {evaluation.prompts} prompts, the source has {len(prompts)}; "
                          "lower `prompts`.")  # fmt: skip
    asked = {prompt.prompt for prompt in prompts}
    trained_on: dict[str, list[Prompt]] = {}
    for recipe in recipes:
        file = None if takes_path(recipe.task) else recipe.data.get("path")
        options = task_options(recipe)
        key = repr((file, None if file else options))
        if key not in trained_on:
            trained_on[key] = (
                read_prompts(Path(file).expanduser()) if file else load_task(recipe.task, **options).prompts("train")
            )
            seen = [prompt for prompt in trained_on[key] if prompt.prompt in asked]
            if seen:
                raise RecipeError(
                    f"{path}, evaluation: expected prompts that no run is trained on, but {len(seen)} are, such as "
                    f"{seen[0].id!r} in {Path(recipe.output_dir).name}; evaluate on another split or file."
                )
    return prompts


def _check_keys(document: Mapping[str, Any], hints: Mapping[str, Any], origin: str) -> None:
    for key, value in document.items():
        if key not in hints:
            raise RecipeError(f"{origin}: expected one of {', '.join(hints)}, got {key!r}; correct or remove it.")
        if value is not None and not fits(value, hints[key]):
            raise RecipeError(f"{origin}: `{key}` must be {in_words(hints[key])}, got {value!r}; change the value.")


def _check_grid(values: Any, name: str, origin: str) -> None:
    if not isinstance(values, list) or not values:
        raise RecipeError(f"{origin}: `{name}` must be a list of one or more, got {values!r}; write [0, 1].")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise RecipeError(f"{origin}: `{name}` has {value!r} twice, two runs of one folder; remove one.")
