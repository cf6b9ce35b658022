"""The settings of a run on disk: config.yaml is what was given, resolved.yaml what this machine made of it."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dqo.cli.flat_settings import SECTIONS, nested_settings, read_settings
from dqo.errors import DQOError, RecipeError
from dqo.run_format import FORMAT
from dqo.yaml_files import read_yaml_file, write_yaml_file

_VERSIONS = ("dqo", "torch", "trl", "transformers")
# What may change between a run and its continuation: how long it goes on, and what it costs to watch and keep.
_MAY_CHANGE = (
    "max_steps", "num_train_epochs", "save_", "logging_", "log_", "disable_tqdm", "report_to", "dataloader_",
    "gradient_checkpointing", "activation_checkpointing", "run_name",
)  # fmt: skip
_ALWAYS_SHOWN = ("use_cpu", "bf16", "fp16")  # what a reader looks for first, changed or not


def save_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes config.yaml or resolved.yaml atomically, with the format of the run's files.

    Args:
        path: The file.
        settings: As `Recipe.settings` or `resolved_settings` gives them.
    """
    document = {"format": FORMAT, **settings}
    write_yaml_file(path, document)


def resolved_settings(settings: Mapping[str, Any], trainer: Any) -> dict[str, Any]:
    """Lists what this machine, its packages and the number of processes decided for a run.

    Args:
        settings: As `Recipe.settings` gives them.
        trainer: What trains the run.

    Returns:
        Device, processes, attention, the settings of `trainer` that are not as they were given, and versions.
    """
    device, config = trainer.accelerator.device, trainer.args.to_dict()
    given = settings["trainer"]
    chosen = {name: config[name] for name in given if name in _ALWAYS_SHOWN or config[name] != given[name]}
    return {
        "device": str(device),
        "device_name": _device_name(device),
        "processes": trainer.accelerator.num_processes,
        "attention": getattr(trainer.model.config, "_attn_implementation", None),
        "trainer": chosen,
        "versions": {name: version(name) for name in _VERSIONS},
    }


def check_same_run(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuses to continue a run of other settings; what a machine chooses is none of them.

    Args:
        path: Its config.yaml.
        settings: Of the continuation, as `Recipe.settings` gives them.

    Raises:
        RecipeError: Naming the first setting that differs and may not.
    """
    before, now = _flat(nested_settings(read_settings(path))), _flat(settings)
    # an empty section is not in the file, nor is a setting that did not exist when it was written
    before = {section: {} for section in SECTIONS} | {"system_prompt": None} | before
    for name, value in now.items():
        if name != "output_dir" and not name.startswith(_MAY_CHANGE) and before.get(name, value) != value:
            raise RecipeError(
                f"{path}: expected the recipe of the run that --resume continues, but {name!r} was "
                f"{before.get(name)!r} and is now {value!r}; set it back, or start anew in another output_dir."
            )


def machine_notes(path: Path, resolved: Mapping[str, Any]) -> list[str]:
    """Says what this machine does otherwise than the one that the run has been on so far.

    Args:
        path: The resolved.yaml of the run; it need not exist.
        resolved: Of this start, as `resolved_settings` gives it.

    Returns:
        At most one sentence.
    """
    if not path.is_file():
        return []
    try:
        before = _flat(read_yaml_file(path))
    except DQOError as error:  # it is a record, which this start writes anew
        return [f"what the machine before chose cannot be read ({error})"]
    now = _flat(resolved)
    changed = [f"{name} was {before[name]!r} and is now {value!r}" for name, value in now.items()
               if name in before and before[name] != value]  # fmt: skip
    return [f"this machine continues the run differently: {'; '.join(changed)}"] if changed else []


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the sections `trainer` and `versions` beside the others."""
    own = {name: value for name, value in document.items() if name not in ("trainer", "versions")}
    return own | document.get("trainer", {}) | document.get("versions", {})


def _device_name(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
