"""`dqo eval`: responses, sampled now or read, -> quality and diversity."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.errors import RecipeError
from dqo.files.records import Group, Prompt, read_groups, read_prompts
from dqo.files.run import owning
from dqo.models.response import TraceMarkers
from dqo.settings.checking import plain
from dqo.settings.yaml import parse_yaml
from dqo.train.folder import model_source, run_chat_settings
from dqo.train.recipe import check_heldout

if TYPE_CHECKING:
    from dqo.evaluation.run import Protocol
    from dqo.tasks import Task


def run(args: argparse.Namespace) -> None:
    """Write groups.jsonl, prompt_metrics.jsonl and metrics.json into DIR, or a folder a temperature; print the metrics.

    Args:
        args: The flags of `dqo eval`.

    Raises:
        DQOError: A file, model, encoder, task, reward or protocol that does not do.
    """
    from dqo.embedders import load_embedder
    from dqo.evaluation.quality import check_scoring
    from dqo.evaluation.run import evaluate
    from dqo.evaluation.same_meaning import load_equivalence
    from dqo.files.evaluation import read_settings
    from dqo.rewards.calling import task_quality

    sampled = read_settings(Path(args.responses).parent) if args.responses else None
    markers = chat_settings(args).get("trace_markers", (sampled or {}).get("trace_markers", "default"))
    protocol = _protocol(args, sampled)
    check_heldout(args.heldout_encoder, args.encoder)
    task = _task(args)
    prompts = [] if args.responses else _prompts(args, task, protocol)
    with owning(args.out):  # an unwritable place fails before anything is scored
        given = {
            "encoder": load_embedder(args.encoder),
            "heldout_encoder": load_embedder(args.heldout_encoder) if args.heldout_encoder else None,
            "equivalence": load_equivalence(args.equivalence or "embedding"),
            "reward": _reward(args.reward, args.out) if args.reward else None,
            "scoring": _scoring(args),
        } | _judged(args)
        length = task.max_completion_length if task else DEFAULT_LENGTH
        reward = given["reward"] if task is None else task_quality(task)
        if prompts and reward is not None:
            check_scoring(prompts[0], reward)
        sampler = None if args.responses else Sampler(args, length)
        for temperature, folder in folders(args):
            groups = sampler.sample(prompts, temperature, folder) if sampler else _responses(args)
            sampling = read_settings(folder) if sampler else sampled
            carried = {} if reward is not None else _carried(args, groups)
            document = evaluate(
                groups,
                task=task,
                protocol=protocol,
                out=folder,
                seed=args.seed,
                sampling=sampling,
                trace_markers=markers,
                **given | carried,
            )
            print(summary(document, protocol.headline if protocol else ()))
            print(f"written: {folder / 'metrics.json'}")


def summary(document: dict[str, Any], headline: tuple[str, ...] = ()) -> str:
    """The metrics as lines of text.

    Args:
        document: The content of metrics.json.
        headline: Metrics that come first, above an empty line.

    Returns:
        One line a metric, mean and interval; "–" where there is no value; the notes at the end.
    """
    from dqo.evaluation.definitions import shown_in

    lines = [f"{document['n_prompts']} prompts, {document['n_samples']} responses each, mean [95 % interval]:"]
    metrics = document["metrics"]
    lines += [_line(name, metrics[name]) for name in headline] + [""] * bool(headline)
    lines += [_line(name, metrics[name]) for name in shown_in(metrics, "eval") if name not in headline]
    return "\n".join([*lines, *(f"note: {note}" for note in document.get("notes", []))])


def _line(name: str, value: dict[str, float] | None) -> str:
    numbers = f"{value['mean']:8.3f}  [{value['low']:.3f}, {value['high']:.3f}]" if value else "       –"
    return f"  {name:24}{numbers}"


def _protocol(args: argparse.Namespace, sampled: dict[str, Any] | None) -> "Protocol | None":
    """The protocol, whose settings fill the flags that were not given; what contradicts it is refused."""
    from dqo.evaluation.run import protocol_of

    if args.protocol is None:
        return None
    protocol = protocol_of(args.protocol)
    if protocol.needs_quality and not (args.task or args.reward or args.judge or args.responses):
        raise RecipeError(f"protocol {protocol.name!r}: expected a quality, got none; give --task or --reward.")
    demanded = {
        "n": protocol.n if protocol.n_is_fixed else None,
        "temperature": None if protocol.temperature is None else [protocol.temperature],
        "max_new_tokens": protocol.max_new_tokens,
    }
    for name, value in demanded.items():
        if value is not None and getattr(args, name) not in (None, value):
            flag = f"--{name.replace('_', '-')}"
            raise RecipeError(
                f"protocol {protocol.name!r} sets {flag} to {value}, got {getattr(args, name)}; leave {flag} out."
            )
    if args.responses:
        protocol.check_sampling(sampled)
    else:
        args.n = args.n or protocol.n
        args.max_new_tokens = args.max_new_tokens or protocol.max_new_tokens
    args.equivalence = args.equivalence or protocol.equivalence
    return protocol


def _judged(args: argparse.Namespace) -> dict[str, Any]:
    """What a judge decides: quality and equal meaning, where nothing else was given for it."""
    if not args.judge and not args.judge_endpoint:
        return {}
    if not args.judge or not args.judge_endpoint:
        raise RecipeError("--judge MODEL and --judge-endpoint URL belong together, got one of them; add the other.")
    from dqo.evaluation.same_meaning import SameByJudge
    from dqo.rewards.judge import JudgeReward

    cache, parameters = str(Path(args.out) / "judge.jsonl"), key_values(args.judge_option, "--judge-option")
    judge = JudgeReward(
        args.judge_endpoint,
        args.judge,
        cache=cache,
        timeout=args.timeout,
        concurrency=args.batch_size,
        parameters=parameters,
    )
    judge.check()
    decided = {} if args.equivalence else {"equivalence": SameByJudge(judge)}
    return decided if args.task or args.reward else decided | {"reward": judge.quality}


def _task(args: argparse.Namespace) -> "Task | None":
    from dqo.tasks import load_task

    if args.task is None:
        if args.task_option or args.split:
            raise RecipeError("--task-option and --split belong to --task, got no --task; add it or leave them out.")
        return None
    return load_task(args.task, **_task_options(args))


def _task_options(args: argparse.Namespace) -> dict[str, Any]:
    return key_values(args.task_option, "--task-option")


def _scoring(args: argparse.Namespace) -> dict[str, Any] | None:
    """What the quality depends on beside the task's name and the prompts, as it was asked for."""
    if args.reward:
        return {"reward": args.reward}
    if args.task:
        return {"task_options": {name: value for name, value in _task_options(args).items() if name != "path"}}
    return {"judge": args.judge, "scale": [1, 10]} if args.judge else None


