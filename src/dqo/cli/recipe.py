"""A recipe: one YAML file that says everything about a run, and `key=value` overrides of it.

Settings are handled as one flat table, `trainer.learning_rate: 1e-5`, so that a file and an override go through the
same checks. Which settings there are, and of which type, is read off the dataclasses that use them.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from dqo.cli.setting_types import fits, in_words
from dqo.cli.yaml_reader import parse_yaml, read_yaml_file
from dqo.errors import DQOError, RecipeError
from dqo.integrations.trl.config import DiversityArguments, DQOConfig, DQORLOOConfig
from dqo.models import DEFAULT_POLICY
from dqo.records import write_text

CONFIGS = {"grpo": DQOConfig, "rloo": DQORLOOConfig}
DIVERSITY = tuple(spec.name for spec in fields(DiversityArguments))
_SECTIONS = ("task_options", "data", "trainer")
_VERSIONS = ("dqo", "torch", "trl", "transformers")
_NOT_IN_A_RECIPE = {
    "output_dir": "set `output_dir` at the top level",
    "seed": "set `seed` at the top level",
    "resume_from_checkpoint": "run `dqo train` with --resume",
    "model_init_kwargs": "set `model` at the top level; weights are read as float32",
    "trust_remote_code": "code that comes with a model is never run",
    "hub_token": "log in with `hf auth login`, a recipe is no place for a secret",
    "local_rank": "start several processes with `accelerate launch -m dqo train`",
} | dict.fromkeys(
    ("do_train", "do_eval", "do_predict", "eval_strategy", "eval_on_start", "load_best_model_at_end"),
    "a run only trains; evaluate it with `dqo eval`",
)
_ABOVE_ZERO = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "num_iterations",
               "max_completion_length", "temperature", "learning_rate", "logging_steps")  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What a run is made of; `load_recipe` reads and checks it.

    Attributes:
        task: Name of a task.
        output_dir: The run folder.
        model: Name of the policy.
        task_options: Arguments of the task.
        data: {"path": file} trains on the prompts of this file instead of the task's own.
        algorithm: "grpo" or "rloo".
        seed: Of everything random in the run.
        heldout_encoder: A second judge for evaluation, never used in training.
        diversity: Fields of `DiversityArguments` that the recipe sets; they stand at its top level.
        trainer: Fields of TRL's config that the recipe sets.
    """

    task: str
    output_dir: str
    model: str = DEFAULT_POLICY
    task_options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    algorithm: str = "grpo"
    seed: int = 42
    heldout_encoder: str | None = None
    diversity: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def config(self) -> DQOConfig | DQORLOOConfig:
        """The host's settings, checked by the host too; checkpoints go to <output_dir>/checkpoints.

        Made once: building another one resets the host's process state under a trainer that is already there.

        Returns:
            DQOConfig or DQORLOOConfig.

        Raises:
            RecipeError: A value out of range, or a batch that holds no whole groups.
        """
        config_class = CONFIGS[self.algorithm]
        defaults = {spec.name: spec.default for spec in fields(config_class)}
        _check_numbers(self.trainer)
        _check_groups(defaults | self.trainer)
        folder = str(Path(self.output_dir) / "checkpoints")
        try:
            return config_class(folder, seed=self.seed, **self.diversity, **self.trainer)
        except DQOError:
            raise
        except (ValueError, TypeError) as error:
            raise RecipeError(f"trainer: the host refuses these settings: {error}") from error

    def resolved(self) -> dict[str, Any]:
        """Every setting with its value, defaults included: again a recipe, of the same run."""
        config = self.config.to_dict()
        own = asdict(self)
        del own["diversity"], own["trainer"]
        # Of the two sizes that each follow from the other, the host accepts one.
        left_out = {*DIVERSITY, *_NOT_IN_A_RECIPE, "generation_batch_size"}
        return {
            **own,
            **{name: config[name] for name in DIVERSITY},
            "trainer": {name: value for name, value in config.items() if name not in left_out},
        }


