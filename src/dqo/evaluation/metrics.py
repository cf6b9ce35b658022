"""Groups and encoders -> every metric of every prompt -> the summary written to metrics.json.

| name | of one prompt's n responses |
|---|---|
| `quality` | mean reward |
| `max@1`, `max@2`, ... | expected best reward of k draws |
| `pass@1`, `pass@2`, ... | probability that k draws hold a reward of at least the pass threshold |
| `max@k`, `pass@k` | the same at k = `n_samples`, under a name that does not change with n |
| `distinct_1` ... `distinct_4`, `self_bleu` | diversity of words, pooled over the responses |
| `cosine_distance`, `vendi_1`, `vendi_2`, `log_volume` | diversity of meaning by the encoder |
| `heldout/...` | the same by an encoder the policy was not trained against |
| `words` | mean number of words of the measured text |
| `truncated`, `empty` | share of responses cut off at the token limit; without any text |

k runs over 1, 2, 5, 10, 20, ... up to `n_samples`, and `n_samples` itself. Diversity is that of the answer span.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dqo._version import __version__
from dqo.errors import DataError, EncoderError
from dqo.evaluation.bootstrap import bootstrap_interval
from dqo.evaluation.geometry import group_log_volume, mean_cosine_distance, vendi_score
from dqo.evaluation.ngrams import distinct_n, self_bleu
from dqo.evaluation.passk import max_at_k, pass_at_k
from dqo.records import Group

PromptValues = dict[str, list[float | None]]
LEVEL = 0.95
_DRAWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_TEXTS_A_CALL = 256


class Encoder(Protocol):
    """Texts -> (N, D) rows, a zero row for an empty text; what `dqo.embedders.load_embedder` returns."""

    name: str

    def __call__(self, texts: list[str]) -> Tensor:
        """Embed N texts."""
        ...


def prompt_values(
    groups: Sequence[Group],
    encoder: Encoder,
    heldout_encoder: Encoder | None = None,
    *,
    answer_span: Callable[[str], str] = str,
    pass_threshold: float = 0.5,
) -> PromptValues:
    """Every metric of every prompt.

    Args:
        groups: P groups of one response or more each.
        encoder: Measures `cosine_distance`, `vendi_1`, `vendi_2` and `log_volume`.
        heldout_encoder: Measures the same under the prefix `heldout/`.
        answer_span: The part of a response whose diversity counts; by default all of it.
        pass_threshold: Least reward that passes; 0.5 divides 0/1 rewards.

    Returns:
        Metric name -> P values in the order of the groups; the quality metrics are None for an unscored group.

    Raises:
        DataError: If there is no group.
        EncoderError: If an encoder does not return one finite vector a text.
    """
    if not groups:
        raise DataError("Metrics need at least one group of responses, got none.")
    spans = [[answer_span(response) for response in group.responses] for group in groups]
    draws = draw_counts(n_samples(groups))
    rows = [
        _quality(group.rewards, draws, pass_threshold) | _surface(texts, group.finish)
        for group, texts in tqdm(list(zip(groups, spans, strict=True)), desc="n-grams", unit="prompt")
    ]
    for prefix, judge in (("", encoder), ("heldout/", heldout_encoder)):
        if judge is not None:
            for row, E in zip(rows, _embeddings(judge, groups, spans), strict=True):  # E: (G, D)
                row |= _meaning(E, prefix)
    return {name: [row[name] for row in rows] for name in rows[0]}


def summarize(values: PromptValues, *, seed: int) -> dict[str, dict[str, float] | None]:
    """Mean and 95 % bootstrap interval over prompts of every metric.

    Args:
        values: As `prompt_values` returns them; prompts with None are left out of a metric.
        seed: Of the bootstrap.

    Returns:
        Metric name -> {"mean", "low", "high"}, or None where no prompt has a value.
    """
    known = {name: [value for value in column if value is not None] for name, column in values.items()}
    return {
        name: bootstrap_interval(column, level=LEVEL, seed=seed)._asdict() if column else None
        for name, column in known.items()
    }


def metrics_document(groups: Sequence[Group], values: PromptValues, *, seed: int, **facts: Any) -> dict[str, Any]:
    """The content of metrics.json.

    Args:
        groups: The measured groups.
        values: Their metrics.
        seed: Of the bootstrap.
        **facts: More entries for the head: encoder names, pass threshold, notes.

    Returns:
        {"version", "n_prompts", "n_samples", "n_scored", "level", "seed", **facts, "metrics": {name: {"mean", "low",
        "high"} or None}}; `n_samples` is the responses a prompt, the fewest where groups differ.
    """
    return {
        "version": __version__,
        "n_prompts": len(groups),
        "n_samples": n_samples(groups),
        "n_scored": sum(group.rewards is not None for group in groups),
        "level": LEVEL,
        "seed": seed,
        **facts,
        "metrics": summarize(values, seed=seed),
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
    passed = sum(reward >= threshold for reward in rewards)
    counts = list(zip(labels, [*draws, draws[-1]], strict=True))
    return (
        {"quality": sum(rewards) / len(rewards)}
        | {f"max@{label}": max_at_k(rewards, k) for label, k in counts}
        | {f"pass@{label}": pass_at_k(len(rewards), passed, k) for label, k in counts}
    )


def _surface(texts: list[str], finish: list[str]) -> dict[str, float]:
    return {f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3, 4)} | {
        "self_bleu": self_bleu(texts),
        "words": sum(len(text.split()) for text in texts) / len(texts),
        "truncated": finish.count("length") / len(finish),
        "empty": sum(not text.strip() for text in texts) / len(texts),
    }


def _meaning(E: Tensor, prefix: str) -> dict[str, float]:
    return {
        f"{prefix}cosine_distance": mean_cosine_distance(E),
        f"{prefix}vendi_1": vendi_score(E, 1.0),
        f"{prefix}vendi_2": vendi_score(E, 2.0),
        f"{prefix}log_volume": group_log_volume(E),
    }


def _embeddings(encoder: Encoder, groups: Sequence[Group], spans: list[list[str]]) -> list[Tensor]:
    """One (G, D) tensor a group."""
    texts = [text for group_texts in spans for text in group_texts]
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
    by_group = torch.cat(batches).split([len(group_texts) for group_texts in spans])  # P x (G, D)
    for group, E in zip(groups, by_group, strict=True):
        if not torch.isfinite(E).all():
            raise EncoderError(
                f"Encoder {encoder.name!r} must return finite vectors, got NaN or infinity for prompt {group.id!r}; "
                "check its dtype and that prompt's responses."
            )
    return list(by_group)
