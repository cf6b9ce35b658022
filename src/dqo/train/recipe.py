"""A recipe: one YAML file that says everything about a run, and `key=value` overrides of it.

Settings travel as one flat table, `trainer.learning_rate: 1e-5`, so that a file and an override go through the same
check. The settings are declared in the dataclasses that use them: `Recipe`, `LoraSettings` and the trainers' configs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model

from dqo.embedders.loading import canonical
from dqo.errors import RecipeError
from dqo.integrations.trl.config import DiversityArguments, DQOConfig, DQOPPOConfig, DQORLOOConfig, explaining_refusals
from dqo.models.policy import DEFAULT_POLICY
from dqo.rewards.loading import Entry, read_entries
from dqo.settings.checking import Strict, check, model_of, setting
from dqo.settings.yaml import parse_yaml, read_yaml_file
from dqo.tasks import TASKS

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIGS = {"grpo": DQOConfig, "rloo": DQORLOOConfig, "ppo": DQOPPOConfig}
DIVERSITY = tuple(spec.name for spec in fields(DiversityArguments))
SECTIONS = ("task_options", "data", "lora", "trainer")
NOT_IN_A_RECIPE = {
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


# TRL takes what lies outside of these bounds, and computes with it.
_BOUNDS = (
    dict.fromkeys(
        ("per_device_train_batch_size", "gradient_accumulation_steps", "num_iterations", "max_completion_length",
         "temperature", "learning_rate", "logging_steps", "steps_per_generation", "generation_batch_size",
         "num_train_epochs", "repetition_penalty", "epsilon", "epsilon_high", "delta", "adam_epsilon"),
        Field(gt=0),
    )
    | dict.fromkeys(("beta", "weight_decay", "max_grad_norm", "warmup_steps", "top_k"), Field(ge=0))
    | dict.fromkeys(("min_p", "adam_beta1", "adam_beta2"), Field(ge=0, le=1))
    | {"top_p": Field(gt=0, le=1)}
)  # fmt: skip
_TYPES = {
    "num_generations": Annotated[int, Field(gt=0)],
    "importance_sampling_level": Literal["token", "sequence"],
    "max_steps": Annotated[int, Field(gt=0)] | Literal[-1],  # -1 for whole epochs
}


@dataclass(frozen=True)
class Recipe:
    """What a run is made of; `load_recipe` reads and checks it.

    Attributes:
        diversity: Fields of `DiversityArguments` that the recipe sets; they stand at its top level.
        trainer: Fields of TRL's config that the recipe sets.
    """

    task: str = setting(MISSING, f"Name of a task: {', '.join(TASKS)}.")
    output_dir: str = setting(MISSING, "The run folder.")
    model: str = setting(DEFAULT_POLICY, "Name or folder of the policy.")
    system_prompt: str | None = setting(
        None, "System message before every prompt; null leaves it to the model's chat template."
    )
    task_options: dict[str, Any] = setting(dict, "Arguments of the task.")
    data: dict[str, str] = setting(dict, "`path` is a local copy of the task's data set.")
    rewards: list[dict[str, Any]] = setting(
        list, "What is optimised beside diversity (docs/guides/trl.md); the task's quality where there is none."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = setting("float32", "Of the weights that are loaded.")
    lora: dict[str, Any] = setting(dict, "Low-rank additions to a frozen policy; all weights are trained without.")
    algorithm: Literal["grpo", "rloo", "ppo"] = setting("grpo", "Trainer of the run.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = setting(42, "Of everything random in the run.")
    deterministic: bool = setting(
        False, "Only algorithms of torch that give the same numbers every time; slower, on a GPU above all."
    )
    heldout_encoder: str | None = setting(
        None, "Encoder for evaluation only, never used in training; 'policy' is the frozen start of the run."
    )
    diversity: dict[str, Any] = setting(dict, "")
    trainer: dict[str, Any] = setting(dict, "Fields of TRL's config, and those of the algorithm.")

    @cached_property
    def entries(self) -> list[Entry]:
        """The rewards, checked but not loaded."""
        return read_entries(self.rewards)

    @cached_property
    def config(self) -> DQOConfig | DQORLOOConfig | DQOPPOConfig:
        """TRL's settings, checked by TRL too; checkpoints go to <output_dir>/checkpoints."""
        # Made once: building another one resets accelerate's process state under a trainer that is already there.
        config_class = CONFIGS[self.algorithm]
        encoder = outside_training(self.diversity.get("encoder", config_class.encoder), self.model)
        check_heldout(self.heldout_encoder and outside_training(self.heldout_encoder, self.model), encoder)
        return config_class(
            str(Path(self.output_dir).expanduser() / "checkpoints"),
            seed=self.seed,
            full_determinism=self.deterministic,
            reward_weights=[entry.weight for entry in self.entries],
            **self.diversity | {"encoder": encoder},
            **self.trainer,
        )

    def settings(self) -> dict[str, Any]:
        """Lists every setting as it was given, or by a default that is the same on every machine."""
        own = asdict(self)
        own |= own.pop("diversity")
        # An empty section is none: its model would fill it.
        sections = {name: own.pop(name) for name in ("data", "lora")}
        # The model's defaults are the dataclass's; an instance of TRL's config has asked the machine already.
        checked = recipe_model(self.algorithm)(**own)
        return dict(checked) | sections | {"trainer": dict(checked.trainer)}


