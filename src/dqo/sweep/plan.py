"""The file of a sweep, and what it asks for: runs with a folder each, and one evaluation for all.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from dqo.embedders.loading import canonical
from dqo.errors import DQOError, RecipeError
from dqo.files.jsonio import parse_object, read_text
from dqo.files.records import Prompt, read_prompts, write_json
from dqo.files.run import check_unchanged
from dqo.settings import DEFAULT_ENCODER
from dqo.settings.checking import Strict, check
from dqo.settings.yaml import read_yaml_file
from dqo.tasks import Task, load_task, option_flags, takes_path
from dqo.train.prepare import task_options
from dqo.train.recipe import (
    Recipe,
    build_recipe,
    flat_settings,
    not_cleared,
    outside_training,
    peft_config,
    read_settings,
)

BASE = "base"  # the arm of the model as it is, before any training
_NOT_IN_AN_ARM = {
    "output_dir": "every run gets a folder of its own below the sweep's output_dir",
    "seed": "list the seeds under `seeds`",
    "task": "runs on other tasks cannot be compared; make a sweep of each",
    "system_prompt": "every policy is asked alike; set it in the base recipe",
    "heldout_encoder": "every run is judged alike; set evaluation.heldout_encoder",
}


def _each_once(values: list[Any], info: ValidationInfo) -> list[Any]:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ValueError(f"`{info.field_name}` has {value!r} twice, two runs of one folder; remove one.")
    return values


def _one_spelling(values: list[Any]) -> list[Any]:
    # 1, 1.0 and 1e0 name one folder
    return [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]


_Alphas = Annotated[list[float | str], Field(min_length=1), AfterValidator(_each_once), AfterValidator(_one_spelling)]
_Seeds = Annotated[list[int], Field(min_length=1), AfterValidator(_each_once)]


class _Grid(Strict):
    alphas: _Alphas | None = None


class SweepFile(_Grid):
    """The file of a sweep, as the module's docstring shows it."""

    base: str
    output_dir: str
    arms: dict[str, dict[str, Any] | None] = Field(min_length=1)
    seeds: _Seeds = Field(default=[0])
    evaluation: dict[str, Any]
    base_model: bool = True
    keep: Literal["all", "final", "none"] = "all"


# What a file may say under `evaluation`.
class _GivenEvaluation(Strict):
    split: str | None = None
    data: str | None = None
    prompts: int | None = Field(default=None, ge=1)
    n: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    encoder: str = DEFAULT_ENCODER
    heldout_encoder: str | None = None
    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=32, ge=1)
    folder: str = Field(default="eval", pattern=r"^eval[A-Za-z0-9._-]*$")


class Evaluation(_GivenEvaluation):
    """How every run of a sweep is measured.

    Attributes:
        split: The task's prompts to use; None where `data` names a file.
        data: A file of prompts.
        prompts: Use the first so many prompts; None uses all.
        n: Responses per prompt.
        seed: Of samples and bootstrap.
        encoder: Judge of diversity.
        heldout_encoder: Second judge, which no arm is trained against.
        max_new_tokens: Longest response in tokens.
        temperature: Of sampling.
        batch_size: Responses sampled at once.
        folder: Where an evaluation lies inside its run folder; another name keeps those of other settings beside it.
        task: Name of the task that scores; the base recipe's, as the next two are.
        task_options: Its options, whatever an arm trains with.
        system_prompt: Message before every prompt.
    """

    task: str
    task_options: dict[str, Any]
    system_prompt: str | None

    def flags(self) -> list[str]:
        """Returns the settings as flags of `dqo eval`, all but the model and the folder."""
        flags = ["--task", self.task, *option_flags(self.task_options)]
        flags += ["--data", self.data] if self.data else ["--split", self.split]
        flags += [] if self.system_prompt is None else [f"--system-prompt={self.system_prompt}"]
        flags += ["--limit", str(self.prompts)] if self.prompts else []
        flags += ["--heldout-encoder", self.heldout_encoder] if self.heldout_encoder else []
        for name in ("n", "seed", "encoder", "max_new_tokens", "temperature", "batch_size"):
            flags += [f"--{name.replace('_', '-')}", str(getattr(self, name))]
        return flags


