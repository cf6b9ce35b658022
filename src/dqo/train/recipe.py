"""A recipe: one YAML file that says everything about a run, and `key=value` overrides of it.

Settings are handled as one flat table, `trainer.learning_rate: 1e-5`, so that a file and an override go through the
same checks. Which settings there are, and of which type, is read off the dataclasses that use them.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from dqo.errors import RecipeError
from dqo.integrations.trl.config import DiversityArguments, DQOConfig, DQORLOOConfig
from dqo.integrations.trl.ppo_config import DQOPPOConfig
from dqo.models.policy import DEFAULT_POLICY
from dqo.models.weights import first_words
from dqo.rewards.loading import read_entries
from dqo.settings.types import fits, in_words
from dqo.settings.yaml import SECTIONS, flat_settings, not_cleared, parse_yaml, read_settings

CONFIGS = {"grpo": DQOConfig, "rloo": DQORLOOConfig, "ppo": DQOPPOConfig}
DIVERSITY = tuple(spec.name for spec in fields(DiversityArguments))
_NOT_IN_A_RECIPE = {
    "output_dir": "set `output_dir` at the top level",
    "seed": "set `seed` at the top level",
    "full_determinism": "set `deterministic: true` at the top level",
    "resume_from_checkpoint": "run `dqo train` with --resume",
    "model_init_kwargs": "set `model` and `dtype` at the top level",
    "reward_weights": "give each entry of `rewards` its weight",
    "trust_remote_code": "code that comes with a model is never run",
    "hub_token": "log in with `hf auth login`, a recipe is no place for a secret",
    "local_rank": "start several processes with `accelerate launch -m dqo train`",
} | dict.fromkeys(
    ("do_train", "do_eval", "do_predict", "eval_strategy", "eval_on_start", "load_best_model_at_end"),
    "a run only trains; evaluate it with `dqo eval`",
)


@dataclass(frozen=True)
class Recipe:
    """What a run is made of; `load_recipe` reads and checks it.

    Attributes:
        task: Name of a task.
        output_dir: The run folder.
        model: Name of the policy.
        system_prompt: System message before every prompt; None leaves it to the model's chat template.
        task_options: Arguments of the task.
        data: {"path": place} reads a local copy of the task's data set (a file, or a folder with train.jsonl and
            test.jsonl); a task without a data set of its own trains on the prompts of this file instead.
        rewards: What is optimised beside diversity, see `dqo.rewards.loading`; the task's quality where there is none.
        dtype: Of the weights that are loaded: "float32", "bfloat16" or "float16".
        lora: Fields of `LoraSettings`; an empty mapping trains all weights.
        algorithm: "grpo", "rloo" or "ppo".
        seed: Of everything random in the run.
        deterministic: Only algorithms of torch that give the same numbers every time, and an error where there is none;
            slower, on a GPU above all.
        heldout_encoder: A second judge for evaluation, never used in training; "policy" is the frozen start of the run.
        diversity: Fields of `DiversityArguments` that the recipe sets; they stand at its top level.
        trainer: Fields of TRL's config that the recipe sets.
    """

    task: str
    output_dir: str
    model: str = DEFAULT_POLICY
    system_prompt: str | None = None
    task_options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    rewards: list[dict[str, Any]] = field(default_factory=list)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    lora: dict[str, Any] = field(default_factory=dict)
    algorithm: str = "grpo"
    seed: int = 42
    deterministic: bool = False
    heldout_encoder: str | None = None
    diversity: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def config(self) -> DQOConfig | DQORLOOConfig | DQOPPOConfig:
        """The host's settings, checked by the host too; checkpoints go to <output_dir>/checkpoints.

        Made once: building another one resets the host's process state under a trainer that is already there.

        Returns:
            DQOConfig, DQORLOOConfig or DQOPPOConfig.

        Raises:
            RecipeError: A value out of range, or a batch that holds no whole groups.
        """
        config_class = CONFIGS[self.algorithm]
        defaults = {spec.name: spec.default for spec in fields(config_class)}
        check_numbers(self.trainer, self.seed)
        check_whole_groups(defaults | self.trainer)
        folder = str(Path(self.output_dir).expanduser() / "checkpoints")
        diversity = dict(self.diversity)
        if diversity.get("encoder") == "policy":  # of the run's own starting point, frozen
            diversity["encoder"] = f"policy:{self.model}"
        encoder = diversity.get("encoder", defaults["encoder"])
        heldout = self.heldout_encoder and outside_training(self.heldout_encoder, self.model)
        check_heldout(heldout, outside_training(encoder, self.model))
        weights = [entry.weight for entry in read_entries(self.rewards)]
        return config_class(
            folder,
            seed=self.seed,
            full_determinism=self.deterministic,
            reward_weights=weights,
            **diversity,
            **self.trainer,
        )

    def settings(self) -> dict[str, Any]:
        """Lists every setting as it was given, or by a default that is the same on every machine.

        Returns:
            Settings as a recipe nests them: again a recipe, which starts the same run wherever it is read.
        """
        # Of the dataclass, not of an instance: that one has asked the machine already.
        defaults = {
            spec.name: spec.default if spec.default_factory is MISSING else spec.default_factory()
            for spec in fields(CONFIGS[self.algorithm])
        }
        own = asdict(self)
        given = defaults | own.pop("diversity") | own.pop("trainer")
        left_out = {*DIVERSITY, *_NOT_IN_A_RECIPE}
        return {
            **own,
            **{name: given[name] for name in DIVERSITY},
            "trainer": {name: given[name] for name in defaults if name not in left_out},
        }


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        path: YAML file.
        overrides: "key=value" each, such as "alpha=0.5" or "trainer.max_steps=100"; the last of a key wins, and an
            empty section, "lora={}" or "lora=null", takes back all of the section.

    Returns:
        The recipe, every key known and every value of the right type.

    Raises:
        RecipeError: An unreadable file, an unknown key (with the nearest known one), a value of the wrong type, or a
            setting that belongs elsewhere.
    """
    settings = read_settings(path)
    origin = dict.fromkeys(settings, str(path))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"override {override!r}: expected key=value, such as alpha=0.5; add the missing part.")
        document = {key: _override_value(key, text)}
        changed = flat_settings(document, f"override {override!r}")
        settings = not_cleared(settings, document) | changed
        origin |= dict.fromkeys(changed, f"override {override!r}")
    return build_recipe(settings, origin, str(path))


