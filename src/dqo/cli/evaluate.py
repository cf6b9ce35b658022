"""`dqo eval` and `dqo sample`: responses, sampled now or read, and their quality and diversity."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dqo.errors import RecipeError
from dqo.evaluation.answers import Answers
from dqo.evaluation.definitions import headline
from dqo.evaluation.engines import Asked, LocalModel, ServedModel
from dqo.evaluation.frames import write_parquet
from dqo.evaluation.quality import check_scoring
from dqo.evaluation.responses import Responses, read_responses
from dqo.evaluation.run import PROTOCOLS, Protocol, evaluate
from dqo.evaluation.same_meaning import load_equivalence
from dqo.evaluation.sampling import Form, Source, sample_from
from dqo.files.evaluation import carried_scoring, drawn, read_metrics, read_settings
from dqo.files.jsonio import read_text
from dqo.files.records import Group, Prompt
from dqo.files.run import owning
from dqo.models.chat import TraceMarkers
from dqo.models.policy import best_device, load_policy
from dqo.rewards.calling import task_quality
from dqo.rewards.judge import JudgeReward
from dqo.rewards.loading import QUALITY, load_reward, read_entries
from dqo.settings.checking import plain
from dqo.settings.yaml import parse_yaml
from dqo.tasks import Task, load_encoder, load_task
from dqo.tasks.jsonl import load_prompts
from dqo.train.card import add_evaluations
from dqo.train.folder import model_source, run_chat_settings
from dqo.train.recipe import check_heldout

# Tokens of a response where no task says better.
_DEFAULT_LENGTH = 256
_DEFAULT_SAMPLES = 10
_ATTRACTORS_SHOWN = 3
# Flags that contradict each other, and flags that mean nothing without another one.
_SAMPLING = ("n", "temperature", "max_new_tokens", "system_prompt", "chat_template_kwargs", "verbalized")
_EXCLUDED = {"responses": ("split", *_SAMPLING, "endpoint"), "data": ("split",), "task": ("answer",)}
_NEEDED = {"task_option": "task", "split": "task", "judge": "judge_endpoint", "judge_endpoint": "judge",
           "judge_repeats": "judge", "format": "responses", "column": "responses"}  # fmt: skip


def _contradiction(args: argparse.Namespace) -> str | None:
    """Says of the flags which two do not go together; None where all do."""
    given = {name for name, value in vars(args).items() if value not in (None, [])}
    both = [(one, other) for one, others in _EXCLUDED.items() for other in others if {one, other} <= given]
    alone = [(one, other) for one, other in _NEEDED.items() if one in given and other not in given]
    sentences = [f"--{one} and --{other} contradict each other, got both; leave one out." for one, other in both]
    sentences += [f"--{one} needs --{other}, got none; add it or leave --{one} out." for one, other in alone]
    return sentences[0].replace("_", "-") if sentences else None


def run(args: argparse.Namespace) -> None:
    """Writes groups.jsonl, prompt_metrics.jsonl and metrics.json into DIR, or a folder per temperature; prints them."""
    chat = _chat_settings(args)
    check_heldout(args.heldout_encoder, args.encoder)
    read = _responses(args) if args.responses else None
    sampled = read.sampling if read else None
    markers = chat.get("trace_markers", (sampled or {}).get("trace_markers", "default"))
    protocol = _protocol(args, sampled)
    options = _key_values(args.task_option, "--task-option")
    task = load_task(args.task, **options) if args.task else None
    prompts = [] if args.responses else _prompts(args, task, protocol)
    # An unwritable place fails before anything is scored.
    with owning(args.out):
        given = {
            "encoder": load_encoder(args.encoder, task),
            "heldout_encoder": load_encoder(args.heldout_encoder, task) if args.heldout_encoder else None,
            "equivalence": _equivalence(args),
            "reward": _reward(args),
            "scoring": _scoring(args),
            "trace_markers": markers,
            "task": task,
            "answer": Answers(args.answer) if args.answer else None,
            "protocol": protocol,
            "notes": read.notes if read else (),
        }
        documents = []
        for folder, groups in _groups(args, read, prompts, task, given["reward"]):
            carried = {} if task or given["reward"] else _carried(args, groups)
            settings = sampled if read else read_settings(folder)
            document = evaluate(groups, out=folder, sampling=settings, seed=args.seed, **given | carried)
            if args.parquet:
                write_parquet(folder)
            print(summary(document, protocol.headline if protocol else ()))
            print(f"written: {folder / 'metrics.json'}")
            documents.append(document)
        if args.model and not args.endpoint:
            add_evaluations(args.model, args.out, documents)


def _groups(
    args: argparse.Namespace, read: Responses | None, prompts: list[Prompt], task: Task | None, reward: Any
) -> Iterator[tuple[Path, list[Group]]]:
    """The responses, folder by folder: those of a file, or sampled as each is asked for."""
    if read:
        yield Path(args.out), read.groups
        return
    reward = task_quality(task) if task else reward
    if prompts and reward:
        check_scoring(prompts[0], reward)
    yield from _sampled(args, prompts, task.max_completion_length if task else _DEFAULT_LENGTH)


def summary(document: dict[str, Any], first: tuple[str, ...] = ()) -> str:
    """The metrics to look at as lines of text: those of a protocol, an empty line, the dozen, and the notes."""
    size = f"{document['n_prompts']} prompts, {document['n_samples']} responses each"
    lines = [f"{size}, {drawn(document.get('sampling'))}; mean [95 % interval]:"]
    metrics = document["metrics"]
    lines += [_line(name, metrics[name]) for name in first] + [""] * bool(first)
    lines += [_line(name, metrics[name]) for name in headline(metrics) if name not in first]
    repeated = [f"“{one['text']}” {one['share']:.0%}" for one in document.get("attractors", [])[:_ATTRACTORS_SHOWN]]
    lines += [f"repeated across prompts: {', '.join(repeated)}"] * bool(repeated)
    return "\n".join([*lines, *(f"note: {note}" for note in document.get("notes", []))])


def _line(name: str, value: dict[str, float] | None) -> str:
    numbers = f"{value['mean']:8.3f}  [{value['low']:.3f}, {value['high']:.3f}]" if value else "       –"
    return f"  {name:24}{numbers}"


def _protocol(args: argparse.Namespace, sampled: dict[str, Any] | None) -> Protocol | None:
    """The protocol, whose settings fill the flags that were not given; what contradicts it is refused."""
    if args.protocol is None:
        return None
    protocol = PROTOCOLS[args.protocol]
    for name, value in protocol.demands.items():
        flag, given = f"--{name.replace('_', '-')}", getattr(args, name)
        if given not in (None, value, [value]):
            raise RecipeError(f"protocol {protocol.name!r} sets {flag} to {value}, got {given}; leave {flag} out.")
    if args.responses:
        protocol.check(sampled)
    else:
        args.n = protocol.demands["n"]
        args.max_new_tokens = args.max_new_tokens or protocol.demands.get("max_new_tokens")
    args.equivalence = args.equivalence or protocol.equivalence
    return protocol


def _equivalence(args: argparse.Namespace) -> Any:
    """What decides that responses mean the same: as it was named, or the judge."""
    name, _, file = (args.equivalence or ("judge" if args.judge else "embedding")).partition(":")
    if name != "judge":
        return load_equivalence(args.equivalence or name)
    if not args.judge:
        asker = f"--protocol {args.protocol}" if args.protocol else f"--equivalence {args.equivalence}"
        raise RecipeError(f"{asker} needs --judge and --judge-endpoint, got none; add them or choose another.")
    rubric = read_text(file, "rubric of the judge") if file else None
    # The first order is that of NoveltyBench, whose figure is the first call's.
    return _judge(args, asks="partition", rubric=rubric, repeats=args.judge_repeats or 2, seed=None)


def _judge(args: argparse.Namespace, **asked: Any) -> JudgeReward:
    cache, connection = str(Path(args.out) / "judge.jsonl"), _connection(args, args.judge_option, "--judge-option")
    judge = JudgeReward(args.judge_endpoint, args.judge, cache=cache, **asked, **connection)
    judge.check()
    return judge


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
    if all(group.rewards is None for group in groups):
        return {}
    path = Path(args.responses).parent / "metrics.json"
    origin = read_metrics(path) if path.exists() else {}
    return {"scoring": carried_scoring(origin), "pass_threshold": origin.get("pass_threshold", 0.5)}


def _reward(args: argparse.Namespace) -> Any:
    """What gives the quality but a task: a reward as a recipe writes it, a function by where it lies, or the judge."""
    text = args.reward
    if text is None:
        return _judge(args).quality if args.judge and not args.task else None
    line = parse_yaml(text, "--reward") if text.startswith("{") else {"reward": text}
    [entry] = read_entries([line])
    if entry.reward == QUALITY or entry.weight != 1:
        raise RecipeError(f"--reward {text!r}: expected one reward without weight; --task gives a task's own quality.")
    return load_reward(entry, args.out)


def _responses(args: argparse.Namespace) -> Responses:
    columns = _key_values(args.column, "--column")
    read = read_responses(args.responses, format=args.format, columns=columns, data=args.data)
    kept = read.groups[: args.limit]
    own = Path(args.responses).resolve() == Path(args.out, "groups.jsonl").resolve()
    if len(kept) < len(read.groups) if own else Path(args.out, "sampling.json").exists():
        raise RecipeError(f"--out {args.out}: expected no samples that would be replaced, got some; choose another.")
    return replace(read, groups=kept)


def _prompts(args: argparse.Namespace, task: Task | None, protocol: Protocol | None) -> list[Prompt]:
    if args.data:
        return load_prompts(args.data, setting="--data")
    if task is not None:
        return task.prompts(args.split or "test")
    if protocol is not None and protocol.hub_prompts:
        return load_prompts(protocol.hub_prompts)
    raise RecipeError("`dqo eval --model` needs prompts, got neither --data nor --task; give one of them.")


def run_sample(args: argparse.Namespace) -> None:
    """Writes DIR/groups.jsonl, or one folder per temperature where there are several."""
    prompts = load_prompts(args.data, setting="--data")
    with owning(args.out):
        for folder, groups in _sampled(args, prompts, _DEFAULT_LENGTH):
            n = args.n or _DEFAULT_SAMPLES
            print(f"Sampled {n} responses to each of {len(groups)} prompts: {folder / 'groups.jsonl'}")


def _sampled(
    args: argparse.Namespace, prompts: list[Prompt], default_length: int
) -> Iterator[tuple[Path, list[Group]]]:
    """Samples at each temperature, into DIR itself or, of several, into DIR/temperature-T; the model is loaded once."""
    chat = _chat_settings(args)
    form = Form(args.verbalized, TraceMarkers.parse(chat.get("trace_markers", "default")))
    source_at = _sources(args, chat, form.call_length(args.max_new_tokens or default_length))
    temperatures, n = args.temperature or [1.0], args.n or _DEFAULT_SAMPLES
    for temperature in temperatures:
        several = f"temperature-{plain(temperature)}" if len(temperatures) > 1 else ""
        folder = Path(args.out) / several
        yield folder, sample_from(source_at(temperature), prompts[: args.limit], n, out=folder, form=form)


def _sources(args: argparse.Namespace, chat: dict[str, Any], length: int) -> Callable[[float], Source]:
    """The source that the flags name, by temperature."""
    asked = Asked(seed=args.seed, max_new_tokens=length, temperature=1.0, **chat)
    if args.endpoint:
        connection = _connection(args, args.endpoint_option, "--endpoint-option")
        return lambda t: ServedModel(args.model, args.endpoint, replace(asked, temperature=t), **connection)
    model, tokenizer = load_policy(model_source(args.model), device=best_device())
    return lambda t: LocalModel(model, tokenizer, replace(asked, temperature=t), args.batch_size)


def _chat_settings(args: argparse.Namespace) -> dict[str, Any]:
    """How a model is asked and read: by the flags, which must agree, else as in the run that `--model` names."""
    if wrong := _contradiction(args):
        raise RecipeError(wrong)
    text = args.chat_template_kwargs
    variables = None if text is None else parse_yaml(text, "--chat-template-kwargs")
    if not isinstance(variables, dict | None):
        raise RecipeError(f"--chat-template-kwargs {text!r}: expected a mapping, such as '{{enable_thinking: false}}'.")
    given = {
        "system_prompt": args.system_prompt,
        "chat_template_kwargs": variables,
        "trace_markers": args.trace_markers,
    }
    of_run = run_chat_settings(args.model) if args.model else {}
    return of_run | {name: value for name, value in given.items() if value is not None}


def _connection(args: argparse.Namespace, options: Sequence[str], flag: str) -> dict[str, Any]:
    parameters = _key_values(options, flag)
    return {"concurrency": args.batch_size, "timeout": args.timeout, "parameters": parameters}


def _key_values(options: Sequence[str], flag: str) -> dict[str, Any]:
    """What a repeated flag of the form key=value says, the values in YAML."""
    values = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise RecipeError(f"{flag} {option!r}: expected key=value; add the missing part.")
        values[name] = parse_yaml(text, f"{flag} {option!r}")
    return values