def _carried(args: argparse.Namespace, groups: list[Group]) -> dict[str, Any]:
    """What gave the rewards that the responses came with, and from which on one passes, by the metrics.json there."""
    from dqo.files.evaluation import carried_scoring, read_metrics

    if all(group.rewards is None for group in groups):
        return {}
    path = Path(args.responses).parent / "metrics.json"
    origin = read_metrics(path) if path.exists() else {}
    return {"scoring": carried_scoring(origin), "pass_threshold": origin.get("pass_threshold", 0.5)}


def _reward(text: str, folder: str) -> Any:
    """A reward as a recipe writes it, by name or as a mapping with its options, or a function by where it lies."""
    from dqo.rewards.loading import QUALITY, load_reward, read_entries

    line = parse_yaml(text, "--reward") if text.startswith("{") else {"reward": text}
    [entry] = read_entries([line])
    if entry.reward == QUALITY or entry.weight != 1:
        raise RecipeError(
            f"--reward {text!r}: expected one reward without weight, and --task for a task's own quality."
        )
    return load_reward(entry, folder)


def _responses(args: argparse.Namespace) -> list[Group]:
    if args.data or args.split:
        raise RecipeError("--responses holds its own prompts, got --data or --split too; leave one out.")
    of_sampling = ("n", "temperature", "max_new_tokens", "system_prompt", "chat_template_kwargs", "verbalized")
    for name in (*of_sampling, "backend", "endpoint"):
        if getattr(args, name) is not None:
            raise RecipeError(f"--responses are sampled already, got --{name.replace('_', '-')}; leave it out.")
    groups = read_groups(args.responses)
    own = Path(args.responses).resolve() == Path(args.out, "groups.jsonl").resolve()
    if not own and Path(args.out, "sampling.json").exists():
        raise RecipeError(
            f"--out {args.out}: expected a folder without samples of its own, but it holds a sampling.json and its "
            f"groups, which {args.responses} would take the place of; choose another --out."
        )
    if own and args.limit and args.limit < len(groups):
        raise RecipeError(
            f"--limit {args.limit} would leave {args.limit} of the {len(groups)} groups of {args.responses}, which "
            "--out writes anew; choose another --out."
        )
    return groups[: args.limit]