class LoraSettings(Strict):
    """What a recipe says under `lora`."""

    r: int = Field(16, ge=1, description="Rank of the additions.")
    alpha: int = Field(32, description="Their scale, which is alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of their inputs dropped in training.")
    target_modules: list[str] | str = Field("all-linear", description="Names of the layers, or 'all-linear'.")


class _Data(Strict):
    path: str = Field(description="File, or folder with train.jsonl and test.jsonl.")


@cache
def recipe_model(algorithm: str) -> type[BaseModel]:
    """Makes the model of a recipe file, which also gives the schema for editors."""
    config = CONFIGS[algorithm]
    own = tuple(spec.name for spec in fields(Recipe) if spec.name not in ("data", "lora", "diversity", "trainer"))
    trainer = model_of(config, _trainer_names(algorithm))
    narrowed = {
        name: (_TYPES.get(name) or Annotated[one.annotation, _BOUNDS[name]], one)
        for name, one in trainer.model_fields.items()
        if name in _TYPES or name in _BOUNDS
    }
    sections = {"data": _Data, "lora": LoraSettings, "trainer": create_model("Trainer", __base__=trainer, **narrowed)}
    return create_model(
        "Recipe",
        __base__=(model_of(Recipe, own), model_of(config, DIVERSITY)),
        **{name: (part, Field(default_factory=dict)) for name, part in sections.items()},
    )


def recipe_schema() -> dict[str, Any]:
    """Makes the JSON schema of a recipe of any algorithm."""
    whole, *others = (recipe_model(algorithm).model_json_schema() for algorithm in CONFIGS)
    for other in others:
        whole["$defs"] = other["$defs"] | whole["$defs"]
        trainer = whole["$defs"]["Trainer"]["properties"]
        trainer |= {name: one for name, one in other["$defs"]["Trainer"]["properties"].items() if name not in trainer}
    return whole


