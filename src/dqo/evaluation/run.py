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
from dqo.evaluation.metrics import CLASSED, NGRAMS, Encoder, defined, n_samples, prompt_values, undefined_notes
from dqo.evaluation.quality import Reward, judged, scored, trace_notes
from dqo.evaluation.same_meaning import Equivalence
from dqo.evaluation.sampling import form_of
from dqo.evaluation.statistics import LEVEL, PromptValues, summarize
from dqo.evaluation.words import corpus_distinct_n, self_rouge
from dqo.files.evaluation import UNKNOWN_SCORING, sampling_notes
from dqo.files.records import Group, write_groups, write_json, write_text
from dqo.files.run import owning
from dqo.models.response import TraceMarkers
from dqo.rewards.calling import task_quality

if TYPE_CHECKING:
    from dqo.tasks import Task


@dataclass(frozen=True)
class Protocol:
    """Settings that belong together under a name.

    Attributes:
        name: Its name.
        n: Responses per prompt.
        headline: Metrics to print first.
        n_is_fixed: Whether another n is refused.
        temperature: Sampling temperature it demands; None leaves it to the user.
        max_new_tokens: Longest response; None leaves it to task and user.
        equivalence: What decides that two responses mean the same, as `load_equivalence` takes it.
        needs_quality: Whether it means nothing without rewards.
        hub_prompts: Data set of the hub, "owner/name:split", where no other prompts are given; None if it has none.
        measures: Metrics of one prompt's texts that it adds.
    """

    name: str
    n: int
    headline: tuple[str, ...]
    n_is_fixed: bool = True
    temperature: float | None = None
    max_new_tokens: int | None = None
    equivalence: str = "embedding"
    needs_quality: bool = False
    hub_prompts: str | None = None
    measures: Mapping[str, Callable[[list[str]], float]] = field(default_factory=dict)

    def check(self, groups: Sequence[Group]) -> None:
        """Refuses groups of another size (RecipeError), or without rewards where they are needed."""
        for group in groups:
            if self.n_is_fixed and len(group.responses) != self.n:
                raise RecipeError(
                    f"protocol {self.name!r}: expected {self.n} responses per prompt, got {len(group.responses)} for "
                    f"{group.id!r}; sample with --n {self.n}, or leave --protocol out."
                )
        if self.needs_quality and all(group.rewards is None for group in groups):
            raise RecipeError(f"protocol {self.name!r}: expected rewards, got none; give --task or --reward.")

    def check_sampling(self, sampling: Mapping[str, Any] | None) -> str | None:
        """Refuses responses that were drawn in another way.

        Args:
            sampling: What sampling.json holds; None where it is not known.

        Returns:
            A note where it is not known how they were drawn, though it matters; otherwise None.

        Raises:
            RecipeError: Another temperature, or another length of a response.
        """
        known = sampling or {}
        length = self.max_new_tokens and form_of(known.get("form")).call_length(self.max_new_tokens)
        untold = []
        for name, value in {"temperature": self.temperature, "max_new_tokens": length}.items():
            if value is not None and name not in known:
                untold.append(f"{name} = {value}")
            elif value is not None and known[name] != value:
                raise RecipeError(
                    f"protocol {self.name!r}: expected responses sampled with {name} = {value}, got {known[name]!r}; "
                    "sample them anew, or leave --protocol out."
                )
        if not untold:
            return None
        return f"protocol {self.name!r} demands {', '.join(untold)}, and nothing says that the responses were drawn so."


PROTOCOLS = {
    "paper": Protocol(
        name="paper",
        n=10,
        headline=("quality", "pass@k", "max@k", "distinct_4", "self_rouge", "vendi_1", "cosine_distance"),
        temperature=1.0,
        measures={"self_rouge": self_rouge},
    ),
    "noveltybench-1.0": Protocol(
        name="noveltybench-1.0",
        n=10,
        headline=("classes", "utility_k"),
        temperature=1.0,
        max_new_tokens=512,
        equivalence="noveltybench-1.0",
        hub_prompts="yimingzhang/novelty-bench:curated",
    ),
    "passk": Protocol(
        name="passk", n=64, headline=("quality", "pass@k", "max@k"), n_is_fixed=False, needs_quality=True
    ),
}


def protocol_of(name: str) -> Protocol:
    """The protocol of a name; RecipeError for an unknown one."""
    if name not in PROTOCOLS:
        raise RecipeError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {name!r}.")
    return PROTOCOLS[name]


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
    """Scores the groups, measures them, and writes the folder; metrics.json comes last and marks it as complete.

    Args:
        groups: What a model answered. Rewards they carry count where neither task nor reward is given.
        encoder: Judge of diversity.
        out: Folder of the three files, which are replaced.
        task: Gives the quality and the answer span whose diversity is measured.
        reward: Gives the quality in place of a task; diversity is then that of whole responses.
        heldout_encoder: Second judge, under `heldout/`; choose one the policy was not trained against.
        equivalence: Decides what means the same; by default the cosine of `encoder`, where a threshold is measured.
        protocol: Checked against the groups, named in the document, and the source of further measures.
        pass_threshold: Least reward that passes.
        sampling: The settings the groups were drawn with, recorded as they are; None where they are not known.
        scoring: What the quality depends on beside the task's name, recorded as it is; by default the reward's name.
        trace_markers: Reasoning traces that are not judged, see `TraceMarkers.parse`; the files keep them.
        seed: Of the bootstrap.

    Returns:
        The content of metrics.json; what could not be measured is None, and an entry of "notes" says why.

    Raises:
        RecipeError: If both a task and a reward are given, or the groups or their sampling do not fit the protocol.
        RewardError: If the task or reward fails.
        EncoderError: If an encoder fails.
        DataError: If there is no group.
        FolderBusyError: If another process writes to the folder.
    """
    judges = _Judges(encoder, heldout_encoder, equivalence, protocol, task, reward, pass_threshold)
    rated = judges.rate(groups, sampling, trace_markers)
    values = judges.measure(rated)
    scoring = judges.scoring(rated) if scoring is None else scoring
    known = {"sampling": sampling, "scoring": scoring, "trace_markers": trace_markers}
    document = judges.document(rated, values, seed, known)
    # the files keep responses as they were sampled
    kept = [replace(group, responses=before.responses) for group, before in zip(rated, groups, strict=True)]
    with owning(out):
        _write(Path(out), kept, values, document)
    return document


