"""Counts the files of src/dqo that one prompt passes on its way to a gradient.

    python benchmarks/footprint.py [--list] [RECIPE]

runs `dqo train RECIPE` (recipes/cities.yaml) for one step with a tiny random policy, and notes every file of which a
function is called: from the command to the call of TRL's `train`, and from there to the end of the first step. What
runs while a module is imported does not count as a call; imported files are counted apart. With PYTHONPATH=TREE/src it
counts another tree.
"""

import argparse
import inspect
import runpy
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import Trainer
from transformers.trainer_callback import CallbackHandler

import dqo
from tiny import save_tiny_policy

ROOT = Path(__file__).parents[1]
PACKAGE = f"{Path(dqo.__file__).parent}/"
TRAIN, STEP_END = (inspect.unwrap(method).__code__ for method in (Trainer.train, CallbackHandler.on_step_end))


class Footprint:
    """A profile function that notes files, by what is being done."""

    def __init__(self) -> None:
        self.files: dict[str, set[str]] = {"start-up": set(), "step": set(), "import": set()}
        self.doing = "start-up"

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Called by the interpreter at every call and return."""
        code = frame.f_code
        if event != "call" or self.doing == "done":
            return
        if code is TRAIN:
            self.doing = "step"
        elif code is STEP_END:
            self.doing = "done"
        elif code.co_filename.startswith(PACKAGE):
            file = code.co_filename.removeprefix(PACKAGE)
            if code.co_name == "<module>":
                self.files["import"].add(file)
            elif file not in self.files[self.doing] and not _importing(frame):
                self.files[self.doing].add(file)


def _importing(frame: FrameType | None) -> bool:
    """Whether the frame runs because some module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def measure(recipe: Path) -> dict[str, set[str]]:
    """Trains one step; gives the files that were called and imported, by what was being done."""
    footprint = Footprint()
    with tempfile.TemporaryDirectory() as folder:
        save_tiny_policy(Path(folder) / "policy")
        sys.argv = ["dqo", "train", str(recipe), f"model={folder}/policy", f"output_dir={folder}/run"]
        sys.argv += ["trainer.max_steps=1", "trainer.use_cpu=true", "trainer.save_strategy=no"]
        threading.setprofile(footprint)
        sys.setprofile(footprint)
        try:
            runpy.run_module("dqo", run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    return footprint.files


def main() -> None:
    """Print the counts, and the files where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=ROOT / "recipes" / "cities.yaml", metavar="RECIPE")
    parser.add_argument("--list", action="store_true", help="name the files too")
    options = parser.parse_args()
    files = measure(options.recipe)
    files = {"start-up": files["start-up"], "first step": files["step"],
             "one prompt, from the command to its gradient": files["start-up"] | files["step"],
             "imported until then": files["import"]}  # fmt: skip
    for name, those in files.items():
        print(f"{name:46}{len(those):4} files")
        print("".join(f"    {file}\n" for file in sorted(those)) if options.list else "", end="")


if __name__ == "__main__":
    main()
