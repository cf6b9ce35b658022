"""Groups and encoders -> every metric of every prompt -> the summary written to metrics.json.

`definitions` says what each metric is. `max@1`, `max@2`, ... and `pass@1`, ... run over 1, 2, 5, 10, 20, ... up to
`n_samples`, and `n_samples` itself; `max@k` and `pass@k` repeat the last one under a name that does not change with n.
Diversity is that of the answer spans; length, truncation and emptiness are of whole responses. A metric that is
undefined for a prompt is None there, and the means are over the prompts where it is defined; `undefined_notes` says so.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dqo._version import __version__
from dqo.core import cosine_kernel, vendi
from dqo.diversity.tricks import encoder_disagreement, separates_words
from dqo.errors import DataError, EncoderError
from dqo.evaluation.definitions import NO_REWARD, explain
from dqo.evaluation.meaning import (
    distinct_k,
    embedding_classes,
    geometry,
    meaning_classes,
    same_meaning,
    semantic_entropy,
    utility_k,
)
from dqo.evaluation.quality import among_good, judged, max_at_k, pass_at_k, passes
from dqo.evaluation.same_meaning import Equivalence
from dqo.evaluation.statistics import LEVEL, PromptValues, summarize
from dqo.evaluation.words import compression_ratio, corpus_distinct_n, distinct_n, self_bleu
from dqo.files.records import Group
from dqo.rewards.calling import finite_number

# Embeddings of every response, group by group, with an encoder's mistakes told by prompt.

_TEXTS_A_CALL = 256


class Encoder(Protocol):
    """Texts -> (N, D) rows, a zero row for an empty text; what `dqo.embedders.load_embedder` returns."""

    name: str

    def __call__(self, texts: list[str]) -> Tensor:
        """Embed N texts."""
        ...


def embed_groups(encoder: Encoder, groups: Sequence[Group], spans: Sequence[Sequence[str]]) -> list[Tensor]:
    """One (G, D) tensor a group.

    Args:
        encoder: The encoder.
        groups: P groups, named in messages.
        spans: For each group the G texts to embed.

    Returns:
        P tensors (G, D) on the CPU.

    Raises:
        EncoderError: If the encoder does not return one finite vector a text.
    """
    every = [text for group_texts in spans for text in group_texts]
    place = {text: i for i, text in enumerate(dict.fromkeys(every))}  # copies are embedded once
    texts = list(place)
    starts = tqdm(range(0, len(texts), _TEXTS_A_CALL), desc=f"embedding ({encoder.name})", unit="batch")
    batches = []
    for start in starts:
        batch = texts[start : start + _TEXTS_A_CALL]
        E = encoder(batch)  # (N, D)
        if E.dim() != 2 or len(E) != len(batch):
            raise EncoderError(
                f"Encoder {encoder.name!r} must return one vector a text, got shape {tuple(E.shape)} for {len(batch)}."
            )
        batches.append(E.detach().cpu())
    rows = torch.cat(batches)[[place[text] for text in every]]  # (N, D)
    by_group = rows.split([len(group_texts) for group_texts in spans])  # P x (G, D)
    for group, E in zip(groups, by_group, strict=True):
        if not torch.isfinite(E).all():
            raise EncoderError(
                f"Encoder {encoder.name!r} must return finite vectors, got NaN or infinity for prompt {group.id!r}; "
                "check its dtype and that prompt's responses."
            )
    return list(by_group)


_DRAWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_GROUPS_A_CALL = 16
_GROUPS_MEASURED = 256  # at a time; 8 MB of 10 embeddings each
# What rests on a decision that two responses mean the same.
CLASSED = ("classes", "semantic_entropy", "utility_k", "good/classes")


def prompt_values(
    groups: Sequence[Group],
    encoder: Encoder,
    heldout_encoder: Encoder | None = None,
    *,
    answer_span: Callable[[str], str] = str,
    pass_threshold: float = 0.5,
    equivalence: Equivalence | None = None,
    measures: Mapping[str, Callable[[list[str]], float]] | None = None,
) -> PromptValues:
    """Every metric of every prompt.

    Args:
        groups: P groups of one response or more each.
        encoder: Measures diversity of meaning.
        heldout_encoder: Measures the same under the prefix `heldout/`, the classes of meaning excepted, and how far it
            and `encoder` disagree.
        answer_span: The part of a response whose diversity counts; by default all of it.
        pass_threshold: Least reward that passes; 0.5 divides 0/1 rewards.
        equivalence: Decides which responses mean the same; by default the cosine of `encoder` against the threshold
            measured for it. Without one the metrics of classes are undefined.
        measures: More metrics by name, each of the answer spans of one prompt.

    Returns:
        Metric name -> P finite values in the order of the groups, None where a metric is undefined.

    Raises:
        DataError: If there is no group.
        EncoderError: If an encoder does not return one finite vector a text.
    """
    if not groups:
        raise DataError("Metrics need at least one group of responses, got none.")
    groups = judged(groups)
    spans = [[answer_span(response) for response in group.responses] for group in groups]
    draws = draw_counts(n_samples(groups))
    rows = [
        _quality(group.rewards, draws, pass_threshold)
        | _surface(texts)
        | _whole(group)
        | {name: float(measure(texts)) for name, measure in (measures or {}).items()}
        for group, texts in tqdm(list(zip(groups, spans, strict=True)), desc="n-grams", unit="prompt")
    ]
    E = embed_groups(encoder, groups, spans)  # P x (G, D)
    meanings = _meanings(E, groups, pass_threshold)
    every_class = _classes(E, spans, equivalence, same_meaning(encoder.name))
    for row, group, meaning, classes in zip(rows, groups, meanings, every_class, strict=True):
        row |= meaning | _classed(classes, group.rewards, pass_threshold)
    if heldout_encoder is not None:
        E_heldout = embed_groups(heldout_encoder, groups, spans)  # P x (G, D')
        meanings = _meanings(E_heldout, groups, pass_threshold)
        for row, meaning, *both in zip(rows, meanings, E, E_heldout, strict=True):
            row |= {f"heldout/{name}": value for name, value in meaning.items()}
            row["encoder_disagreement"] = encoder_disagreement(*(E_p.double()[None] for E_p in both)).item()
    return {name: [_defined(row[name]) for row in rows] for name in rows[0]}


def undefined_notes(groups: Sequence[Group], values: PromptValues) -> list[str]:
    """Which metrics are undefined for how many prompts, and why. What lacks rewards is left to the caller.

    Args:
        groups: The measured groups.
        values: Their metrics.

    Returns:
        One sentence for all metrics that are undefined for the same number of prompts for the same reason.
    """
    found: dict[tuple[int, int, str], list[str]] = {}
    for name, column in values.items():
        whole = explain(name).undefined
        why = whole.removeprefix(f"{NO_REWARD}, or ")
        rows = zip(column, groups, strict=True)
        asked = [value for value, group in rows if why == whole or group.rewards is not None]
        missing = sum(value is None for value in asked)
        if missing and why != NO_REWARD:
            found.setdefault((missing, len(asked), why), []).append(name)
    notes = []
    for (missing, asked, why), names in found.items():
        most = f"over {asked - missing} of {asked} prompts; in the other{'s' * (missing > 1)} {why}"
        verb = "is" if len(names) == 1 else "are"
        notes.append(f"{', '.join(names)} {verb} {f'null: {why}' if missing == asked else most}.")
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
        "high"} or None}, "corpus": {name: number or None}}; `n_samples` is the responses a prompt, the fewest where
        groups differ. What is pooled over all prompts has no interval: prompts drawn twice would lower it.
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
        "corpus": {f"distinct_{n}": _defined(corpus_distinct_n(spans, n)) for n in (1, 2, 3, 4)},
    }


def n_samples(groups: Sequence[Group]) -> int:
    """Responses a prompt; the fewest where groups differ, because that bounds the k of an unbiased pass@k."""
    return min(len(group.responses) for group in groups)


def draw_counts(n: int) -> list[int]:
    """The k of pass@k and max@k for n samples: 1, 2, 5, 10, ... and n."""
    return sorted({k for k in _DRAWS if k <= n} | {n})


def _quality(rewards: list[float] | None, draws: list[int], threshold: float) -> dict[str, float | None]:
    labels = [*map(str, draws), "k"]
    if rewards is None:
        return dict.fromkeys(["quality", *(f"max@{k}" for k in labels), *(f"pass@{k}" for k in labels)])
    passed = sum(passes(rewards, threshold))
    counts = list(zip(labels, [*draws, draws[-1]], strict=True))
    return (
        {"quality": sum(rewards) / len(rewards)}
        | {f"max@{label}": max_at_k(rewards, k) for label, k in counts}
        | {f"pass@{label}": pass_at_k(len(rewards), passed, k) for label, k in counts}
    )


def _defined(value: float | None) -> float | None:
    """A metric as files hold it: None where it is undefined."""
    return None if value is None or math.isnan(value) else value


def _surface(texts: list[str]) -> dict[str, float]:
    return {f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3, 4)} | {
        "self_bleu": self_bleu(texts),
        "compression_ratio": compression_ratio(texts),
    }


def _whole(group: Group) -> dict[str, float]:
    """What is said of responses as they are: what stands beside an answer costs tokens too."""
    n = len(group.responses)
    countable = all(map(separates_words, group.responses))
    return {
        "words": sum(len(response.split()) for response in group.responses) / n if countable else math.nan,
        "truncated": group.finish.count("length") / n,
        "empty": sum(not response.strip() for response in group.responses) / n,
    }


def _meanings(E: list[Tensor], groups: Sequence[Group], threshold: float) -> list[dict[str, float | None]]:
    """What is read off the embeddings of each prompt; prompts of equal size are measured together."""
    by_size: dict[int, list[int]] = {}
    for p, E_p in enumerate(E):
        by_size.setdefault(len(E_p), []).append(p)
    found: list[dict[str, float | None]] = [{} for _ in groups]
    for places in by_size.values():
        for start in range(0, len(places), _GROUPS_MEASURED):
            some = places[start : start + _GROUPS_MEASURED]
            rows = torch.stack([E[p].to(torch.float64) for p in some])  # (P', G, D)
            # A zero row adds nothing to a Vendi score: what does not pass becomes one.
            passed = [passes(groups[p].rewards or [0.0] * len(E[p]), threshold) for p in some]
            good = vendi(cosine_kernel(rows * torch.tensor(passed)[..., None]))  # (P',)
            columns = geometry(rows) | {"good/vendi_1": good}
            table = zip(*(column.tolist() for column in columns.values()), strict=True)
            for p, values in zip(some, table, strict=True):
                found[p] = dict(zip(columns, values, strict=True))
                if groups[p].rewards is None:
                    found[p]["good/vendi_1"] = None
    return found


def _classes(
    E: list[Tensor], spans: list[list[str]], equivalence: Equivalence | None, threshold: float | None
) -> Sequence[list[int] | None]:
    """Classes of each prompt's responses; None where nothing says which of them mean the same."""
    if equivalence is None:
        return [None if threshold is None else embedding_classes(E_p, threshold) for E_p in E]
    classes: list[list[int]] = []
    for start in tqdm(range(0, len(spans), _GROUPS_A_CALL), desc=f"meaning ({equivalence.name})", unit="batch"):
        classes += meaning_classes(spans[start : start + _GROUPS_A_CALL], equivalence)
    return classes