def build_recipe(settings: Mapping[str, Any], origin: Mapping[str, str], source: str) -> Recipe:
    """Check settings and make the recipe.

    Args:
        settings: Dotted name -> value.
        origin: Dotted name -> where the value comes from, for messages.
        source: The file or table as a whole, for messages.

    Returns:
        The recipe, every key known and every value of the right type.

    Raises:
        RecipeError: As `load_recipe` says.
    """
    algorithm = settings.get("algorithm", "grpo")
    if not isinstance(algorithm, str) or algorithm not in CONFIGS:
        raise RecipeError(f"{origin['algorithm']}: `algorithm` must be one of {', '.join(CONFIGS)}, got {algorithm!r}.")
    hints = setting_hints(algorithm)
    for key, value in settings.items():
        _check_setting(key, value, hints, origin[key])
    for key in ("task", "output_dir"):
        if key not in settings:
            raise RecipeError(f"{source}: expected the setting `{key}`, got none; add a line `{key}: ...`.")
    if "data.path" in settings and "task_options.path" in settings:
        raise RecipeError(
            f"{source}: expected the place of the data once, got `data.path` {settings['data.path']!r} and "
            f"`task_options.path` {settings['task_options.path']!r}; remove the second."
        )
    return _recipe(settings)


def setting_hints(algorithm: str) -> dict[str, Any]:
    """Every setting of a recipe by its dotted name, with its type; `task_options` are the task's business.

    Args:
        algorithm: "grpo", "rloo" or "ppo".

    Returns:
        Dotted name -> type hint.
    """
    config_hints, own = get_type_hints(CONFIGS[algorithm]), get_type_hints(Recipe)
    names = [spec.name for spec in fields(CONFIGS[algorithm])]
    hints = {name: hint for name, hint in own.items() if name not in (*SECTIONS, "diversity")}
    hints |= {name: config_hints[name] for name in DIVERSITY}
    hints |= {"data.path": str} | {f"lora.{name}": hint for name, hint in get_type_hints(LoraSettings).items()}
    return hints | {f"trainer.{n}": config_hints[n] for n in names if n not in (*DIVERSITY, *_NOT_IN_A_RECIPE)}


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
        others = [algorithm for algorithm in CONFIGS if key in setting_hints(algorithm)]
        advice = f"it belongs to algorithm {' and '.join(others)}, remove it." if others else _nearest(name, hints)
        raise RecipeError(f"{origin}: expected a setting of a recipe, got {key!r}; {advice}")
    if not fits(value, hints[key]):
        raise RecipeError(f"{origin}: `{key}` must be {in_words(hints[key])}, got {value!r}; change the value.")


def _nearest(name: str, hints: Mapping[str, Any]) -> str:
    # of two settings with one last part, `alpha` and `lora.alpha`, the one named first is meant
    by_last_part = {known.rpartition(".")[2]: known for known in reversed(hints)} | {key: key for key in SECTIONS}
    near = difflib.get_close_matches(name, by_last_part, n=1)
    return f"did you mean {by_last_part[near[0]]!r}?" if near else "see the recipes/ folder for what there is."


def _recipe(settings: Mapping[str, Any]) -> Recipe:
    parts: dict[str, Any] = {name: {} for name in (*SECTIONS, "diversity")}
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        if section:
            parts[section][name] = value
        elif name in DIVERSITY:
            parts["diversity"][name] = value
        else:
            parts[name] = value
    return Recipe(**parts)


# What a recipe's numbers and names must satisfy before anything is loaded: above zero, whole groups, two encoders.

_SEEDS = 2**32  # numpy's limit
_ABOVE_ZERO = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "num_iterations",
               "max_completion_length", "temperature", "learning_rate", "logging_steps", "steps_per_generation",
               "generation_batch_size", "num_train_epochs", "repetition_penalty", "epsilon", "epsilon_high", "delta",
               "adam_epsilon")  # fmt: skip
