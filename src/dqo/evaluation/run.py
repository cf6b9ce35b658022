"""One evaluation: groups in, a folder with groups.jsonl, prompt_metrics.jsonl and metrics.json out."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo._version import __version__
from dqo.embedders.naming import kinship
from dqo.errors import RecipeError
from dqo.evaluation.answers import Answers
from dqo.evaluation.attractors import find_attractors
from dqo.evaluation.frames import PARQUET
from dqo.evaluation.meaning import Partitioner, SamePairs, same_meaning
from dqo.evaluation.metrics import CLASSED, NGRAMS, defined, n_samples, prompt_values, undefined_notes
from dqo.evaluation.quality import Reward, judged, scored, trace_notes
from dqo.evaluation.sampling import Form
from dqo.evaluation.statistics import LEVEL, PromptValues, summarize
from dqo.evaluation.words import distinct_shares, self_rouge
from dqo.files.evaluation import UNKNOWN_SCORING, sampling_notes
from dqo.files.records import Group, write_groups, write_json, write_text
from dqo.files.run import owning
from dqo.models.chat import TraceMarkers
from dqo.rewards.calling import task_quality

if TYPE_CHECKING:
    from dqo.embedders import Embedder
    from dqo.tasks import Task

# Of a model that says one page to everything.
_ATTRACTORS_KEPT = 300


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Settings that belong together under a name, and make two papers' numbers comparable.

    Attributes:
        name: Its name.
        demands: Settings of which another value is refused: `n`, and perhaps `temperature` and `max_new_tokens`.
        headline: Metrics to print first.
        equivalence: What decides that two responses mean the same, as `--equivalence` takes it.
        hub_prompts: Data set of the hub, "owner/name:split", where no other prompts are given; None if it has none.
        measures: Metrics of one prompt's texts that it adds.
    """

    name: str
    demands: Mapping[str, float]
    headline: tuple[str, ...]
    equivalence: str = "embedding"
    hub_prompts: str | None = None
    measures: Mapping[str, Callable[[list[str]], float]] = field(default_factory=dict)

    def check(self, sampling: Mapping[str, Any] | None, groups: Sequence[Group] = ()) -> list[str]:
        """Refuses responses that were drawn in another way; a sentence says what is not known."""
        known, untold = dict(sampling or {}), []
        if groups:
            sizes = (len(group.responses) for group in groups)
            known["n"] = next((n for n in sizes if n != self.demands["n"]), self.demands["n"])
        for name, value in self.demands.items():
            if name == "max_new_tokens":
                value = Form.named(known.get("form")).call_length(value)
            if name not in known:
                untold.append(f"{name} = {value}")
            elif known[name] != value:
                raise RecipeError(
                    f"protocol {self.name!r}: expected responses sampled with {name} = {value}, got {known[name]!r}; "
                    "sample them anew, or leave --protocol out."
                )
        demands = f"protocol {self.name!r} demands {', '.join(untold)}"
        return [f"{demands}, and nothing says that the responses were drawn so."] if untold else []


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="paper",
            demands={"n": 10, "temperature": 1.0},
            headline=("quality", "pass@k", "max@k", "distinct_4", "self_rouge", "vendi_1", "cosine_distance"),
            measures={"self_rouge": self_rouge},
        ),
        Protocol(
            name="noveltybench-1.0",
            demands={"n": 10, "temperature": 1.0, "max_new_tokens": 512},
            headline=("classes", "utility_k"),
            equivalence="noveltybench-1.0",
            hub_prompts="yimingzhang/novelty-bench:curated",
        ),
        Protocol(
            name="noveltybench-1.1",
            demands={"n": 10, "temperature": 1.0, "max_new_tokens": 512},
            headline=("classes", "utility_k"),
            equivalence="judge",
            hub_prompts="yimingzhang/novelty-bench:curated",
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Judges:
    """All that decides what the numbers of an evaluation are.

    Attributes:
        encoder: Judge of diversity.
        heldout_encoder: Second judge, under `heldout/`; choose one the policy was not trained against.
        equivalence: Decides which responses mean the same; by default the encoder's measured threshold, if it has one.
        protocol: Checked against the groups, and the source of further measures.
        task: Gives the quality and the answer span whose diversity is measured.
        reward: Gives the quality in place of a task; diversity is then that of whole responses.
        answer: Finds the answers of responses that no task knows: their diversity is measured, equal ones are one class
            unless `equivalence` decides it, and where no rewards are there or given, those are right that equal a
            reference.
        pass_threshold: Least reward that passes.
    """

    encoder: "Embedder"
    heldout_encoder: "Embedder | None" = None
    equivalence: SamePairs | Partitioner | None = None
    protocol: Protocol | None = None
    task: "Task | None" = None
    reward: Reward | None = None
    answer: Answers | None = None
    pass_threshold: float = 0.5

    @property
    def names(self) -> dict[str, str | None]:
        """Name of each judge, as metrics.json has it."""
        parts = ("encoder", "heldout_encoder", "task", "answer", "equivalence", "protocol")
        names = {part: getattr(_owner(getattr(self, part)), "name", None) for part in parts}
        threshold = same_meaning(self.encoder.name)
        if self.equivalence is None and threshold is not None:
            names["equivalence"] = f"{self.encoder.name} >= {threshold}"
        return names

    def completed(self, groups: Sequence[Group]) -> "Judges":
        """These judges, with what the rule for answers decides where nothing else does."""
        if self.answer is None:
            return self
        unscored = self.reward is None and all(group.rewards is None for group in groups)
        reward = self.answer.equals_reference if unscored and any(group.reference for group in groups) else self.reward
        return replace(self, equivalence=self.equivalence or self.answer.same, reward=reward)


def evaluate(
    groups: Sequence[Group],
    *,
    out: str | Path,
    sampling: dict[str, Any] | None = None,
    scoring: dict[str, Any] | None = None,
    trace_markers: str = "default",
    seed: int = 0,
    notes: Sequence[str] = (),
    **judges: Any,
) -> dict[str, Any]:
    """Scores the groups, measures them, and writes the folder; metrics.json comes last and marks it as complete.

    Args:
        groups: What a model answered. Rewards they carry are used where neither task nor reward is given.
        out: Folder of the three files, which are replaced.
        sampling: The settings the groups were drawn with, recorded as they are; None where they are not known.
        scoring: What the quality depends on beside the task's name, recorded as it is; by default the reward's name.
        trace_markers: Reasoning traces that are not judged, see `TraceMarkers.parse`; the files keep them.
        seed: Of the bootstrap.
        notes: What a reader of the numbers must know of the responses, a sentence each.
        **judges: Of `Judges`; `encoder` at least.

    Returns:
        The content of metrics.json; what could not be measured is None, and an entry of "notes" says why.

    Raises:
        DQOError: What the protocol, the task, the reward or an encoder refuses, or a folder that is in use.
    """
    by = Judges(**judges).completed(groups)
    notes = [*notes, *(by.protocol.check(sampling, groups) if by.protocol else [])]
    reward = task_quality(by.task) if by.task else by.reward
    rated = judged(groups, TraceMarkers.parse(trace_markers), sampling)
    rated = [by.answer.cut_references(group) for group in rated] if by.answer else rated
    rated = scored(rated, reward) if reward else rated
    how = {"answer_span": by.answer or (by.task.answer_span if by.task else str)}
    repeated = find_attractors([group.prompt for group in rated], [group.responses for group in rated])
    values = prompt_values(
        rated, by.encoder, by.heldout_encoder, pass_threshold=by.pass_threshold, equivalence=by.equivalence,
        measures=by.protocol and by.protocol.measures, attractors=repeated, **how,
        answer_key=by.answer.key if by.answer else getattr(by.task, "answer_key", None),
        right_answers=getattr(by.task, "right_answers", None),
    )  # fmt: skip
    facts = {
        **by.names,
        "pass_threshold": by.pass_threshold,
        "sampling": sampling,
        "scoring": _scoring(rated, by) if scoring is None else scoring,
        "trace_markers": trace_markers,
        "notes": notes,
        "attractors": [one._asdict() for one in repeated[:_ATTRACTORS_KEPT]],
    }
    document = metrics_document(rated, values, seed=seed, **how, **facts)
    document["notes"] = _notes(rated, values, document, by)
    with owning(out):
        _write(Path(out), groups, rated, values, document)
    return document


def _owner(part: Any) -> Any:
    """The encoder or judge itself, where a checked reward or a method of it is given."""
    part = getattr(part, "fn", part)
    return getattr(part, "__self__", part)


def _scoring(rated: Sequence[Group], by: Judges) -> dict[str, Any] | None:
    """What is known of where the rewards come from when nobody said it."""
    if by.reward is not None:
        return {"reward": getattr(by.reward, "__name__", type(by.reward).__name__)}
    carried = by.task is None and any(group.rewards is not None for group in rated)
    return UNKNOWN_SCORING if carried else None


def _notes(rated: Sequence[Group], values: PromptValues, document: dict[str, Any], by: Judges) -> list[str]:
    """What a reader of the numbers must know."""
    notes = [*document["notes"], *trace_notes(rated), *_about_groups(rated, scorer_given=bool(by.task or by.reward))]
    notes += [*kinship(by.encoder, by.heldout_encoder), *sampling_notes(document["sampling"])]
    owners = map(_owner, (by.encoder, by.heldout_encoder, by.reward, by.equivalence))
    # A judge of both quality and meaning says it once.
    notes += dict.fromkeys(note for owner in owners for note in getattr(owner, "notes", []))
    undecided = document["equivalence"] is None
    shown = {name: column for name, column in values.items() if not undecided or name not in CLASSED}
    shown |= {f"corpus/{name}": [value] * len(rated) for name, value in document["corpus"].items()}
    notes += undefined_notes(rated, shown)
    if undecided:
        notes.append(
            f"{', '.join(CLASSED)} are null: no threshold of equal meaning is measured for encoder "
            f"{by.encoder.name!r}; name what decides it with --equivalence or --judge."
        )
    return notes


def metrics_document(
    groups: Sequence[Group], values: PromptValues, *, seed: int, answer_span: Callable[[str], str] = str, **facts: Any
) -> dict[str, Any]:
    """Makes the content of metrics.json; `facts` are more entries of its head."""
    spans = ([answer_span(response) for response in group.responses] for group in groups)
    shares = zip(NGRAMS, distinct_shares(spans, NGRAMS[-1]), strict=True)
    return {
        "version": __version__,
        "n_prompts": len(groups),
        "n_samples": n_samples(groups),
        "n_scored": sum(group.rewards is not None for group in groups),
        "level": LEVEL,
        "seed": seed,
        **facts,
        "metrics": summarize(values, seed=seed),
        # no interval: prompts drawn twice would lower what is pooled over all prompts
        "corpus": {f"distinct_{n}": defined(share) for n, share in shares},
    }


def _write(
    out: Path, groups: Sequence[Group], rated: Sequence[Group], values: PromptValues, document: dict[str, Any]
) -> None:
    """Writes the three files; metrics.json comes last, and one of other numbers goes first: they belong together."""
    for name in PARQUET:
        (out / name).unlink(missing_ok=True)  # tables of the files that are replaced
    # Responses are kept as they were sampled, and references as they came.
    kept = [replace(before, rewards=group.rewards) for group, before in zip(rated, groups, strict=True)]
    rows = [{"id": group.id} | {name: column[i] for name, column in values.items()} for i, group in enumerate(groups)]
    of_prompts, text = out / "prompt_metrics.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not of_prompts.exists() or of_prompts.read_bytes() != text.encode():
        (out / "metrics.json").unlink(missing_ok=True)
    write_groups(out / "groups.jsonl", kept)
    write_text(of_prompts, text)
    write_json(out / "metrics.json", document)


def _about_groups(groups: Sequence[Group], scorer_given: bool) -> list[str]:
    """Groups of several sizes, responses that a server ended for reasons of its own, and missing rewards."""
    notes = []
    sizes = {len(group.responses) for group in groups}
    if len(sizes) > 1:
        notes.append(
            f"prompts have {min(sizes)} to {max(sizes)} responses: pass@k and max@k go up to {min(sizes)}, and what "
            "grows with the number of responses is no longer comparable between prompts."
        )
    ends = Counter(finish for group in groups for finish in group.finish if finish not in ("eos", "length"))
    if silent := ends.pop("unknown", 0):
        notes.append(f"Nothing says how {silent} responses ended: they count as ended by themselves, not as truncated.")
    for finish, count in ends.items():
        notes.append(f"{count} responses ended by {finish!r}, neither by themselves nor at the limit of their length.")
    unscored, what = sum(group.rewards is None for group in groups), "quality, max@k, pass@k and what needs them"
    if unscored == len(groups):
        reason = "no response could be scored" if scorer_given else "no task or reward was given"
        notes.append(f"{what} are null: {reason}.")
    elif unscored:
        notes.append(f"{what} leave out {unscored} of {len(groups)} prompts, which are not fully scored.")
    return notes