@dataclass(frozen=True)
class Run:
    """One training run with its evaluation.

    Attributes:
        arm: Name of the arm.
        alpha: Weight of diversity: a number, a mode by name, or None for the base model.
        seed: Of training; None for the base model.
        folder: The run folder.
        settings: Every setting that differs from a recipe's defaults, by dotted name; of the base model its name.
    """

    arm: str
    alpha: float | str | None
    seed: int | None
    folder: Path
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """The folder's own name, which is unique in a sweep."""
        return self.folder.name

    @property
    def recipe(self) -> Path:
        """The recipe this run is trained from."""
        return self.folder / "recipe.yaml"


@dataclass(frozen=True)
class Sweep:
    """A whole experiment.

    Attributes:
        output_dir: Folder of the results; `runs/` below it holds the run folders.
        model: The policy that training starts from, by the base recipe.
        runs: In the order they are done.
        evaluation: Of every run.
        keep: What stays of a finished run's checkpoints: "all", "final" or "none".
    """

    output_dir: Path
    model: str
    runs: list[Run]
    evaluation: Evaluation
    keep: str

    @property
    def results(self) -> Path:
        """Folder of tables and pictures: one a kind of evaluation."""
        return self.output_dir if self.evaluation.folder == "eval" else self.output_dir / self.evaluation.folder


def read_sweep(path: str | Path) -> tuple[Sweep, list[Prompt]]:
    """Reads and checks a whole sweep, before anything costs time."""
    file = check(SweepFile, read_yaml_file(path), str(path))
    base = read_settings(file.base)
    output_dir = Path(file.output_dir).expanduser()
    runs, recipes = _runs(file, base, output_dir, str(path))
    # not the first arm's: the base recipe says what all are measured by
    options = {key.removeprefix("task_options."): value for key, value in base.items() if "task_options." in key}
    if base.get("data.path") and takes_path(recipes[0].task):
        options["path"] = base["data.path"]
    task = load_task(recipes[0].task, **options)
    evaluation = _evaluation(file.evaluation, base, task, options, f"{path}, evaluation")
    model = base.get("model", Recipe.model)
    if file.base_model:
        runs.insert(0, Run(BASE, None, None, output_dir / "runs" / BASE, {"task": task.name, "model": model}))
    _check_judge(recipes, evaluation.heldout_encoder, str(path))
    prompts = _unseen_prompts(evaluation, task, recipes, f"{path}, evaluation")
    return Sweep(output_dir, model, runs, evaluation, file.keep), prompts


def _runs(file: SweepFile, base: dict[str, Any], output_dir: Path, path: str) -> tuple[list[Run], list[Recipe]]:
    runs: list[Run] = []
    recipes: list[Recipe] = []
    grid_used = file.alphas is None
    for arm, overrides in file.arms.items():
        origin = f"{path}, arm {arm!r}"
        changes, alphas = _arm(arm, overrides or {}, origin)
        if alphas is None and "alpha" not in changes:
            alphas, grid_used = file.alphas, True
        for alpha, seed in product(alphas or _one_spelling([(base | changes).get("alpha", 1.0)]), file.seeds):
            folder = output_dir / "runs" / f"{arm}-alpha{alpha}-seed{seed}"
            own = {"alpha": alpha, "seed": seed, "output_dir": str(folder)}
            settings = not_cleared(base, overrides or {}) | changes | own
            sources = dict.fromkeys(base, file.base) | dict.fromkeys([*changes, *own], origin)
            runs.append(Run(arm, alpha, seed, folder, settings))
            recipes.append(_recipe(settings, sources, file.base, origin))
    if not grid_used:
        raise RecipeError(
            f"{path}: `alphas` is a grid for arms without an alpha of their own, but every arm has one; remove it, or "
            "the arms' own."
        )
    return runs, recipes


def _arm(arm: str, overrides: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], list[Any] | None]:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", arm) or arm.lower() == BASE:
        raise RecipeError(
            f"{origin}: the name of an arm is part of a folder's, so letters, digits, '.', '_', '+' and '-', and not "
            f"{BASE!r}, which is the untrained model; rename it."
        )
    alphas = check(_Grid, {"alphas": overrides.get("alphas")}, origin).alphas
    changes = flat_settings({key: value for key, value in overrides.items() if key != "alphas"}, origin)
    refused = _NOT_IN_AN_ARM | ({"alpha": "leave it or the arm's grid of `alphas` out"} if alphas else {})
    for key in changes:
        if key in refused:
            raise RecipeError(f"{origin}: `{key}` cannot be set here; {refused[key]}.")
    return changes, alphas


