"""`dqo eval` and `dqo sample`: responses, sampled now or read, and their quality and diversity."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.errors import RecipeError
from dqo.files.records import Group, Prompt, read_groups, read_prompts
from dqo.files.run import owning
from dqo.models.chat import TraceMarkers
from dqo.settings.checking import plain
from dqo.settings.yaml import parse_yaml
from dqo.train.folder import model_source, run_chat_settings
from dqo.train.recipe import check_heldout

if TYPE_CHECKING:
    from dqo.evaluation.run import Protocol
    from dqo.evaluation.sampling import Source
    from dqo.tasks import Task

# Tokens of a response where no task says better.
_DEFAULT_LENGTH = 256
_DEFAULT_SAMPLES = 10


def run(args: argparse.Namespace) -> None:
    """Writes groups.jsonl, prompt_metrics.jsonl and metrics.json into DIR, or a folder per temperature; prints them."""
    from dqo.embedders import load_embedder
    from dqo.evaluation.run import evaluate
    from dqo.evaluation.same_meaning import load_equivalence
    from dqo.files.evaluation import read_settings

    sampled = read_settings(Path(args.responses).parent) if args.responses else None
    markers = _chat_settings(args).get("trace_markers", (sampled or {}).get("trace_markers", "default"))
    protocol = _protocol(args, sampled)
    check_heldout(args.heldout_encoder, args.encoder)
    task = _task(args)
    prompts = [] if args.responses else _prompts(args, task, protocol)
    # An unwritable place fails before anything is scored.
    with owning(args.out):
        given = {
            "encoder": load_embedder(args.encoder),
            "heldout_encoder": load_embedder(args.heldout_encoder) if args.heldout_encoder else None,
            "equivalence": load_equivalence(args.equivalence or "embedding"),
            "reward": _reward(args.reward, args.out) if args.reward else None,
            "scoring": _scoring(args),
        } | _judged(args)
        for folder, groups in _groups(args, prompts, task, given["reward"]):
            carried = {} if task or given["reward"] else _carried(args, groups)
            document = evaluate(
                groups,
                out=folder,
                sampling=sampled if args.responses else read_settings(folder),
                trace_markers=markers,
                seed=args.seed,
                task=task,
                protocol=protocol,
                **given | carried,
            )
            print(summary(document, protocol.headline if protocol else ()))
            print(f"written: {folder / 'metrics.json'}")


def _groups(
    args: argparse.Namespace, prompts: list[Prompt], task: "Task | None", reward: Any
) -> Iterator[tuple[Path, list[Group]]]:
    """The responses, folder by folder: those of a file, or sampled as each is asked for."""
    from dqo.evaluation.quality import check_scoring
    from dqo.rewards.calling import task_quality

    if args.responses:
        yield Path(args.out), _responses(args)
        return
    reward = task_quality(task) if task else reward
    if prompts and reward:
        check_scoring(prompts[0], reward)
    yield from _sampled(args, prompts, task.max_completion_length if task else _DEFAULT_LENGTH)


def summary(document: dict[str, Any], headline: tuple[str, ...] = ()) -> str:
    """The metrics as lines of text: the headline, an empty line, the rest, and the notes at the end."""
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
    from dqo.evaluation.run import PROTOCOLS

    if args.protocol is None:
        return None
    protocol = PROTOCOLS[args.protocol]
    if protocol.needs_quality and not (args.task or args.reward or args.judge or args.responses):
        raise RecipeError(f"protocol {protocol.name!r}: expected a quality, got none; give --task or --reward.")
    for name, value in protocol.demands.items():
        flag, given = f"--{name.replace('_', '-')}", getattr(args, name)
        if given not in (None, value, [value]):
            raise RecipeError(f"protocol {protocol.name!r} sets {flag} to {value}, got {given}; leave {flag} out.")
    if args.responses:
        protocol.check_sampling(sampled)
    else:
        args.n = args.n or protocol.n
        args.max_new_tokens = args.max_new_tokens or protocol.demands.get("max_new_tokens")
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

    cache, parameters = str(Path(args.out) / "judge.jsonl"), _key_values(args.judge_option, "--judge-option")
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
    return load_task(args.task, **_key_values(args.task_option, "--task-option"))


def _scoring(args: argparse.Namespace) -> dict[str, Any] | None:
    """What the quality depends on beside the task's name and the prompts, as it was asked for."""
    if args.reward:
        return {"reward": args.reward}
    if args.task:
        options = _key_values(args.task_option, "--task-option")
        return {"task_options": {name: value for name, value in options.items() if name != "path"}}
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
    for name in (*of_sampling, "endpoint"):
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


def run_sample(args: argparse.Namespace) -> None:
    """Writes DIR/groups.jsonl, or one folder per temperature where there are several."""
    prompts = read_prompts(args.data)
    with owning(args.out):
        for folder, groups in _sampled(args, prompts, _DEFAULT_LENGTH):
            n = args.n or _DEFAULT_SAMPLES
            print(f"Sampled {n} responses to each of {len(groups)} prompts: {folder / 'groups.jsonl'}")


def _sampled(
    args: argparse.Namespace, prompts: list[Prompt], default_length: int
) -> Iterator[tuple[Path, list[Group]]]:
    """Samples at each temperature, into DIR itself or, of several, into DIR/temperature-T; the model is loaded once."""
    from dqo.evaluation.sampling import Plain, Verbalized, sample_from

    chat = _chat_settings(args)
    markers = TraceMarkers.parse(chat.get("trace_markers", "default"))
    form = Verbalized(args.verbalized, markers) if args.verbalized else Plain()
    source_at = _sources(args, chat, form.call_length(args.max_new_tokens or default_length))
    temperatures, n = args.temperature or [1.0], args.n or _DEFAULT_SAMPLES
    for temperature in temperatures:
        several = f"temperature-{plain(temperature)}" if len(temperatures) > 1 else ""
        folder = Path(args.out) / several
        yield folder, sample_from(source_at(temperature), prompts[: args.limit], n, out=folder, form=form)


def _sources(args: argparse.Namespace, chat: dict[str, Any], length: int) -> "Callable[[float], Source]":
    """The source that the flags name, by temperature."""
    from dqo.evaluation.engines import Asked, LocalModel, ServedModel
    from dqo.models.policy import best_device, load_policy

    asked = Asked(seed=args.seed, max_new_tokens=length, temperature=1.0, **chat)
    if args.endpoint:
        parameters = _key_values(args.endpoint_option, "--endpoint-option")
        connection = {"concurrency": args.batch_size, "timeout": args.timeout, "parameters": parameters}
        return lambda t: ServedModel(args.model, args.endpoint, replace(asked, temperature=t), **connection)
    model, tokenizer = load_policy(model_source(args.model), device=best_device())
    return lambda t: LocalModel(model, tokenizer, replace(asked, temperature=t), args.batch_size)


def _chat_settings(args: argparse.Namespace) -> dict[str, Any]:
    """How a model is asked and read: by the flags, else as in the run that `--model` names."""
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


def _key_values(options: Sequence[str], flag: str) -> dict[str, Any]:
    """What a repeated flag of the form key=value says, the values in YAML."""
    values = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise RecipeError(f"{flag} {option!r}: expected key=value; add the missing part.")
        values[name] = parse_yaml(text, f"{flag} {option!r}")
    return values
