"""The folder of a run: config.yaml, resolved.yaml, metrics.jsonl, checkpoints/{checkpoint-N, final}, eval/."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dqo.checkpoints import newest_whole
from dqo.cli.flat_settings import read_settings
from dqo.errors import ModelError, RecipeError
from dqo.folder_lock import LOCK, owning

_CHAT_SETTINGS = ("system_prompt", "trainer.chat_template_kwargs", "trace_markers")
# Of a sweep, which also locks the folder, and of a run killed as it began.
_BEFORE_A_RUN = ("recipe.yaml", "train.log", "metrics.jsonl", "checkpoints")


class RunFolder:
    """Paths of a run.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        self.config = self.path / "config.yaml"
        self.resolved = self.path / "resolved.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.final = self.checkpoints / "final"
        self.eval = self.path / "eval"

    @contextmanager
    def owned(self, resume: bool) -> Iterator[None]:
        """Makes the folder and holds it as its only writer, which proves that it can be written.

        Args:
            resume: Whether a run in it may be continued.

        Raises:
            RecipeError: A folder that holds something although `resume` is off, or something else than a run.
            FolderBusyError: Another process trains into it.
            DataError: It cannot be written.
        """
        with owning(self.path):
            self.check_content(resume)
            yield

    def check_content(self, resume: bool) -> None:
        """Look whether what the folder holds lets a run begin, or go on, in it.

        Args:
            resume: Whether a run in it may be continued.

        Raises:
            RecipeError: It holds something although `resume` is off, or something else than a run.
        """
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
    """Finds the run that a path belongs to, however the path is written: relative, by a link, with a slash at its end.

    Args:
        name: A run folder, its `checkpoints`, one of these, another model's folder or a hub name.

    Returns:
        The run; None where the name is no folder or the folder is no part of a run.
    """
    given = Path(name).expanduser()
    if not name or not os.path.isdir(given):  # False too for a name that no file system takes
        return None
    # links first as they are written, since `checkpoints` may itself be one; a shell keeps how it came here in PWD
    shell = os.environ.get("PWD", "")
    starts = [shell, os.getcwd()] if os.path.isdir(shell) and os.path.samefile(shell, ".") else [os.getcwd()]
    written = [Path(os.path.abspath(start / given)) for start in map(Path, starts)]
    same = [path for path in written if os.path.isdir(path) and path.samefile(given)]  # `link/..` may lead elsewhere
    for path in [*same, given.resolve()]:
        for run in map(RunFolder, (path, path.parent, path.parent.parent)):
            a_part = run.checkpoints in (path, path.parent) or path == run.path
            if a_part and run.config.is_file() and run.checkpoints.is_dir():
                return run
    return None


def model_source(name: str) -> str:
    """Chooses what to load for `--model`: the final checkpoint of a run, anything else as it is.

    Args:
        name: As for `run_of`.

    Returns:
        A model folder or hub name.

    Raises:
        ModelError: A run folder whose training has not finished.
    """
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
    """Reads how the policy of a run was asked, and which traces its responses have.

    Args:
        name: As for `run_of`.

    Returns:
        What the run sets of `system_prompt`, `chat_template_kwargs` and `trace_markers`; empty for another model.
    """
    run = run_of(name)
    settings = {} if run is None else read_settings(run.config)
    found = {key.rpartition(".")[2]: settings.get(key) for key in _CHAT_SETTINGS}
    return {key: value for key, value in found.items() if value is not None}
