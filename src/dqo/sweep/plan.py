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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from dqo.errors import DQOError, RecipeError
from dqo.files.jsonio import parse_object, read_text
from dqo.files.records import Prompt, read_prompts, write_json
from dqo.files.run import check_unchanged
from dqo.settings import DEFAULT_ENCODER
from dqo.settings.checking import STRICT, Strict, check, plain
from dqo.settings.yaml import read_yaml_file
from dqo.sweep.launch import Resources
from dqo.tasks import option_flags
from dqo.train.prepare import Prepared
from dqo.train.recipe import (
    Recipe,
    build_recipe,
    check_heldout,
    flat_settings,
    load_recipe,
    not_cleared,
    outside_training,
    read_settings,
)

BASE = "base"  # the arm of the model as it is, before any training
# Every policy is asked and judged alike, on one task.
_ALIKE = {"output_dir", "seed", "task", "system_prompt", "heldout_encoder"}
_Alphas = Annotated[list[float | str], Field(min_length=1)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]  # part of a folder's name


# Settings of a recipe, and a grid of its own.
class _Arm(BaseModel):
    model_config = STRICT | {"extra": "allow"}
    alphas: _Alphas | None = None


class SweepFile(Strict):
    """The file of a sweep, as the module's docstring shows it."""

    base: str
    output_dir: str
    arms: dict[_Name, _Arm | None] = Field(min_length=1)
    alphas: _Alphas | None = None
    seeds: list[int] = Field(default=[0], min_length=1)
    evaluation: dict[str, Any]
    base_model: bool = True
    keep: Literal["all", "final", "none"] = "all"
    resources: Resources = Field(default_factory=Resources)


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
    # inside the run folder; another name keeps evaluations of other settings beside it
    folder: str = Field(default="eval", pattern=r"^eval[A-Za-z0-9._-]*$")


class Evaluation(_GivenEvaluation):
    """How every run of a sweep is measured: the keys of docs/guides/sweep.md, and what the base recipe says."""

    task: str
    task_options: dict[str, Any]
    system_prompt: str | None

    def flags(self) -> list[str]:
        """Returns the settings as flags of `dqo eval`, all but the model and the folder."""
        given = self.model_dump(exclude={"task_options", "folder", "prompts"}) | {"limit": self.prompts}
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]
        return [*option_flags(self.task_options), *flags]


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
    """A whole experiment: runs in the order they are done, one evaluation for all, and what stays on disk.

    `resources` are what a run takes of a Ray cluster.
    """

    output_dir: Path
    runs: list[Run]
    evaluation: Evaluation
    keep: str
    resources: Resources


def read_sweep(path: str | Path) -> tuple[Sweep, list[Prompt]]:
    """Reads and checks a whole sweep, before anything costs time."""
    file = check(SweepFile, read_yaml_file(path), str(path))
    # not the first arm's: the base recipe says what all are measured by
    base = Prepared(load_recipe(file.base))
    evaluation = _evaluation(file.evaluation, base, f"{path}, evaluation")
    output_dir = Path(file.output_dir).expanduser()
    planned = list(_runs(file, output_dir, evaluation.heldout_encoder, str(path)))
    prompts = _unseen_prompts(evaluation, base, [recipe for _, recipe in planned], f"{path}, evaluation")
    runs = [run for run, _ in planned]
    if file.base_model:
        settings = {"task": base.task.name, "model": base.recipe.model}
        runs.insert(0, Run(BASE, None, None, output_dir / "runs" / BASE, settings))
    return Sweep(output_dir, runs, evaluation, file.keep, file.resources), prompts


def _runs(file: SweepFile, output_dir: Path, heldout: str | None, path: str) -> Iterator[tuple[Run, Recipe]]:
    base = read_settings(file.base)
    for name, arm in file.arms.items():
        origin, arm = f"{path}, arm {name!r}", arm or _Arm()
        changes = flat_settings(arm.model_extra, origin)
        alike = _ALIKE | {"alpha"} if arm.alphas else _ALIKE
        if refused := sorted(alike & changes.keys()):
            raise RecipeError(
                f"{origin}: `{refused[0]}` cannot be set here; it is one for all arms or has a grid, `seeds` or "
                "`alphas`, so set it in the base recipe or the sweep."
            )
        grid = arm.alphas or ("alpha" not in changes and file.alphas) or [(base | changes).get("alpha", 1.0)]
        for alpha, seed in product(dict.fromkeys(map(plain, grid)), dict.fromkeys(file.seeds)):
            folder = output_dir / "runs" / f"{name}-alpha{alpha}-seed{seed}"
            own = {"alpha": alpha, "seed": seed, "output_dir": str(folder)}
            settings = not_cleared(base, arm.model_extra) | changes | own
            sources = dict.fromkeys(base, file.base) | dict.fromkeys([*changes, *own], origin)
            recipe = build_recipe(settings, sources, file.base)
            try:
                # TRL's own checks, before the first run starts
                check_heldout(heldout, recipe.config.encoder)
            except DQOError as error:
                raise RecipeError(f"{origin}: {error}") from error
            yield Run(name, alpha, seed, folder, settings), recipe


def _evaluation(given: dict[str, Any], base: Prepared, origin: str) -> Evaluation:
    recipe = base.recipe
    # null stands for the default, but a held-out encoder that the base has can be had without
    named = {name: value for name, value in given.items() if value is not None or name == "heldout_encoder"}
    defaults = {"encoder": base.config.encoder, "heldout_encoder": recipe.heldout_encoder}
    defaults["max_new_tokens"] = base.config.max_completion_length
    settings = dict(check(_GivenEvaluation, defaults | named, origin))
    for name in ("encoder", "heldout_encoder"):
        settings[name] = settings[name] and outside_training(settings[name], recipe.model)
    if (settings["split"] is None) == (settings["data"] is None):
        raise RecipeError(f"{origin}: expected either `split` or `data`, a file of prompts; give one of the two.")
    options = recipe.task_options | recipe.data
    return Evaluation(task=base.task.name, task_options=options, system_prompt=recipe.system_prompt, **settings)


def _unseen_prompts(evaluation: Evaluation, base: Prepared, recipes: Sequence[Recipe], origin: str) -> list[Prompt]:
    """The prompts of the evaluation, after a check that no run is trained on one of them."""
    given, split = evaluation.data, evaluation.split
    prompts = (read_prompts(Path(given).expanduser()) if given else base.task.prompts(split))[: evaluation.prompts]
    asked = {prompt.prompt for prompt in prompts}
    # arms mostly train on the same prompts
    for recipe in {repr((recipe.data, recipe.task_options)): recipe for recipe in recipes}.values():
        if seen := [prompt.id for prompt in Prepared(recipe).prompts if prompt.prompt in asked]:
            raise RecipeError(
                f"{origin}: expected prompts that no run is trained on, but {len(seen)} are, such as {seen[0]!r} in "
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
    if claim:
        write_json(path, evaluation.model_dump())
