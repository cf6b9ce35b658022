"""One evaluation: groups in, a folder with groups.jsonl, prompt_metrics.jsonl and metrics.json out."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.embedders.naming import kinship
from dqo.errors import RecipeError
from dqo.evaluation.meaning import same_meaning
from dqo.evaluation.metrics import CLASSED, Encoder, metrics_document, prompt_values, undefined_notes
from dqo.evaluation.protocols import Protocol
from dqo.evaluation.quality import Reward, judged, score_with_reward, score_with_task, trace_notes
from dqo.evaluation.same_meaning import Equivalence
from dqo.evaluation.statistics import PromptValues
from dqo.files.evaluation import UNKNOWN_SCORING, sampling_notes
from dqo.files.records import Group, write_groups, write_json, write_text
from dqo.files.run import owning
from dqo.models.response import TraceMarkers

if TYPE_CHECKING:
    from dqo.tasks import Task


def evaluate(
    groups: Sequence[Group],
    *,
    encoder: Encoder,
    out: str | Path,
    task: "Task | None" = None,
    reward: Reward | None = None,
    heldout_encoder: Encoder | None = None,
    equivalence: Equivalence | None = None,
    protocol: Protocol | None = None,
    pass_threshold: float = 0.5,
    sampling: dict[str, Any] | None = None,
    scoring: dict[str, Any] | None = None,
    trace_markers: str = "default",
    seed: int = 0,
) -> dict[str, Any]:
    """Score the groups, measure them, and write the folder; metrics.json comes last and marks it as complete.

    Args:
        groups: What a model answered.
        encoder: Judge of diversity.
        out: Folder; files of the three names are replaced.
        task: Gives the quality and the answer span whose diversity is measured.
        reward: Gives the quality in place of a task; diversity is then that of whole responses.
        heldout_encoder: Second judge, under `heldout/`; choose one the policy was not trained against.
        equivalence: Decides which responses mean the same; by default the cosine of `encoder` against the threshold
            measured for it, and nothing where there is none.
        protocol: Checked against the groups, named in the document, and the source of further measures.
        pass_threshold: Least reward that passes.
        sampling: The settings the groups were drawn with, recorded as they are; None where they are not known.
        scoring: What the quality depends on beside the task's name, recorded as it is, so that evaluations by another
            reward or other options of a task are not compared; by default the name of `reward`, where there is one, and
            that nothing is known where the groups carry rewards and neither task nor reward is given.
        trace_markers: Reasoning traces that are removed before a response is judged and measured, see
            `dqo.models.response.TraceMarkers.parse`; the files keep the responses as they were sampled.
        seed: Of the bootstrap.

    Returns:
        The content of metrics.json. Without task and reward the rewards that the groups carry are used; where they
        carry none, quality, max@k, pass@k and what needs them are None and an entry of "notes" says so.

    Raises:
        RecipeError: If both a task and a reward are given, or the groups or their sampling do not fit the protocol.
        RewardError: If the task or reward fails.
        EncoderError: If an encoder fails.
        DataError: If there is no group.
        FolderBusyError: If another process writes to the folder.
    """
    unchecked = protocol and protocol.check_sampling(sampling)
    sampled, groups = groups, judged(groups, TraceMarkers.parse(trace_markers), sampling)
    groups = _scored(groups, task, reward)
    if scoring is None:
        scoring = _scoring(groups, task, reward)
    if protocol is not None:
        protocol.check(groups)
    answer_span = str if task is None else task.answer_span
    values = prompt_values(
        groups,
        encoder,
        heldout_encoder,
        answer_span=answer_span,
        pass_threshold=pass_threshold,
        equivalence=equivalence,
        measures=None if protocol is None else protocol.measures,
    )
    threshold = same_meaning(encoder.name)
    by_encoder = None if threshold is None else f"{encoder.name} >= {threshold}"
    notes = [
        *trace_notes(groups),
        *_uneven(groups),
        *_ended(groups),
        *_unscored(groups, scorer_given=task is not None or reward is not None),
    ]
    notes += ([unchecked] if unchecked else []) + kinship(encoder, heldout_encoder)
    notes += [*sampling_notes(sampling), *_own_notes(encoder, heldout_encoder, reward, equivalence)]
    document = metrics_document(
        groups,
        values,
        answer_span=answer_span,
        seed=seed,
        encoder=encoder.name,
        heldout_encoder=None if heldout_encoder is None else heldout_encoder.name,
        task=None if task is None else task.name,
        equivalence=by_encoder if equivalence is None else equivalence.name,
        protocol=None if protocol is None else protocol.name,
        pass_threshold=pass_threshold,
        sampling=sampling,
        scoring=scoring,
        trace_markers=trace_markers,
        notes=notes,
    )
    decided = equivalence is not None or threshold is not None
    document["notes"] += _about_undefined(groups, values, document["corpus"], None if decided else encoder.name)
    kept = [replace(group, responses=before.responses) for group, before in zip(groups, sampled, strict=True)]
    with owning(out):
        _write(Path(out), kept, values, document)
    return document


def _scored(groups: Sequence[Group], task: "Task | None", reward: Reward | None) -> Sequence[Group]:
    if task is not None and reward is not None:
        raise RecipeError("An evaluation takes its quality from a task or from a reward, got both; leave one out.")
    if task is not None:
        return score_with_task(groups, task)
    return groups if reward is None else score_with_reward(groups, reward)


def _scoring(groups: Sequence[Group], task: "Task | None", reward: Reward | None) -> dict[str, Any] | None:
    """What is known of where the rewards come from when nobody said it."""
    if reward is not None:
        return {"reward": getattr(reward, "__name__", type(reward).__name__)}
    return UNKNOWN_SCORING if task is None and any(group.rewards is not None for group in groups) else None


def _write(out: Path, groups: Sequence[Group], values: PromptValues, document: dict[str, Any]) -> None:
    """The three files; metrics.json comes last, and one of other numbers goes first: the three belong together."""
    rows = [{"id": group.id} | {name: column[i] for name, column in values.items()} for i, group in enumerate(groups)]
    of_prompts, text = out / "prompt_metrics.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not of_prompts.exists() or of_prompts.read_bytes() != text.encode():
        (out / "metrics.json").unlink(missing_ok=True)
    write_groups(out / "groups.jsonl", groups)
    write_text(of_prompts, text)
    write_json(out / "metrics.json", document)


def _about_undefined(
    groups: Sequence[Group], values: PromptValues, corpus: dict[str, float | None], unmeasured: str | None
) -> list[str]:
    """What is null and why; `unmeasured` names an encoder that leaves the classes of meaning undecided."""
    told = {name: column for name, column in values.items() if unmeasured is None or name not in CLASSED}
    told |= {f"corpus/{name}": [value] * len(groups) for name, value in corpus.items()}
    notes = undefined_notes(groups, told)
    if unmeasured is not None:
        notes.append(
            f"{', '.join(CLASSED)} are null: no threshold of equal meaning is measured for encoder {unmeasured!r}; "
            "name what decides it with --equivalence or --judge."
        )
    return notes


def _own_notes(*parts: Any) -> list[str]:
    """What encoders and judges have to say about themselves, each sentence once."""
    parts = tuple(getattr(part, "fn", part) for part in parts)  # of a checked reward
    owners = [getattr(part, "__self__", part) for part in parts]  # of a method
    return list(dict.fromkeys(note for owner in owners for note in getattr(owner, "notes", [])))


def _ended(groups: Sequence[Group]) -> list[str]:
    """Responses that a server ended for reasons of its own."""
    ends = Counter(finish for group in groups for finish in group.finish if finish not in ("eos", "length"))
    return [f"{count} responses ended by {finish!r}, neither by themselves nor at the limit of their length."
            for finish, count in ends.items()]  # fmt: skip


def _uneven(groups: Sequence[Group]) -> list[str]:
    sizes = {len(group.responses) for group in groups}
    if len(sizes) == 1:
        return []
    return [f"prompts have {min(sizes)} to {max(sizes)} responses: pass@k and max@k go up to {min(sizes)}, and what "
            "grows with the number of responses is no longer comparable between prompts."]  # fmt: skip


def _unscored(groups: Sequence[Group], scorer_given: bool) -> list[str]:
    unscored = sum(group.rewards is None for group in groups)
    if not unscored:
        return []
    if unscored < len(groups):
        rest = f"leave out {unscored} of {len(groups)} prompts, which are not fully scored"
        return [f"quality, max@k, pass@k and what needs them {rest}."]
    reason = "no response could be scored" if scorer_given else "no task or reward was given"
    return [f"quality, max@k, pass@k and what needs them are null: {reason}."]
