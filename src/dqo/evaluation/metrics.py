"""Every metric of every prompt, from groups and encoders; metrics.yaml says what each of them is.

`max@1`, `max@2`, ... and `pass@1`, ... run over 1, 2, 5, 10, 20, ... up to the responses per prompt, and that number
itself; so does `distinct_right@1`, ... where the task says which right answers are the same. Diversity is that of the
answer spans; length, truncation and emptiness are of whole responses. A metric that is undefined for a prompt is None
there, and the means are over the prompts where it is defined.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from dqo.core import cosine_kernel, vendi
from dqo.diversity.tricks import encoder_disagreement, separates_words
from dqo.errors import DataError, EncoderError
from dqo.evaluation.attractors import Attractor, attractor_shares, find_attractors
from dqo.evaluation.definitions import NO_REWARD, explain
from dqo.evaluation.meaning import (
    Partitioner,
    SamePairs,
    distinct_k,
    embedding_classes,
    geometry,
    meaning_classes,
    same_meaning,
    semantic_entropy,
    utility_k,
)
from dqo.evaluation.quality import among_good, distinct_right_at_k, judged, max_at_k, pass_at_k, passes
from dqo.evaluation.statistics import PromptValues, summarize
from dqo.evaluation.words import compression_ratio, distinct_shares, self_bleu
from dqo.files.records import Group, Prompt
from dqo.rewards.calling import finite_number
from dqo.settings import DEFAULT_ENCODER

if TYPE_CHECKING:
    from dqo.embedders import Embedder

NGRAMS = (1, 2, 3, 4)
# What rests on a decision that two responses mean the same.
CLASSED = ("classes", "semantic_entropy", "utility_k", "good/classes")
_DRAWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
# Their embeddings go before those of the next ones come: of 10,000 groups of 64 all would be a gigabyte per encoder.
_RESPONSES_AT_ONCE = 512

# The k of distinct_right@k, unless fewer were drawn: at k = n it would be a count that grows with n.
_DISTINCT_AMONG = 10

Row = dict[str, float | None]
AnswerKey = Callable[[Prompt, str], str | None]
RightAnswers = Callable[[Prompt], Mapping[str, str]]


def measure(
    responses: Mapping[str, Sequence[str]],
    rewards: Mapping[str, Sequence[float | None]] | None = None,
    *,
    encoder: str | Callable[[list[str]], Any] = DEFAULT_ENCODER,
) -> dict[str, dict[str, float] | None]:
    """Every metric of the responses to some prompts, with 95 % bootstrap intervals over the prompts.

    Args:
        responses: Prompt -> its responses, in the order they were sampled.
        rewards: Prompt -> one reward per response, for the metrics that need quality; None for one that could not be
            scored, whose prompt these metrics leave out.
        encoder: Name of the encoder that measures meaning, as `dqo.embedders.load_embedder` takes it ("hashed" needs
            no weights but knows no meaning), or a function list[str] -> (N, D).

    Returns:
        Metric name -> {"mean", "low", "high"} over the prompts where it is defined, None where it is for none.

    Raises:
        DataError: If there is no prompt, a prompt without responses, or not one finite reward or None per response.
        EncoderError: If the encoder cannot be loaded.
    """
    from dqo.embedders import chosen_embedder

    groups = []
    for prompt, texts in responses.items():
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(f"Expected a list of one response or more to prompt {prompt!r}, got {texts!r}.")
        scores = None if rewards is None else _finite_rewards(prompt, rewards.get(prompt, []), len(texts))
        groups.append(Group(prompt, prompt, [], list(texts), ["eos"] * len(texts), scores, {}))
    values = prompt_values(groups, chosen_embedder(encoder))
    # Lists of strings do not say whether a response was cut off.
    del values["truncated"]
    return summarize(values, seed=0)


def _finite_rewards(prompt: str, rewards: Sequence[float | None], n: int) -> list[float] | None:
    """The rewards of a prompt's n responses; None where one could not be scored."""
    numbers = [None if reward is None else finite_number(reward) for reward in rewards]
    if len(numbers) != n or numbers.count(None) != sum(reward is None for reward in rewards):
        raise DataError(
            f"Expected {n} rewards for prompt {prompt!r}, one number or None per response, got {rewards!r}."
        )
    return None if None in numbers else numbers


