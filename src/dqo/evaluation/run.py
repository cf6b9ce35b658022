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
from dqo.evaluation.meaning import same_meaning
from dqo.evaluation.metrics import CLASSED, NGRAMS, defined, n_samples, prompt_values, undefined_notes
from dqo.evaluation.quality import Reward, judged, scored, trace_notes
from dqo.evaluation.same_meaning import Equivalence
from dqo.evaluation.sampling import form_of
from dqo.evaluation.statistics import LEVEL, PromptValues, summarize
from dqo.evaluation.words import corpus_distinct_n, self_rouge
from dqo.files.evaluation import UNKNOWN_SCORING, sampling_notes
from dqo.files.records import Group, write_groups, write_json, write_text
from dqo.files.run import owning
from dqo.models.chat import TraceMarkers
from dqo.rewards.calling import task_quality

if TYPE_CHECKING:
    from dqo.embedders import Embedder
    from dqo.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Settings that belong together under a name, and make two papers' numbers comparable.

    Attributes:
        name: Its name.
        n: Responses per prompt where no number is given.
        demands: Settings of which another value is refused: `n`, `temperature`, `max_new_tokens`.
        headline: Metrics to print first.
        equivalence: What decides that two responses mean the same, as `load_equivalence` takes it.
        needs_quality: Whether it means nothing without rewards.
        hub_prompts: Data set of the hub, "owner/name:split", where no other prompts are given; None if it has none.
        measures: Metrics of one prompt's texts that it adds.
    """

    name: str
    n: int
    demands: Mapping[str, float]
    headline: tuple[str, ...]
    equivalence: str = "embedding"
    needs_quality: bool = False
    hub_prompts: str | None = None
    measures: Mapping[str, Callable[[list[str]], float]] = field(default_factory=dict)

    def check(self, groups: Sequence[Group]) -> None:
        """Refuses groups of another size, or without rewards where they are needed."""
        odd = next(
            (group for group in groups if len(group.responses) != self.demands.get("n", len(group.responses))), None
        )
        if odd:
            raise RecipeError(
                f"protocol {self.name!r}: expected {self.n} responses per prompt, got {len(odd.responses)} for "
                f"{odd.id!r}; sample with --n {self.n}, or leave --protocol out."
            )
        if self.needs_quality and all(group.rewards is None for group in groups):
            raise RecipeError(f"protocol {self.name!r}: expected rewards, got none; give --task or --reward.")

    def check_sampling(self, sampling: Mapping[str, Any] | None) -> list[str]:
        """Refuses responses that were drawn in another way; a sentence says what is not known."""
        known, form, untold = sampling or {}, form_of((sampling or {}).get("form")), []
        for name in self.demands.keys() - {"n"}:
            value = self.demands[name] if name != "max_new_tokens" else form.call_length(self.demands[name])
            if name not in known:
                untold.append(f"{name} = {value}")
            elif known[name] != value:
                raise RecipeError(
                    f"protocol {self.name!r}: expected responses sampled with {name} = {value}, got {known[name]!r}; "
                    "sample them anew, or leave --protocol out."
                )
        if not untold:
            return []
        demands = ", ".join(sorted(untold, reverse=True))
        return [f"protocol {self.name!r} demands {demands}, and nothing says that the responses were drawn so."]


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="paper",
            n=10,
            demands={"n": 10, "temperature": 1.0},
            headline=("quality", "pass@k", "max@k", "distinct_4", "self_rouge", "vendi_1", "cosine_distance"),
            measures={"self_rouge": self_rouge},
        ),
        Protocol(
            name="noveltybench-1.0",
            n=10,
            demands={"n": 10, "temperature": 1.0, "max_new_tokens": 512},
            headline=("classes", "utility_k"),
            equivalence="noveltybench-1.0",
            hub_prompts="yimingzhang/novelty-bench:curated",
        ),
        Protocol(name="passk", n=64, demands={}, headline=("quality", "pass@k", "max@k"), needs_quality=True),
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
        pass_threshold: Least reward that passes.
    """

    encoder: "Embedder"
    heldout_encoder: "Embedder | None" = None
    equivalence: Equivalence | None = None
    protocol: Protocol | None = None
    task: "Task | None" = None
    reward: Reward | None = None
    pass_threshold: float = 0.5

    @property
    def names(self) -> dict[str, str | None]:
        """Name of each judge, as metrics.json has it."""
        parts = ("encoder", "heldout_encoder", "task", "equivalence", "protocol")
        names = {part: getattr(getattr(self, part), "name", None) for part in parts}
        threshold = same_meaning(self.encoder.name)
        if self.equivalence is None and threshold is not None:
            names["equivalence"] = f"{self.encoder.name} >= {threshold}"
        return names


