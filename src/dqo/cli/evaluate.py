"""`dqo eval`: responses, sampled now or read, -> quality and diversity."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.cli.recipe_checks import check_heldout
from dqo.cli.sample import DEFAULT_LENGTH, Sampler, chat_settings, folders, key_values
from dqo.errors import RecipeError
from dqo.folder_lock import owning
from dqo.records import Group, Prompt, read_groups, read_prompts
from dqo.yaml_files import parse_yaml

if TYPE_CHECKING:
    from dqo.evaluation.protocols import Protocol
    from dqo.tasks import Task


def run(args: argparse.Namespace) -> None:
    """Write groups.jsonl, prompt_metrics.jsonl and metrics.json into DIR, or a folder a temperature; print the metrics.

    Args:
        args: The flags of `dqo eval`.

    Raises:
        DQOError: A file, model, encoder, task, reward or protocol that does not do.
    """
    from dqo.embedders import load_embedder
    from dqo.evaluation.equivalence import load_equivalence
    from dqo.evaluation.run import evaluate
    from dqo.evaluation.sampling_folder import read_settings
    from dqo.evaluation.score import check_scoring
    from dqo.rewards.task_reward import task_quality

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
    lines = [f"{document['n_prompts']} prompts, {document['n_samples']} responses each, mean [95 % interval]:"]
    metrics = document["metrics"]
    lines += [_line(name, metrics[name]) for name in headline] + [""] * bool(headline)
    lines += [_line(name, value) for name, value in metrics.items() if name not in headline]
    return "\n".join([*lines, *(f"note: {note}" for note in document.get("notes", []))])


def _line(name: str, value: dict[str, float] | None) -> str:
    numbers = f"{value['mean']:8.3f}  [{value['low']:.3f}, {value['high']:.3f}]" if value else "       –"
    return f"  {name:24}{numbers}"


def _protocol(args: argparse.Namespace, sampled: dict[str, Any] | None) -> "Protocol | None":
    """The protocol, whose settings fill the flags that were not given; what contradicts it is refused."""
    from dqo.evaluation.protocols import protocol_of

    if args.protocol is None:
        return None
    protocol = protocol_of(args.protocol)
    if protocol.needs_quality and not (args.task or args.reward or args.judge or args.responses):
        raise RecipeError(f"protocol {protocol.name!r}: expected a quality, got none; give --task or --reward.")
    if protocol.n_is_fixed and args.n not in (None, protocol.n):
        raise RecipeError(f"protocol {protocol.name!r} draws {protocol.n} samples, got --n {args.n}; leave it out.")
    if protocol.temperature is not None and args.temperature not in (None, [protocol.temperature]):
        raise RecipeError(f"protocol {protocol.name!r} samples at temperature {protocol.temperature}, got another "
                          "--temperature; leave it out.")  # fmt: skip
    if protocol.max_new_tokens is not None and args.max_new_tokens not in (None, protocol.max_new_tokens):
        raise RecipeError(f"protocol {protocol.name!r} samples up to {protocol.max_new_tokens} tokens, got "
                          f"--max-new-tokens {args.max_new_tokens}; leave it out.")  # fmt: skip
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
    from dqo.evaluation.equivalence import SameByJudge
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
    from dqo.evaluation_files import carried_scoring, read_metrics

    if all(group.rewards is None for group in groups):
        return {}
    path = Path(args.responses).parent / "metrics.json"
    origin = read_metrics(path) if path.exists() else {}
    return {"scoring": carried_scoring(origin), "pass_threshold": origin.get("pass_threshold", 0.5)}


def _reward(text: str, folder: str) -> Any:
    """A reward as a recipe writes it, by name or as a mapping with its options, or a function by where it lies."""
    from dqo.rewards.loading import QUALITY, REWARDS, load_reward, own_reward, read_entries

    line = parse_yaml(text, "--reward") if text.startswith("{") else {"reward": text}
    [entry] = read_entries([line])
    if entry.reward == QUALITY or entry.weight != 1:
        raise RecipeError(
            f"--reward {text!r}: expected one reward without weight, and --task for a task's own quality."
        )
    # a function of the user may be asynchronous here, which `load_reward` refuses for training
    return load_reward(entry, folder) if entry.reward in REWARDS else own_reward(entry)


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