def prompt_values(
    groups: Sequence[Group],
    encoder: "Embedder",
    heldout_encoder: "Embedder | None" = None,
    *,
    answer_span: Callable[[str], str] = str,
    pass_threshold: float = 0.5,
    equivalence: SamePairs | Partitioner | None = None,
    measures: Mapping[str, Callable[[list[str]], float]] | None = None,
    answer_key: AnswerKey | None = None,
    right_answers: RightAnswers | None = None,
    attractors: Sequence[Attractor] | None = None,
) -> PromptValues:
    """Computes every metric of every prompt.

    Args:
        groups: P groups of one response or more each.
        encoder: Measures diversity of meaning.
        heldout_encoder: Measures the same under the prefix `heldout/`, the classes of meaning excepted.
        answer_span: The part of a response whose diversity counts; by default all of it.
        pass_threshold: Least reward that passes; 0.5 divides 0/1 rewards.
        equivalence: Decides which responses mean the same; by default the encoder's measured threshold, if it has one.
        measures: More metrics by name, each of the answer spans of one prompt.
        answer_key: Prompt and response -> which right answer it is, None where it is wrong; for `distinct_right@k`.
        right_answers: Prompt -> the key of every right answer there is, with its family, empty where they are not
            known; for `right_share@k` and `family_share@k`.
        attractors: What the groups repeat across prompts; by default it is looked for.

    Returns:
        Name -> P finite values in the order of the groups, None where undefined.
    """
    if not groups:
        raise DataError("Metrics need at least one group of responses, got none.")
    groups = judged(groups)
    draws, rows = draw_counts(n_samples(groups)), []

    def of_texts(group: Group, texts: list[str], scores: list[float]) -> Row:
        row = _quality(scores, draws, pass_threshold) | _words(texts) | _whole(group)
        row |= {name: float(own(texts)) for name, own in (measures or {}).items()}
        by_key = (group, scores, answer_key, right_answers, draws, pass_threshold)
        return row if answer_key is None else row | _distinct_right(*by_key)

    with tqdm(total=len(groups), desc="measuring", unit="prompt") as bar:
        for block in _blocks(groups):
            spans = [[answer_span(response) for response in group.responses] for group in block]
            # Where responses have no rewards these stand in, and what is made of them is left out below.
            rewards = [group.rewards or [0.0] * len(group.responses) for group in block]
            parts = [[of_texts(*group) for group in zip(block, spans, rewards, strict=True)]]
            E = _embed(encoder, block, spans)  # P' x (G, D)
            parts.append(_meanings(E, rewards, pass_threshold))
            classes = _classes(E, [group.prompt for group in block], spans, equivalence, encoder.name)
            parts.append([_classed(*both, pass_threshold) for both in zip(classes, rewards, strict=True)])
            if heldout_encoder is not None:
                E_heldout = _embed(heldout_encoder, block, spans)  # P' x (G, D')
                parts.append(_meanings(E_heldout, rewards, pass_threshold, prefix="heldout/"))
                parts.append(_disagreements(E, E_heldout))
            rows += [reduce(or_, of_prompt) for of_prompt in zip(*parts, strict=True)]
            bar.update(len(block))
    return _as_columns(_with_attractors(rows, groups, attractors), groups)


def _with_attractors(rows: Sequence[Row], groups: Sequence[Group], known: Sequence[Attractor] | None) -> list[Row]:
    asked, said = [group.prompt for group in groups], [group.responses for group in groups]
    shares = attractor_shares(asked, said, find_attractors(asked, said) if known is None else known)
    return [row | {"attractors": share} for row, share in zip(rows, shares, strict=True)]


