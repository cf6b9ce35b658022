"""What a sweep is made of: its runs, each with a folder of its own, and the one evaluation that all of them get."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dqo.errors import DataError, RecipeError
from dqo.files.records import write_json
from dqo.tasks import option_flags

BASE = "base"  # the arm of the model as it is, before any training


@dataclass(frozen=True)
class Evaluation:
    """How every run of a sweep is measured.

    Attributes:
        task: Name of the task that scores; the base recipe's.
        task_options: Its options; the base recipe's, whatever an arm trains with.
        system_prompt: Message before every prompt; the base recipe's.
        split: The task's prompts to use; None where `data` names a file.
        data: A file of prompts.
        prompts: Use the first so many prompts; None uses all.
        n: Responses a prompt.
        seed: Of samples and bootstrap.
        encoder: Judge of diversity.
        heldout_encoder: Second judge, which no arm is trained against.
        max_new_tokens: Longest response in tokens.
        temperature: Of sampling.
        batch_size: Responses sampled at once.
        folder: Where an evaluation lies inside its run folder; another name keeps those of other settings beside it.
    """

    task: str
    task_options: dict[str, Any]
    system_prompt: str | None
    split: str | None
    data: str | None
    prompts: int | None
    n: int
    seed: int
    encoder: str
    heldout_encoder: str | None
    max_new_tokens: int
    temperature: float
    batch_size: int
    folder: str

    def flags(self) -> list[str]:
        """The settings as flags of `dqo eval`, all but the model and the folder."""
        flags = ["--task", self.task]
        flags += option_flags(self.task_options)
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


def run_name(arm: str, alpha: float | str | None, seed: int | None) -> str:
    """Folder name of a run: arm, alpha and seed, those it has."""
    parts = [arm, None if alpha is None else f"alpha{alpha}", None if seed is None else f"seed{seed}"]
    return "-".join(part for part in parts if part is not None)


def claim_evaluation(run: Run, evaluation: Evaluation) -> None:
    """Write down how a run is evaluated, or check that it was to be evaluated in the same way.

    Args:
        run: Its folder exists.
        evaluation: The settings of this sweep.

    Raises:
        RecipeError: An evaluation of other settings lies in the place of this one; names the first that differs.
    """
    check_evaluation(run, evaluation)
    write_json(_record(run, evaluation), asdict(evaluation))


def check_evaluation(run: Run, evaluation: Evaluation) -> None:
    """Refuse a run whose evaluation folder holds, or has begun, an evaluation of other settings.

    Args:
        run: Its folder need not exist.
        evaluation: The settings of this sweep.

    Raises:
        RecipeError: Names the run and the first setting that differs.
        DataError: A record that cannot be read.
    """
    path = _record(run, evaluation)
    if not path.exists():
        if (run.folder / evaluation.folder / "metrics.json").exists():
            raise RecipeError(
                f"{run.folder / evaluation.folder}: expected an evaluation made by this sweep, got one without "
                f"{path.name} beside it; set evaluation.folder to another name."
            )
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: expected the settings of an evaluation, got {error}; delete the file.") from error
    for name, value in asdict(evaluation).items():
        if before.get(name) != value and name != "batch_size":  # a sample does not depend on the batch it is drawn in
            raise RecipeError(
                f"{path}: expected every run to be evaluated alike, but {name!r} was {before.get(name)!r} and is now "
                f"{value!r}; set it back, or set evaluation.folder to another name to keep both."
            )


def _record(run: Run, evaluation: Evaluation) -> Path:
    return run.folder / f"{evaluation.folder}.settings.json"
