"""`dqo sample`: responses to the prompts of a file, and the sampling that `dqo eval` shares."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.cli.run_folder import model_source, run_chat_settings
from dqo.errors import RecipeError
from dqo.folder_lock import owning
from dqo.records import Group, Prompt, read_prompts
from dqo.response import TraceMarkers
from dqo.setting_types import plain
from dqo.yaml_files import parse_yaml

if TYPE_CHECKING:
    from dqo.evaluation.sample import Source

DEFAULT_LENGTH = 256  # tokens of a response where no task says better
DEFAULT_SAMPLES = 10


def run(args: argparse.Namespace) -> None:
    """Write DIR/groups.jsonl, or one folder a temperature where there are several.

    Args:
        args: `model`, `data`, `out` and the sampling flags.

    Raises:
        DQOError: A data file, model, endpoint or number that does not do.
    """
    prompts = read_prompts(args.data)
    with owning(args.out):
        sampler = Sampler(args, DEFAULT_LENGTH)
        for temperature, folder in folders(args):
            groups = sampler.sample(prompts, temperature, folder)
            print(f"Sampled {sampler.n} responses to each of {len(groups)} prompts: {folder / 'groups.jsonl'}")


def folders(args: argparse.Namespace) -> list[tuple[float, Path]]:
    """The temperatures asked for, each with its folder: DIR itself for one, DIR/temperature-T for several.

    Args:
        args: `temperature`, None or a list, and `out`.

    Returns:
        (temperature, folder), in the order given.
    """
    temperatures = args.temperature or [1.0]
    if len(temperatures) == 1:
        return [(temperatures[0], Path(args.out))]
    return [(value, Path(args.out) / f"temperature-{plain(value)}") for value in temperatures]


def chat_settings(args: argparse.Namespace) -> dict[str, Any]:
    """How a model is asked and read: by the flags, else as in the run that `--model` names.

    Args:
        args: `model`, `system_prompt`, `chat_template_kwargs` and `trace_markers`.

    Returns:
        What is given of the three settings.

    Raises:
        RecipeError: `--chat-template-kwargs` that are no mapping, or markers that are none.
    """
    given = {name: getattr(args, name) for name in ("system_prompt", "chat_template_kwargs", "trace_markers")}
    if given["chat_template_kwargs"] is not None:
        given["chat_template_kwargs"] = parse_yaml(given["chat_template_kwargs"], "--chat-template-kwargs")
        if not isinstance(given["chat_template_kwargs"], dict):
            raise RecipeError(
                "--chat-template-kwargs: expected a mapping such as '{enable_thinking: false}', got "
                f"{args.chat_template_kwargs!r}."
            )
    of_run = run_chat_settings(args.model) if args.model else {}
    settings = of_run | {name: value for name, value in given.items() if value is not None}
    TraceMarkers.parse(settings.get("trace_markers", "default"))
    return settings


def key_values(options: Sequence[str], flag: str) -> dict[str, Any]:
    """What a repeated flag of the form key=value says.

    Args:
        options: Each "key=value", the value in YAML.
        flag: For messages.

    Returns:
        Key -> value.

    Raises:
        RecipeError: One without "=".
    """
    values = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise RecipeError(f"{flag} {option!r}: expected key=value; add the missing part.")
        values[name] = parse_yaml(text, f"{flag} {option!r}")
    return values


class Sampler:
    """What the flags say about sampling; a model is loaded once for all temperatures.

    Args:
        args: `model`, `endpoint`, `backend`, `out`, `n`, `seed`, `limit`, `max_new_tokens`, `batch_size`, `verbalized`,
            `system_prompt`.
        default_length: Longest response in tokens where the flags give none.

    Raises:
        RecipeError: Flags that exclude each other.
        DQOError: No such model, a run that has not finished, or an endpoint that is not there.
    """

    def __init__(self, args: argparse.Namespace, default_length: int):
        from dqo.evaluation.sample import Plain
        from dqo.evaluation.verbalized import Verbalized

        self.args, self.n = args, args.n or DEFAULT_SAMPLES
        self._chat = chat_settings(args)
        markers = TraceMarkers.parse(self._chat.get("trace_markers", "default"))
        self.form = Verbalized(args.verbalized, markers) if args.verbalized else Plain()
        length = args.max_new_tokens or default_length
        self.length = self.form.call_length(length) if args.verbalized else length
        if args.endpoint and args.backend:
            raise RecipeError("--endpoint and --backend both say what answers, got both; leave one out.")
        self._source = self._loader()

    def sample(self, prompts: list[Prompt], temperature: float, out: Path) -> list[Group]:
        """Groups sampled at one temperature; an unfinished folder is continued.

        Args:
            prompts: What to ask.
            temperature: Above 0.
            out: Folder of groups.jsonl and sampling.json.

        Returns:
            One group of n responses a prompt.

        Raises:
            DQOError: A number out of range, or a folder that holds something else.
        """
        from dqo.evaluation.sample import sample_from

        return sample_from(self._source(temperature), prompts[: self.args.limit], self.n, out=out, form=self.form)

    def _loader(self) -> "Callable[[float], Source]":
        args, common = self.args, {"seed": self.args.seed, "max_new_tokens": self.length, **self._chat}
        if args.endpoint:
            from dqo.evaluation.served_model import ServedModel

            common.pop("trace_markers", None)  # a server's text holds its markers or none
            common |= {"concurrency": args.batch_size, "timeout": args.timeout}
            common["parameters"] = key_values(args.endpoint_option, "--endpoint-option")
            return lambda t: ServedModel(args.model, args.endpoint, temperature=t, **common)
        if args.backend == "vllm":
            from dqo.evaluation.vllm_engine import VllmEngine

            engine = VllmEngine(model_source(args.model), temperature=1.0, **common)
            return engine.at
        return self._local(**common)

    def _local(self, **common: Any) -> "Callable[[float], Source]":
        from dqo.evaluation.local_model import LocalModel
        from dqo.models import best_device, load_policy

        model, tokenizer = load_policy(model_source(self.args.model), device=best_device())
        batch_size = self.args.batch_size
        return lambda t: LocalModel(model, tokenizer, temperature=t, batch_size=batch_size, **common)