def _as_columns(rows: Sequence[Row], groups: Sequence[Group]) -> PromptValues:
    """Turns P rows into columns; what is made of rewards is None where a group has none."""
    of_rewards = {name for name in rows[0] if explain(name).undefined.startswith(NO_REWARD)}
    scored = [group.rewards is not None for group in groups]
    return {
        name: [
            defined(row[name]) if has or name not in of_rewards else None for row, has in zip(rows, scored, strict=True)
        ]
        for name in rows[0]
    }


def _disagreements(E: Sequence[Tensor], E_heldout: Sequence[Tensor]) -> list[Row]:
    return [
        {"encoder_disagreement": value} for value in encoder_disagreement(_stacked(E), _stacked(E_heldout)).tolist()
    ]


def undefined_notes(groups: Sequence[Group], values: PromptValues) -> list[str]:
    """Says which metrics are undefined for how many prompts, and why; what lacks rewards is left out."""
    found: dict[tuple[int, int, str], list[str]] = {}
    for name, column in values.items():
        why = explain(name).undefined
        if why.startswith(NO_REWARD):
            column = [value for value, group in zip(column, groups, strict=True) if group.rewards is not None]
        why = why.removeprefix(NO_REWARD).removeprefix(", or ")
        if why and None in column:
            found.setdefault((column.count(None), len(column), why), []).append(name)
    notes = []
    for (missing, asked, why), names in found.items():
        where = f"over {asked - missing} of {asked} prompts; in the other{'s' * (missing > 1)}"
        where = "null:" if missing == asked else where
        notes.append(f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {where} {why}.")
    return notes


def n_samples(groups: Sequence[Group]) -> int:
    """Responses per prompt, the fewest where groups differ."""
    # The fewest bound the k of an unbiased pass@k.
    return min(len(group.responses) for group in groups)


def draw_counts(n: int) -> list[int]:
    """The k of pass@k and max@k for n samples: 1, 2, 5, 10, ... and n."""
    return sorted({k for k in _DRAWS if k <= n} | {n})


def defined(value: float | None) -> float | None:
    """A metric as files hold it: None where it is undefined."""
    return None if value is None or math.isnan(value) else value


def _quality(rewards: list[float], draws: list[int], threshold: float) -> Row:
    passed, row = sum(passes(rewards, threshold)), {"quality": sum(rewards) / len(rewards)}
    for label, k in _labelled(draws, draws[-1]):
        row |= {f"max@{label}": max_at_k(rewards, k), f"pass@{label}": pass_at_k(len(rewards), passed, k)}
    return row


def _distinct_right(
    group: Group,
    rewards: list[float],
    key: AnswerKey,
    right_answers: RightAnswers | None,
    draws: list[int],
    threshold: float,
) -> Row:
    prompt = Prompt(group.id, group.prompt, group.reference, group.meta)
    # The reward knows what the text does not tell, such as that a response was cut off.
    passed = zip(group.responses, passes(rewards, threshold), strict=True)
    answers = [key(prompt, response) if good else None for response, good in passed]
    most = min(_DISTINCT_AMONG, draws[-1])
    row: Row = {f"distinct_right@{label}": distinct_right_at_k(answers, k) for label, k in _labelled(draws, most)}
    if right_answers is None:
        return row
    families = right_answers(prompt)
    begun = distinct_right_at_k([families.get(answer) for answer in answers], most)
    shares = {
        "right_share@k": row["distinct_right@k"] / len(families) if families else None,
        "family_share@k": begun / len(set(families.values())) if families else None,
    }
    return row | shares


def _labelled(draws: list[int], k: int) -> list[tuple[str, int]]:
    """The numbers of draws with what stands behind the @ of their metrics."""
    return [*((str(count), count) for count in draws), ("k", k)]


def _words(texts: list[str]) -> Row:
    row: Row = {f"distinct_{n}": share for n, share in zip(NGRAMS, distinct_shares([texts], NGRAMS[-1]), strict=True)}
    return row | {"self_bleu": self_bleu(texts), "compression_ratio": compression_ratio(texts)}


def _whole(group: Group) -> Row:
    """Measures whole responses: what stands beside an answer costs tokens too."""
    n = len(group.responses)
    countable = all(map(separates_words, group.responses))
    return {
        "words": sum(len(response.split()) for response in group.responses) / n if countable else None,
        "truncated": None if "unknown" in group.finish else group.finish.count("length") / n,
        "empty": sum(not response.strip() for response in group.responses) / n,
    }


def _blocks(groups: Sequence[Group]) -> Iterator[Sequence[Group]]:
    """Cuts the groups into runs of about so many responses as are measured at once."""
    first, size = 0, 0
    for last, group in enumerate(groups, start=1):
        size += len(group.responses)
        if size >= _RESPONSES_AT_ONCE or last == len(groups):
            yield groups[first:last]
            first, size = last, 0


def _embed(encoder: "Embedder", groups: Sequence[Group], spans: Sequence[Sequence[str]]) -> list[Tensor]:
    """Embeds the texts of a block: one (G, D) tensor per group, on the CPU."""
    every = [text for texts in spans for text in texts]
    # Copies are embedded once.
    place = {text: i for i, text in enumerate(dict.fromkeys(every))}
    rows = encoder(list(place)).detach().cpu()[[place[text] for text in every]]  # (N, D)
    by_group = list(rows.split([len(texts) for texts in spans]))  # P' x (G, D)
    for group, E in zip(groups, by_group, strict=True):
        if not torch.isfinite(E).all():
            raise EncoderError(
                f"Encoder {encoder.name!r} must return finite vectors, got NaN or infinity for prompt {group.id!r}; "
                "check its dtype and that prompt's responses."
            )
    return by_group


def _stacked(E: list[Tensor]) -> Tensor:
    """(P', G, D) float64; a zero row, which adds nothing to any measure, fills up small groups."""
    return pad_sequence(E, batch_first=True).double()


def _meanings(E: list[Tensor], rewards: list[list[float]], threshold: float, prefix: str = "") -> list[Row]:
    """Reads off the embeddings of each prompt how much they differ."""
    L = cosine_kernel(_stacked(E))  # (P', G, G)
    good = pad_sequence([torch.tensor(passes(scores, threshold)) for scores in rewards], batch_first=True)  # (P', G)
    # Without row and column a response counts as little as an empty one.
    L_good = L * good[:, :, None] * good[:, None, :]  # (P', G, G)
    columns = geometry(L) | {"good/vendi_1": vendi(L_good)}
    return [
        {prefix + name: value for name, value in zip(columns, values, strict=True)}
        for values in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]


def _classes(
    E: list[Tensor],
    prompts: list[str],
    spans: list[list[str]],
    equivalence: SamePairs | Partitioner | None,
    encoder: str,
) -> Sequence[list[int] | None]:
    """Sorts each prompt's responses into classes; None where nothing says which of them mean the same."""
    if equivalence is None:
        threshold = same_meaning(encoder)
        return [None if threshold is None else embedding_classes(E_p, threshold) for E_p in E]
    if isinstance(equivalence, Partitioner):
        return equivalence.partition(prompts, spans)
    return meaning_classes(spans, equivalence)


def _classed(classes: list[int] | None, rewards: list[float], threshold: float) -> Row:
    if classes is None:
        return dict.fromkeys(CLASSED)
    return {
        "classes": float(distinct_k(classes)),
        "semantic_entropy": semantic_entropy(classes),
        "utility_k": utility_k(classes, rewards),
        "good/classes": among_good(distinct_k, classes, rewards, threshold),
    }