def save_resolved(path: str | Path, settings: Mapping[str, Any]) -> None:
    """Write settings and the versions that ran them, atomically.

    Args:
        path: The file, config.yaml of a run folder.
        settings: As `Recipe.resolved` gives them.
    """
    document = {**settings, "versions": {name: version(name) for name in _VERSIONS}}
    write_text(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        path: YAML file.
        overrides: "key=value" each, such as "alpha=0.5" or "trainer.max_steps=100"; the last of a key wins.

    Returns:
        The recipe, every key known and every value of the right type.

    Raises:
        RecipeError: An unreadable file, an unknown key (with the nearest known one), a value of the wrong type, or a
            setting that belongs elsewhere.
    """
    settings = _flat(read_yaml_file(path), str(path))
    origin = dict.fromkeys(settings, str(path))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"override {override!r}: expected key=value, such as alpha=0.5; add the missing part.")
        changed = _flat({key: _override_value(key, text)}, f"override {override!r}")
        settings |= changed
        origin |= dict.fromkeys(changed, f"override {override!r}")
    for key in _VERSIONS:  # what a config.yaml says about the run that wrote it
        settings.pop(f"versions.{key}", None)
    algorithm = settings.get("algorithm", "grpo")
    if algorithm not in CONFIGS:
        raise RecipeError(f"{origin['algorithm']}: `algorithm` must be one of {', '.join(CONFIGS)}, got {algorithm!r}.")
    hints = setting_hints(algorithm)
    for key, value in settings.items():
        _check_setting(key, value, hints, origin[key])
    for key in ("task", "output_dir"):
        if key not in settings:
            raise RecipeError(f"{path}: expected the setting `{key}`, got none; add a line `{key}: ...`.")
    return _recipe(settings)


def setting_hints(algorithm: str) -> dict[str, Any]:
    """Every setting of a recipe by its dotted name, with its type; `task_options` are the task's business.

    Args:
        algorithm: "grpo" or "rloo".

    Returns:
        Dotted name -> type hint.
    """
    config_hints, own = get_type_hints(CONFIGS[algorithm]), get_type_hints(Recipe)
    names = [spec.name for spec in fields(CONFIGS[algorithm])]
    hints = {name: hint for name, hint in own.items() if name not in (*_SECTIONS, "diversity")}
    hints |= {name: config_hints[name] for name in DIVERSITY}
    hints |= {"data.path": str}
    return hints | {f"trainer.{n}": config_hints[n] for n in names if n not in (*DIVERSITY, *_NOT_IN_A_RECIPE)}


def _flat(document: Mapping[str, Any], origin: str) -> dict[str, Any]:
    flat = {}
    for key, value in document.items():
        if key not in (*_SECTIONS, "versions"):
            flat[key] = value
        elif isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif value is not None:
            raise RecipeError(f"{origin}: `{key}` must be a mapping of settings, got {value!r}; indent them below it.")
    return flat


def _override_value(key: str, text: str) -> Any:
    """The value of an override; names and paths stay text even where YAML would read a number."""
    own = get_type_hints(Recipe) | get_type_hints(DiversityArguments)
    return text if own.get(key) is str else parse_yaml(text, f"override {key + '=' + text!r}")


def _check_setting(key: str, value: Any, hints: Mapping[str, Any], origin: str) -> None:
    section, _, name = key.rpartition(".")
    if section == "task_options":
        return
    if section == "trainer" and name in _NOT_IN_A_RECIPE:
        raise RecipeError(f"{origin}: `{key}` cannot be set in a recipe; {_NOT_IN_A_RECIPE[name]}.")
    if key not in hints:
        raise RecipeError(f"{origin}: expected a setting of a recipe, got {key!r}; {_nearest(name, hints)}")
    if not fits(value, hints[key]):
        raise RecipeError(f"{origin}: `{key}` must be {in_words(hints[key])}, got {value!r}; change the value.")


def _nearest(name: str, hints: Mapping[str, Any]) -> str:
    by_last_part = {known.rpartition(".")[2]: known for known in hints} | {key: key for key in _SECTIONS}
    near = difflib.get_close_matches(name, by_last_part, n=1)
    return f"did you mean {by_last_part[near[0]]!r}?" if near else "see the recipes/ folder for what there is."


def _recipe(settings: Mapping[str, Any]) -> Recipe:
    parts: dict[str, Any] = {name: {} for name in (*_SECTIONS, "diversity")}
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        if section:
            parts[section][name] = value
        elif name in DIVERSITY:
            parts["diversity"][name] = value
        else:
            parts[name] = value
    return Recipe(**parts)


def _check_numbers(trainer: Mapping[str, Any]) -> None:
    for name in _ABOVE_ZERO:
        value = trainer.get(name)
        if value is not None and value <= 0:
            raise RecipeError(f"`trainer.{name}` must be above 0, got {value}; change the value.")


def _check_groups(trainer: Mapping[str, Any]) -> None:
    """A generation batch must hold whole groups; says how it comes about and what would fit."""
    size, processes = trainer["num_generations"], int(os.environ.get("WORLD_SIZE", "1"))
    rows = trainer["per_device_train_batch_size"] * processes
    steps = trainer["steps_per_generation"] or trainer["gradient_accumulation_steps"]
    total = trainer["generation_batch_size"] or rows * steps
    if total % size:
        raise RecipeError(
            f"a step must hold whole groups of trainer.num_generations = {size} responses, got {total} rows "
            f"(trainer.per_device_train_batch_size {trainer['per_device_train_batch_size']} x {processes} processes x "
            f"{steps} accumulated); make the product a multiple of {size}."
        )