@dataclass(frozen=True)
class _Judges:
    """All that decides what the numbers of an evaluation are."""

    encoder: Encoder
    heldout_encoder: Encoder | None
    equivalence: Equivalence | None
    protocol: Protocol | None
    task: "Task | None"
    reward: Reward | None
    pass_threshold: float

    @property
    def answer_span(self) -> Callable[[str], str]:
        return self.task.answer_span if self.task else str

    def rate(self, groups: Sequence[Group], sampling: dict[str, Any] | None, trace_markers: str) -> list[Group]:
        """The groups with the text that is judged, and its quality."""
        if self.task and self.reward:
            raise RecipeError("An evaluation takes its quality from a task or from a reward, got both; leave one out.")
        if self.protocol:
            self.protocol.check_sampling(sampling)
        rated = judged(groups, TraceMarkers.parse(trace_markers), sampling)
        reward = task_quality(self.task) if self.task else self.reward
        if reward:
            rated = scored(rated, reward)
        if self.protocol:
            self.protocol.check(rated)
        return rated

    def scoring(self, rated: Sequence[Group]) -> dict[str, Any] | None:
        """What is known of where the rewards come from when nobody said it."""
        if self.reward is not None:
            return {"reward": getattr(self.reward, "__name__", type(self.reward).__name__)}
        carried = self.task is None and any(group.rewards is not None for group in rated)
        return UNKNOWN_SCORING if carried else None

    def measure(self, rated: Sequence[Group]) -> PromptValues:
        return prompt_values(
            rated,
            self.encoder,
            self.heldout_encoder,
            answer_span=self.answer_span,
            pass_threshold=self.pass_threshold,
            equivalence=self.equivalence,
            measures=self.protocol.measures if self.protocol else None,
        )

    def document(
        self, rated: Sequence[Group], values: PromptValues, seed: int, known: dict[str, Any]
    ) -> dict[str, Any]:
        """The content of metrics.json."""
        names = {
            name: judge and judge.name
            for name, judge in vars(self).items()
            if name in ("encoder", "heldout_encoder", "task", "equivalence", "protocol")
        }
        threshold = same_meaning(self.encoder.name)
        if self.equivalence is None and threshold is not None:
            names["equivalence"] = f"{self.encoder.name} >= {threshold}"
        document = metrics_document(
            rated,
            values,
            seed=seed,
            answer_span=self.answer_span,
            **names,
            pass_threshold=self.pass_threshold,
            **known,
            notes=[],
        )
        document["notes"] = self._notes(rated, values, document)
        return document

    def _notes(self, rated: Sequence[Group], values: PromptValues, document: dict[str, Any]) -> list[str]:
        """What a reader of the numbers must know."""
        unchecked = self.protocol.check_sampling(document["sampling"]) if self.protocol else None
        notes = [*trace_notes(rated), *_about_groups(rated, scorer_given=bool(self.task or self.reward))]
        notes += ([unchecked] if unchecked else []) + kinship(self.encoder, self.heldout_encoder)
        notes += sampling_notes(document["sampling"])
        notes += _own_notes(self.encoder, self.heldout_encoder, self.reward, self.equivalence)
        undecided = document["equivalence"] is None
        told = {name: column for name, column in values.items() if not undecided or name not in CLASSED}
        told |= {f"corpus/{name}": [value] * len(rated) for name, value in document["corpus"].items()}
        notes += undefined_notes(rated, told)
        if undecided:
            notes.append(
                f"{', '.join(CLASSED)} are null: no threshold of equal meaning is measured for encoder "
                f"{self.encoder.name!r}; name what decides it with --equivalence or --judge."
            )
        return notes


def metrics_document(
    groups: Sequence[Group], values: PromptValues, *, seed: int, answer_span: Callable[[str], str] = str, **facts: Any
) -> dict[str, Any]:
    """The content of metrics.json.

    Args:
        groups: The measured groups.
        values: Their metrics.
        seed: Of the bootstrap.
        answer_span: As for `prompt_values`, of what is pooled.
        **facts: More entries for the head: encoder names, pass threshold, notes.

    Returns:
        {"version", "n_prompts", "n_samples", "n_scored", "level", "seed", **facts, "metrics": {name: {"mean", "low",
        "high"} or None}, "corpus": {name: number or None}}; `n_samples` is the responses per prompt, the fewest where
        groups differ.
    """
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


def _write(out: Path, groups: Sequence[Group], values: PromptValues, document: dict[str, Any]) -> None:
    """Writes the three files; metrics.json comes last, and one of other numbers goes first: they belong together."""
    rows = [{"id": group.id} | {name: column[i] for name, column in values.items()} for i, group in enumerate(groups)]
    of_prompts, text = out / "prompt_metrics.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not of_prompts.exists() or of_prompts.read_bytes() != text.encode():
        (out / "metrics.json").unlink(missing_ok=True)
    write_groups(out / "groups.jsonl", groups)
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
