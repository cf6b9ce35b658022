"""The folder of a run: config.yaml, resolved.yaml, metrics.jsonl, checkpoints/{checkpoint-N, final}, eval/."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dqo.checkpoints import newest_whole
from dqo.cli.flat_settings import read_settings
from dqo.errors import ModelError, RecipeError
from dqo.hub import first_words

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES)
# Of a sweep, which also locks the folder, and of a run killed as it began.
_BEFORE_A_RUN = ("recipe.yaml", "train.log", "metrics.jsonl", "checkpoints")
_TORCH_WRITER = ("PytorchStreamWriter", "inline_container.cc")  # the second on closing a file that was cut short


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

    def prepare(self, resume: bool) -> None:
        """Make the folder and prove that it can be written, before anything costs time.

        Args:
            resume: Whether a run in it may be continued.

        Raises:
            RecipeError: A folder that cannot be written, that holds something although `resume` is off, or that holds
                something else than a run.
        """
        probe = self.path / ".writable"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RecipeError(
                f"output_dir {str(self.path)!r}: expected a folder that can be written, got {error.strerror}; "
                "set output_dir to another place."
            ) from error
        self.check_content(resume)

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
        others = [entry for entry in self.path.iterdir() if entry not in but]
        return not others or (others == [self.checkpoints] and not any(self.checkpoints.iterdir()))

    def newest_checkpoint(self) -> Path | None:
        """The whole checkpoint of the most steps, judged by the sizes of its files; None where there is none."""
        return newest_whole(self.checkpoints).newest

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns the savers' ways of reporting a full disk into a sentence with the folder."""
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:
            # torch.save reports a failed write as a RuntimeError that only its text tells from a bug, and a lost
            # connection is an OSError too
            of_the_disk = isinstance(error, SafetensorError) or any(words in str(error) for words in _TORCH_WRITER)
            if not of_the_disk and getattr(error, "errno", None) not in _DISK_ERRORS:
                raise
            raise RecipeError(
                f"{self.path}: writing the run failed with {first_words(error)} and "
                f"{shutil.disk_usage(self.path).free / 1e9:.1f} GB free; free space, then add --resume."
            ) from error


def model_source(name: str) -> str:
    """What to load for `--model`: the final checkpoint of a run folder, anything else as it is.

    Args:
        name: Run folder, model folder or hub name.

    Returns:
        A model folder or hub name.

    Raises:
        ModelError: A run folder whose training has not finished.
    """
    run = RunFolder(name)
    if not run.config.is_file() or not run.checkpoints.is_dir():
        return name
    if run.final.is_dir():
        return str(run.final)
    newest = run.newest_checkpoint()
    remedy = f"or give {str(newest)!r}" if newest else "it has no checkpoint yet"
    raise ModelError(
        f"model {name!r}: expected a finished run with checkpoints/final, got an unfinished one; finish it with "
        f"`dqo train ... --resume`, {remedy}."
    )


def run_system_prompt(name: str) -> str | None:
    """The system prompt that the policy of a run was trained with; None for another model.

    Args:
        name: Run folder, one of its checkpoints, another model's folder or a hub name.

    Returns:
        The text, or None.
    """
    path = Path(name)
    for folder in (path, path.parent.parent):  # a run, or one of its checkpoints
        run = RunFolder(folder)
        if run.config.is_file() and (path == folder or path.parent == run.checkpoints) and run.checkpoints.is_dir():
            return read_settings(run.config).get("system_prompt")
    return None