def _trainer_names(algorithm: str) -> tuple[str, ...]:
    left_out = {*DIVERSITY, *NOT_IN_A_RECIPE}
    return tuple(spec.name for spec in fields(CONFIGS[algorithm]) if spec.name not in left_out)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe, after overrides such as "alpha=0.5" or "trainer.max_steps=100".

    The last override of a key wins, and an empty section, "lora={}" or "lora=null", takes back all of the section.
    RecipeError names every unknown key, value of the wrong type and setting that belongs elsewhere.
    """
    settings = read_settings(path)
    origin = dict.fromkeys(settings, str(path))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"override {override!r}: expected key=value, such as alpha=0.5; add the missing part.")
        place = f"override {override!r}"
        document = {key: parse_yaml(text, place)}
        changed = flat_settings(document, place)
        settings = not_cleared(settings, document) | changed
        origin |= dict.fromkeys(changed, place)
    return build_recipe(settings, origin, str(path))


def build_recipe(settings: Mapping[str, Any], origin: Mapping[str, str], source: str) -> Recipe:
    """Makes the recipe of settings by dotted name; `origin` says of each where it comes from, for messages."""
    algorithm = settings.get("algorithm", "grpo")
    # A wrong algorithm is reported with all other mistakes.
    known = algorithm if algorithm in list(CONFIGS) else "grpo"
    nested = nested_settings(settings)
    check(recipe_model(known), nested, {"": source, **origin}, _advice())
    if "data.path" in settings and "task_options.path" in settings:
        raise RecipeError(
            f"{source}: expected the place of the data once, got `data.path` {settings['data.path']!r} and "
            f"`task_options.path` {settings['task_options.path']!r}; remove the second."
        )
    diversity = {name: nested.pop(name) for name in DIVERSITY if name in nested}
    return Recipe(**nested, diversity=diversity)


def _advice() -> dict[str, str]:
    """What to do about keys that only other algorithms have, or that a recipe sets elsewhere."""
    # PPO's settings include GRPO's, so GRPO comes last and is named for its own.
    belongs = {
        f"trainer.{name}": f"it belongs to algorithm {algorithm}, remove it"
        for algorithm in reversed(CONFIGS)
        for name in _trainer_names(algorithm)
    }
    return belongs | {f"trainer.{name}": remedy for name, remedy in NOT_IN_A_RECIPE.items()}


# The settings of a recipe as one flat table, `trainer.learning_rate: 1e-5`, and back to sections.


def read_settings(path: str | Path) -> dict[str, Any]:
    """Reads the settings of a recipe file by dotted name, in file order and not yet checked."""
    return flat_settings(read_yaml_file(path), str(path))


def flat_settings(document: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Lists settings by dotted name, of a document that nests them or has them dotted already."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if key not in SECTIONS or isinstance(value, dict):
            given = {f"{key}.{name}": inner for name, inner in value.items()} if key in SECTIONS else {key: value}
            if twice := [name for name in given if name in flat]:
                raise RecipeError(
                    f"{origin}: expected each setting once, got {twice[0]!r} both in its section and by its dotted "
                    "name; remove one of the two."
                )
            flat |= given
        elif value is not None:
            raise RecipeError(f"{origin}: `{key}` must be a mapping of settings, got {value!r}; indent them below it.")
    return flat


def not_cleared(settings: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the settings of sections that a document names and leaves empty: `lora: {}` means no LoRA at all."""
    cleared = [key for key in SECTIONS if key in document and not document[key]]
    return {key: value for key, value in settings.items() if key.partition(".")[0] not in cleared}


def nested_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nests settings by dotted name as a recipe does; the reverse of `flat_settings`."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        section, dot, name = key.partition(".")
        if dot and section in SECTIONS:
            nested.setdefault(section, {})[name] = value
        else:
            nested[key] = value
    return nested


# What no single setting shows: two encoders, LoRA.


def outside_training(encoder: str, model: str) -> str:
    """Names the encoder as `load_embedder` takes it: `policy` is the frozen start of the run, `policy:<model>`."""
    return f"policy:{model}" if encoder == "policy" else encoder


def check_heldout(heldout: str | None, encoder: str) -> None:
    """Refuses a held-out encoder that is the training encoder, be it by another name."""
    if heldout is not None and canonical(heldout) == canonical(encoder):
        raise RecipeError(
            f"heldout_encoder: expected another encoder than `encoder`, which it checks, got {heldout!r} beside "
            f"{encoder!r}, which are the same; choose another, or remove it."
        )


def peft_config(lora: dict[str, Any]) -> "LoraConfig | None":
    """Makes peft's LoraConfig of the fields of `LoraSettings`; None where the recipe has none of them."""
    if not lora:
        return None
    from peft import LoraConfig

    settings = LoraSettings(**lora)
    given = {"r": settings.r, "lora_alpha": settings.alpha, "lora_dropout": settings.dropout}
    with explaining_refusals(lora, "lora: peft"):
        return LoraConfig(**given, target_modules=settings.target_modules, task_type="CAUSAL_LM")
