"""The folder of a run: config.yaml, resolved.yaml, metrics.jsonl, checkpoints/{checkpoint-N, final}, eval/."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dqo._version import __version__
from dqo.errors import ModelError, RecipeError
from dqo.files.run import RunPaths, check_unchanged, newest_whole
from dqo.settings.yaml import read_yaml_file
from dqo.train.recipe import read_settings

_CHAT_SETTINGS = ("system_prompt", "trainer.chat_template_kwargs", "trace_markers")
_BEFORE_A_RUN = {"recipe.yaml", "train.log", "metrics.jsonl", "checkpoints"}  # of a sweep, or a kill at the start


def check_free(folder: RunPaths, resume: bool) -> None:
    """Refuses a folder that holds something else than a run to continue, or anything without `resume`."""
    names = {path.name for path in folder.path.glob("[!.]*")}
    # TRL makes the folder of checkpoints early, and a start that was refused leaves its settings alone.
    if folder.checkpoints.is_dir() and not any(folder.checkpoints.iterdir()):
        names.remove(folder.checkpoints.name)
    refused_start = names == {folder.config.name, folder.resolved.name}
    to_continue = resume and (folder.config.is_file() or names <= _BEFORE_A_RUN)
    if names and not refused_start and not to_continue:
        raise RecipeError(
            f"output_dir {str(folder.path)!r}: expected an empty or new folder, or with --resume a run to continue, "
            f"but it holds {min(names)!r}; add --resume, or set output_dir to another folder."
        )


def run_of(name: str) -> RunPaths | None:
    """Finds the run that a path belongs to, however the path is written; None where it belongs to none."""
    given = Path(name).expanduser()
    # False too for a name that no file system takes.
    if not name or not os.path.isdir(given):
        return None
    # Links first as they are written, since `checkpoints` may itself be one; a shell keeps how it came here in PWD.
    written = [Path(os.path.abspath(Path(start) / given)) for start in (os.environ.get("PWD", ""), "")]
    # `link/..` may lead elsewhere, and PWD may be another program's.
    same = [path for path in written if os.path.isdir(path) and path.samefile(given)]
    for path in [*same, given.resolve()]:
        for run in map(RunPaths, (path, path.parent, path.parent.parent)):
            a_part = run.checkpoints in (path, path.parent) or path == run.path
            if a_part and run.config.is_file() and run.checkpoints.is_dir():
                return run
    return None


def model_source(name: str) -> str:
    """Chooses what to load for `--model`: the final checkpoint of a run, anything else as it is."""
    run = run_of(name)
    given = Path(name).expanduser()
    if run is None or not any(given.samefile(folder) for folder in (run.path, run.checkpoints)):
        return name
    if run.final.is_dir():
        return str(run.final)
    newest = newest_whole(run.checkpoints).newest
    remedy = f"or give {str(newest)!r}" if newest else "it has no checkpoint yet"
    raise ModelError(
        f"model {name!r}: expected a finished run with checkpoints/final, got an unfinished one; finish it with "
        f"`dqo train ... --resume`, {remedy}."
    )


def run_chat_settings(name: str) -> dict[str, Any]:
    """Reads how the policy of a run was asked, and which traces its responses have."""
    run = run_of(name)
    settings = {} if run is None else read_settings(run.config)
    found = {key.rpartition(".")[2]: settings.get(key) for key in _CHAT_SETTINGS}
    return {key: value for key, value in found.items() if value is not None}


# The settings of a run on disk: config.yaml is what was given, resolved.yaml what this machine made of it.

_VERSIONS = ("torch", "trl", "transformers")
# What may change between a run and its continuation: how long it goes on, and what it costs to watch and keep.
_MAY_CHANGE = (
    "max_steps", "num_train_epochs", "save_", "logging_", "log_", "disable_tqdm", "report_to", "dataloader_",
    "gradient_checkpointing", "activation_checkpointing", "run_name",
)  # fmt: skip


def resolved_settings(settings: Mapping[str, Any], prompts: str, trainer: Any) -> dict[str, Any]:
    """Lists what this machine, its packages and the number of processes decided for a run on data of this digest."""
    import torch

    device, config = trainer.accelerator.device, trainer.args.to_dict()
    return {
        "prompts": prompts,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "processes": trainer.accelerator.num_processes,
        "attention": getattr(trainer.model.config, "_attn_implementation", None),
        "trainer": {name: config[name] for name, given in settings["trainer"].items() if config[name] != given},
        "versions": {"dqo": __version__} | {name: version(name) for name in _VERSIONS},
    }


def check_same_run(folder: RunPaths, settings: Mapping[str, Any], prompts: str) -> None:
    """Refuses to continue a run of other settings or data; what a machine chooses is none of them."""
    now, remedy = _flat(settings), "set it back, or start anew in another output_dir"
    fixed = {name: now[name] for name in now if name != "output_dir" and not name.startswith(_MAY_CHANGE)}
    for path, values in ((folder.config, fixed), (folder.resolved, {"prompts": prompts})):
        check_unchanged(path, _flat(read_yaml_file(path)), values, "the run that --resume continues", remedy)


def machine_change(path: Path, resolved: Mapping[str, Any]) -> str:
    """Says what this machine does otherwise than the one before, whose resolved.yaml `path` is; "" where nothing."""
    before = _flat(read_yaml_file(path))
    changed = [
        f"{name} was {before[name]!r} and is now {value!r}"
        for name, value in _flat(resolved).items()
        if before.get(name, value) != value
    ]
    return "; ".join(changed)


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the sections `trainer` and `versions` beside the others."""
    own = {name: value for name, value in document.items() if name not in ("trainer", "versions")}
    return own | document.get("trainer", {}) | document.get("versions", {})