def _prompts(args: argparse.Namespace, task: "Task | None", protocol: "Protocol | None") -> list[Prompt]:
    if args.data:
        if args.split:
            raise RecipeError("--data and --split both choose the prompts, got both; leave one out.")
        return read_prompts(args.data)
    if task is not None:
        return task.prompts(args.split or "test")
    if protocol is not None and protocol.hub_prompts:
        from dqo.tasks.jsonl import load_prompts

        return load_prompts(protocol.hub_prompts)
    raise RecipeError("`dqo eval --model` needs prompts, got neither --data nor --task; give one of them.")


# `dqo sample`: responses to the prompts of a file, and the sampling that `dqo eval` shares.

if TYPE_CHECKING:
    from dqo.evaluation.sampling import Source

DEFAULT_LENGTH = 256  # tokens of a response where no task says better
DEFAULT_SAMPLES = 10


def run_sample(args: argparse.Namespace) -> None:
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
        from dqo.evaluation.sampling import Plain, Verbalized

        self.args, self.n = args, args.n or DEFAULT_SAMPLES
        self._chat = chat_settings(args)
        markers = TraceMarkers.parse(self._chat.get("trace_markers", "default"))
        self.form = Verbalized(args.verbalized, markers) if args.verbalized else Plain()
        length = args.max_new_tokens or default_length
        self.length = self.form.call_length(length) if args.verbalized else length
        if args.endpoint and args.backend:
            raise RecipeError("--endpoint and --backend both say what answers, got both; leave one out.")
        self._source = self._sources()

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
        from dqo.evaluation.sampling import sample_from

        return sample_from(self._source(temperature), prompts[: self.args.limit], self.n, out=out, form=self.form)

    def _sources(self) -> "Callable[[float], Source]":
        from dqo.evaluation.engines import Asked, LocalModel, ServedModel, VllmEngine
        from dqo.models.policy import best_device, load_policy

        args = self.args
        asked = Asked(seed=args.seed, max_new_tokens=self.length, temperature=1.0, **self._chat)
        if args.endpoint:
            parameters = key_values(args.endpoint_option, "--endpoint-option")
            connection = {"concurrency": args.batch_size, "timeout": args.timeout, "parameters": parameters}
            return lambda t: ServedModel(args.model, args.endpoint, replace(asked, temperature=t), **connection)
        if args.backend == "vllm":
            return VllmEngine(model_source(args.model), asked).at
        model, tokenizer = load_policy(model_source(args.model), device=best_device())
        return lambda t: LocalModel(model, tokenizer, replace(asked, temperature=t), args.batch_size)