def _recipe(settings: dict[str, Any], sources: dict[str, str], base: str, origin: str) -> Recipe:
    recipe = build_recipe(settings, sources, base)
    try:
        _ = recipe.config  # TRL's own checks, before the first run starts
        peft_config(recipe.lora)
    except DQOError as error:
        raise RecipeError(f"{origin}: {error}") from error
    return recipe


def _evaluation(
    given: dict[str, Any], base: dict[str, Any], task: Task, options: dict[str, Any], origin: str
) -> Evaluation:
    defaults = {name: base[name] for name in ("encoder", "heldout_encoder") if name in base}
    defaults["max_new_tokens"] = base.get("trainer.max_completion_length") or task.max_completion_length
    # null stands for the default, but a held-out encoder that the base has can be had without
    named = {name: value for name, value in given.items() if value is not None or name == "heldout_encoder"}
    settings = dict(check(_GivenEvaluation, defaults | named, origin))
    for name in ("encoder", "heldout_encoder"):
        settings[name] = settings[name] and outside_training(settings[name], base.get("model", Recipe.model))
    if (settings["split"] is None) == (settings["data"] is None):
        raise RecipeError(
            f"{origin}: expected either `split` (dev to choose by, test to report) or `data`, a file of prompts, got "
            f"{'both' if settings['split'] else 'neither'}; give one."
        )
    return Evaluation(task=task.name, task_options=options, system_prompt=base.get("system_prompt"), **settings)


def _check_judge(recipes: Sequence[Recipe], heldout: str | None, path: str) -> None:
    for recipe in recipes if heldout is not None else ():
        if canonical(outside_training(recipe.config.encoder, recipe.model)) == canonical(heldout):
            raise RecipeError(
                f"{path}: expected a held-out encoder that no arm is trained against, got {heldout!r}, which "
                f"{Path(recipe.output_dir).name} trains with as {recipe.config.encoder!r}; choose another."
            )


def _unseen_prompts(evaluation: Evaluation, task: Task, recipes: Sequence[Recipe], origin: str) -> list[Prompt]:
    """The prompts of the evaluation, after a check that no run is trained on one of them."""
    prompts = read_prompts(Path(evaluation.data).expanduser()) if evaluation.data else task.prompts(evaluation.split)
    prompts = prompts[: evaluation.prompts]
    if evaluation.prompts and len(prompts) < evaluation.prompts:
        raise RecipeError(
            f"{origin}: expected {evaluation.prompts} prompts, the source has {len(prompts)}; lower `prompts`."
        )
    asked = {prompt.prompt for prompt in prompts}
    looked_at = set()  # arms mostly train on the same prompts
    for recipe in recipes:
        file = None if takes_path(recipe.task) else recipe.data.get("path")
        options = {} if file else task_options(recipe)
        if repr((file, options)) in looked_at:
            continue
        looked_at.add(repr((file, options)))
        trained_on = read_prompts(Path(file).expanduser()) if file else load_task(task.name, **options).prompts("train")
        if seen := [prompt for prompt in trained_on if prompt.prompt in asked]:
            raise RecipeError(
                f"{origin}: expected prompts that no run is trained on, but {len(seen)} are, such as {seen[0].id!r} in "
                f"{Path(recipe.output_dir).name}; evaluate on another split or file."
            )
    return prompts


def check_evaluation(run: Run, evaluation: Evaluation, claim: bool = False) -> None:
    """Refuses a run whose evaluation folder holds, or has begun, an evaluation of other settings."""
    path = run.folder / f"{evaluation.folder}.settings.json"
    if path.exists():
        remedy = "set it back, or set evaluation.folder to another name to keep both"
        # a sample does not depend on the batch it is drawn in
        now = evaluation.model_dump(exclude={"batch_size"})
        before = parse_object(read_text(path, "record of an evaluation"), str(path))
        check_unchanged(path, before, now, "every run to be evaluated alike", remedy)
    elif (run.folder / evaluation.folder / "metrics.json").exists():
        raise RecipeError(
            f"{run.folder / evaluation.folder}: expected an evaluation made by this sweep, got one without {path.name} "
            "beside it; set evaluation.folder to another name."
        )
    if claim:
        write_json(path, evaluation.model_dump())
