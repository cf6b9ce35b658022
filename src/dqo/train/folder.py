"""The folder of a run: config.yaml, resolved.yaml, metrics.jsonl, checkpoints/{checkpoint-N, final}, eval/."""

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dqo.errors import DQOError, ModelError, RecipeError
from dqo.files.records import write_text
from dqo.files.run import LOCK, RunPaths, check_unchanged, newest_whole, owning
from dqo.settings.yaml import read_yaml_file, to_yaml
from dqo.train.recipe import SECTIONS, nested_settings, read_settings

_CHAT_SETTINGS = ("system_prompt", "trainer.chat_template_kwargs", "trace_markers")
# Of a sweep, which also locks the folder, and of a run killed as it began.
_BEFORE_A_RUN = ("recipe.yaml", "train.log", "metrics.jsonl", "checkpoints")


class RunFolder(RunPaths):
    """The folder that a run writes to."""

    @contextmanager
    def owned(self, resume: bool) -> Iterator[None]:
        """Makes the folder and holds it as its only writer, which proves that it can be written."""
        with owning(self.path):
            self.check_content(resume)
            yield

    def check_content(self, resume: bool) -> None:
        """Refuses a folder that holds something else than a run to continue, or anything without `resume`."""
        if not resume and not self._is_free():
            raise RecipeError(
                f"output_dir {str(self.path)!r}: expected an empty or new folder, but it holds files; add --resume to "
                "continue that run, or set output_dir to another folder."
            )
        if resume and not self.config.is_file():
            names = sorted(entry.name for entry in self.path.iterdir())
            foreign = [name for name in names if name not in _BEFORE_A_RUN and not name.startswith((".", "eval"))]
            if foreign:
                raise RecipeError(
                    f"output_dir {str(self.path)!r}: expected a run to continue, or an empty folder, but it has no "
                    f"config.yaml and holds {foreign[0]!r}; correct output_dir."
                )

    def forget_start(self) -> None:
        """Take back the settings of a start that was refused before it wrote anything else: the folder is free."""
        own = (self.config, self.resolved)
        if self._is_free(but=own):
            for path in own:
                path.unlink(missing_ok=True)

    def _is_free(self, but: tuple[Path, ...] = ()) -> bool:
        """Whether nothing is there, `but` passed over, or the empty folder of checkpoints that TRL makes early."""
        others = [entry for entry in self.path.iterdir() if entry not in but and entry.name != LOCK]
        return not others or (others == [self.checkpoints] and not any(self.checkpoints.iterdir()))

    def newest_checkpoint(self) -> Path | None:
        """The whole checkpoint of the most steps, judged by the sizes of its files; None where there is none."""
        return newest_whole(self.checkpoints).newest


def run_of(name: str) -> RunFolder | None:
    """Finds the run that a path belongs to, however the path is written; None where it belongs to none."""
    given = Path(name).expanduser()
    # False too for a name that no file system takes.
    if not name or not os.path.isdir(given):
        return None
    # Links first as they are written, since `checkpoints` may itself be one; a shell keeps how it came here in PWD
    shell = os.environ.get("PWD", "")
    starts = [shell, os.getcwd()] if os.path.isdir(shell) and os.path.samefile(shell, ".") else [os.getcwd()]
    written = [Path(os.path.abspath(start / given)) for start in map(Path, starts)]
    # `link/..` may lead elsewhere.
    same = [path for path in written if os.path.isdir(path) and path.samefile(given)]
    for path in [*same, given.resolve()]:
        for run in map(RunFolder, (path, path.parent, path.parent.parent)):
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
    newest = run.newest_checkpoint()
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

_VERSIONS = ("dqo", "torch", "trl", "transformers")
# What may change between a run and its continuation: how long it goes on, and what it costs to watch and keep.
_MAY_CHANGE = (
    "max_steps", "num_train_epochs", "save_", "logging_", "log_", "disable_tqdm", "report_to", "dataloader_",
    "gradient_checkpointing", "activation_checkpointing", "run_name",
)  # fmt: skip
_ALWAYS_SHOWN = ("use_cpu", "bf16", "fp16")  # what a reader looks for first, changed or not


def save_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes config.yaml or resolved.yaml atomically."""
    write_text(path, to_yaml(settings))


def resolved_settings(settings: Mapping[str, Any], trainer: Any) -> dict[str, Any]:
    """Lists what this machine, its packages and the number of processes decided for a run."""
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
    """Refuses to continue a run of other settings; what a machine chooses is none of them."""
    before, now = _flat(nested_settings(read_settings(path))), _flat(settings)
    # An empty section is not in the file, nor is a setting that did not exist when it was written.
    before = {section: {} for section in SECTIONS} | {"system_prompt": None} | before
    fixed = {name: now[name] for name in now if name != "output_dir" and not name.startswith(_MAY_CHANGE)}
    expected = "the recipe of the run that --resume continues"
    check_unchanged(path, before, fixed, expected, "set it back, or start anew in another output_dir")


def machine_notes(path: Path, resolved: Mapping[str, Any]) -> list[str]:
    """Says, in at most one sentence, what this machine does otherwise than the one before."""
    if not path.is_file():
        return []
    try:
        before = _flat(read_yaml_file(path))
    except DQOError as error:
        # It is a record, which this start writes anew.
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