def _classed(classes: list[int] | None, rewards: list[float] | None, threshold: float) -> dict[str, float | None]:
    if classes is None:
        return dict.fromkeys(CLASSED)
    return {
        "classes": float(distinct_k(classes)),
        "semantic_entropy": semantic_entropy(classes),
        "utility_k": None if rewards is None else utility_k(classes, rewards),
        "good/classes": None if rewards is None else among_good(distinct_k, classes, rewards, threshold),
    }


# Every metric of lists of strings in one call, for a notebook or a model trained elsewhere.


def measure(
    responses: Mapping[str, Sequence[str]],
    rewards: Mapping[str, Sequence[float | None]] | None = None,
    *,
    encoder: str | Callable[[list[str]], Any] = "all-MiniLM-L6-v2",
) -> dict[str, dict[str, float] | None]:
    """Every metric of the responses to some prompts, with 95 % bootstrap intervals over the prompts.

    Args:
        responses: Prompt -> its responses, in the order they were sampled.
        rewards: Prompt -> one reward a response, for the metrics that need quality; None for one that could not be
            scored, whose prompt these metrics leave out.
        encoder: Name of the encoder that measures meaning, as `dqo.embedders.load_embedder` takes it ("hashed" needs
            no weights but knows no meaning), or a function list[str] -> (N, D).

    Returns:
        Metric name -> {"mean", "low", "high"} over the prompts where it is defined, None where it is for none;
        `definition_of` says what each is, and when it is undefined.

    Raises:
        DataError: If there is no prompt, a prompt without responses, or not one finite reward or None a response.
        EncoderError: If the encoder cannot be loaded.
    """
    from dqo.embedders import chosen_embedder
    from dqo.evaluation.statistics import summarize
    from dqo.files.records import Group

    for name, given in (("responses", responses), ("rewards", {} if rewards is None else rewards)):
        if not isinstance(given, Mapping):
            raise DataError(f"`{name}` must be a dict from each prompt to a list, got a {type(given).__name__}.")
    groups = []
    for prompt, texts in responses.items():
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(f"Expected a list of one response or more to prompt {prompt!r}, got {texts!r}.")
        scores = None if rewards is None else _scores(prompt, rewards.get(prompt, []), len(texts))
        groups.append(Group(prompt, prompt, [], list(texts), ["eos"] * len(texts), scores, {}))
    values = prompt_values(groups, chosen_embedder(encoder))
    del values["truncated"]  # lists of strings do not say whether a response was cut off
    return summarize(values, seed=0)


def _scores(prompt: str, rewards: Sequence[float | None], n: int) -> list[float] | None:
    """The rewards of a prompt's n responses; None where one could not be scored."""
    numbers = [None if reward is None else finite_number(reward) for reward in rewards]
    if len(numbers) != n or numbers.count(None) != sum(reward is None for reward in rewards):
        raise DataError(f"Expected {n} rewards for prompt {prompt!r}, one number or None a response, got {rewards!r}.")
    return None if None in numbers else numbers