def evaluate(
    groups: Sequence[Group],
    *,
    out: str | Path,
    sampling: dict[str, Any] | None = None,
    scoring: dict[str, Any] | None = None,
    trace_markers: str = "default",
    seed: int = 0,
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
        **judges: Of `Judges`; `encoder` at least.

    Returns:
        The content of metrics.json; what could not be measured is None, and an entry of "notes" says why.

    Raises:
        DQOError: What the protocol, the task, the reward or an encoder refuses, or a folder that is in use.
    """
    by = Judges(**judges)
    notes = by.protocol.check_sampling(sampling) if by.protocol else []
    rated = _rated(judged(groups, TraceMarkers.parse(trace_markers), sampling), by)
    how = {"answer_span": by.task.answer_span if by.task else str}
    values = prompt_values(
        rated,
        by.encoder,
        by.heldout_encoder,
        pass_threshold=by.pass_threshold,
        equivalence=by.equivalence,
        measures=by.protocol and by.protocol.measures,
        answer_key=getattr(by.task, "answer_key", None),
        **how,
    )
    facts = {
        **by.names,
        "pass_threshold": by.pass_threshold,
        "sampling": sampling,
        "scoring": _scoring(rated, by) if scoring is None else scoring,
        "trace_markers": trace_markers,
        "notes": notes,
    }
    document = metrics_document(rated, values, seed=seed, **how, **facts)
    document["notes"] = _notes(rated, values, document, by)
    with owning(out):
        _write(Path(out), groups, rated, values, document)
    return document


def _rated(groups: list[Group], by: Judges) -> list[Group]:
    """The groups with the quality of every response."""
    reward = task_quality(by.task) if by.task else by.reward
    rated = scored(groups, reward) if reward else groups
    if by.protocol:
        by.protocol.check(rated)
    return rated


def _scoring(rated: Sequence[Group], by: Judges) -> dict[str, Any] | None:
    """What is known of where the rewards come from when nobody said it."""
    if by.reward is not None:
        return {"reward": getattr(by.reward, "__name__", type(by.reward).__name__)}
    carried = by.task is None and any(group.rewards is not None for group in rated)
    return UNKNOWN_SCORING if carried else None


def _notes(rated: Sequence[Group], values: PromptValues, document: dict[str, Any], by: Judges) -> list[str]:
    """What a reader of the numbers must know."""
    notes = [*trace_notes(rated), *_about_groups(rated, scorer_given=bool(by.task or by.reward)), *document["notes"]]
    notes += [*kinship(by.encoder, by.heldout_encoder), *sampling_notes(document["sampling"])]
    notes += _own_notes(by.encoder, by.heldout_encoder, by.reward, by.equivalence)
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
    spans = [[answer_span(response) for response in group.responses] for group in judged(groups)]
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
        "corpus": {f"distinct_{n}": defined(corpus_distinct_n(spans, n)) for n in NGRAMS},
    }


def _write(
    out: Path, groups: Sequence[Group], rated: Sequence[Group], values: PromptValues, document: dict[str, Any]
) -> None:
    """Writes the three files; metrics.json comes last, and one of other numbers goes first: they belong together."""
    # Responses are kept as they were sampled.
    kept = [replace(group, responses=before.responses) for group, before in zip(rated, groups, strict=True)]
    rows = [{"id": group.id} | {name: column[i] for name, column in values.items()} for i, group in enumerate(groups)]
    of_prompts, text = out / "prompt_metrics.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not of_prompts.exists() or of_prompts.read_bytes() != text.encode():
        (out / "metrics.json").unlink(missing_ok=True)
    write_groups(out / "groups.jsonl", kept)
    write_text(of_prompts, text)
    write_json(out / "metrics.json", document)


def _own_notes(*parts: Any) -> list[str]:
    """What encoders and judges have to say about themselves, each sentence once."""
    parts = tuple(getattr(part, "fn", part) for part in parts)  # of a checked reward
    owners = [getattr(part, "__self__", part) for part in parts]  # of a method
    return list(dict.fromkeys(note for owner in owners for note in getattr(owner, "notes", [])))


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
    for finish, count in ends.items():
        notes.append(f"{count} responses ended by {finish!r}, neither by themselves nor at the limit of their length.")
    unscored, what = sum(group.rewards is None for group in groups), "quality, max@k, pass@k and what needs them"
    if unscored == len(groups):
        reason = "no response could be scored" if scorer_given else "no task or reward was given"
        notes.append(f"{what} are null: {reason}.")
    elif unscored:
        notes.append(f"{what} leave out {unscored} of {len(groups)} prompts, which are not fully scored.")
    return notes