_AT_LEAST_ZERO = ("beta", "weight_decay", "max_grad_norm", "warmup_steps", "top_k")
_SHARES = {"top_p": (0.0, 1.0), "min_p": (None, 1.0), "adam_beta1": (None, 1.0), "adam_beta2": (None, 1.0)}
_LEVELS = ("token", "sequence")  # of GSPO's importance ratio; the host finds out after its first rollout


def check_numbers(trainer: Mapping[str, Any], seed: int) -> None:
    """Refuse what the host would take and compute with: signs, shares and names that mean nothing."""
    if not 0 <= seed < _SEEDS:
        raise RecipeError(f"`seed` must be at least 0 and below 2^32, got {seed}; change the value.")
    for name in _ABOVE_ZERO:
        value = trainer.get(name)
        if value is not None and value <= 0:
            raise RecipeError(f"`trainer.{name}` must be above 0, got {value}; change the value.")
    for name in _AT_LEAST_ZERO:
        value = trainer.get(name)
        if value is not None and value < 0:
            raise RecipeError(f"`trainer.{name}` must be at least 0, got {value}; change the value.")
    for name, (above, most) in _SHARES.items():
        value = trainer.get(name)
        if value is not None and not (0 <= value <= most and value != above):
            raise RecipeError(f"`trainer.{name}` must lie between 0 and {most:g}, got {value}; change the value.")
    if (steps := trainer.get("max_steps")) is not None and steps < 1 and steps != -1:
        raise RecipeError(f"`trainer.max_steps` must be at least 1, or -1 for whole epochs, got {steps}; change it.")
    level = trainer.get("importance_sampling_level")
    if level not in (None, *_LEVELS):
        raise RecipeError(f"`trainer.importance_sampling_level` must be one of {', '.join(_LEVELS)}, got {level!r}.")


def check_whole_groups(trainer: Mapping[str, Any]) -> None:
    """A generation batch must hold whole groups; says how it comes about and what would fit."""
    size, processes = trainer["num_generations"], int(os.environ.get("WORLD_SIZE", "1"))
    rows = trainer["per_device_train_batch_size"] * processes
    steps = trainer["steps_per_generation"] or trainer["gradient_accumulation_steps"]
    given = trainer["generation_batch_size"]
    if size is None:
        raise RecipeError("`trainer.num_generations` must be a number of responses a prompt, got null; set it.")
    if (given or rows * steps) % size:
        product = (
            f"{rows * steps} rows (trainer.per_device_train_batch_size {trainer['per_device_train_batch_size']} x "
            f"{processes} processes x {steps} accumulated); make the product"
        )
        raise RecipeError(
            f"a step must hold whole groups of trainer.num_generations = {size} responses, got "
            f"{f'trainer.generation_batch_size = {given}; make it' if given else product} a multiple of {size}."
        )


def outside_training(encoder: str, model: str) -> str:
    """The encoder by a name that means the same outside of the run: `policy` is the run's own start.

    Args:
        encoder: As a recipe names it.
        model: The policy that the run starts from.

    Returns:
        A name that `load_embedder` takes.
    """
    return f"policy:{model}" if encoder == "policy" else encoder


def check_heldout(heldout: str | None, encoder: str) -> None:
    """Refuse a second judge that is the first.

    Args:
        heldout: Name of the encoder for evaluation only, if there is one.
        encoder: Name of the one that measures diversity in training.

    Raises:
        RecipeError: They are one, be it by two names.
    """
    from dqo.embedders.loading import canonical

    if heldout is not None and canonical(heldout) == canonical(encoder):
        names = f"{heldout!r} for both" if heldout == encoder else f"{heldout!r}, another name of {encoder!r}"
        raise RecipeError(
            f"heldout_encoder: expected another encoder than `encoder`, which it checks, got {names}; choose another, "
            "or remove it."
        )


# LoRA from a recipe: train low-rank additions to a frozen policy.

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True)
class LoraSettings:
    """What a recipe says under `lora`.

    Attributes:
        r: Rank of the additions.
        alpha: Their scale, which is alpha / r.
        dropout: Share of their inputs dropped in training.
        target_modules: Names of the layers, or "all-linear".
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: list[str] | str = "all-linear"


def peft_config(lora: dict[str, Any]) -> "LoraConfig | None":
    """Settings of the package peft.

    Args:
        lora: Fields of `LoraSettings`.

    Returns:
        LoraConfig, None where the recipe says nothing: all weights are trained.

    Raises:
        RecipeError: Settings that peft refuses.
    """
    if not lora:
        return None
    from peft import LoraConfig

    settings = LoraSettings(**lora)
    if settings.r < 1:
        raise RecipeError(f"`lora.r` must be at least 1, got {settings.r}; change the value.")
    try:
        return LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=settings.target_modules,
            task_type="CAUSAL_LM",
        )
    except (ValueError, TypeError) as error:
        raise RecipeError(f"lora: peft refuses these settings ({first_words(error)}); change them.") from error
