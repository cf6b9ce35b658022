"""Fluency of a sentence: its mean log-probability per token under a frozen language model, mapped to [0, 1]."""

import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dqo.errors import ModelError, RecipeError
from dqo.models import load_policy

LOW = -8.0
HIGH = -4.9
MIN_WORDS = 4
_CHUNK_TOKENS = 1024  # bounds the logits held at once: over 49,152 words these are 200 MB
_WORD = re.compile(r"\w+(?:['’]\w+)*")


class Fluency:
    """How likely a frozen model finds a text, linear between word salad (0) and a person's sentence (1).

        fluency = clip((mean log p − low) / (high − low), 0, 1) · variety · length

    The text stands alone, after a line break: given the task's prompt, the model finds sentences about the task
    likely, which is what a policy would exploit. Above `high` nothing more is paid, so that the likeliest cliché earns
    what an ordinary sentence does. A model also finds repetition likely; `variety` is the square of the share of
    distinct word pairs. `length` is 1 from `MIN_WORDS` words on, and the words' number over it below.

    Measured with SmolLM2-135M-Instruct on 120 human sentences of CommonGen (capital, full stop, 6 to 25 words) and
    on the same sentences with their words shuffled, nats per token:

        context of the text      human, median   shuffled, median   AUC    "Here is a sentence that uses …"
        line break                   -4.89            -8.05         .982            -4.71
        generic chat request         -4.69            -8.07         .979            -3.66

    So `LOW` is the median of word salad and `HIGH` the median of human sentences.

    Args:
        model: Name or folder, as for `dqo.models.load_policy`.
        low: Mean log-probability per token, nats, worth 0.
        high: The one worth 1, above `low`.

    Raises:
        RecipeError: `low` not below `high`.
        ModelError: A model that cannot be loaded.
    """

    def __init__(self, model: str, low: float = LOW, high: float = HIGH):
        if not low < high:
            raise RecipeError(f"fluency_low: expected a number below fluency_high={high}, got {low}.")
        self.low, self.high = low, high
        self._model, self._tokenizer = load_policy(model, device="cuda" if torch.cuda.is_available() else None)
        self._model.requires_grad_(False)
        self._context = self._tokenizer("\n").input_ids
        if not self._context:
            raise ModelError(
                f"fluency_model: expected the tokenizer of {model!r} to encode a line break, got no token."
            )

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Fluency of N texts.

        Args:
            texts: Any texts.

        Returns:
            N numbers in [0, 1]; 0 for a text without words.
        """
        spans = [(value - self.low) / (self.high - self.low) for value in self.mean_log_probs(texts)]
        return [min(1.0, max(0.0, span)) * _guard(text) for span, text in zip(spans, texts, strict=True)]

    @torch.no_grad()
    def mean_log_probs(self, texts: Sequence[str]) -> list[float]:
        """Mean log-probability per token of N texts.

        Args:
            texts: Any texts; white space around them is left out.

        Returns:
            N numbers of nats, at most 0; `low` for an empty text.
        """
        token_ids = [self._tokenizer(text.strip(), add_special_tokens=False).input_ids for text in texts]
        means = [self.low] * len(texts)
        rows = sorted((row for row in range(len(texts)) if token_ids[row]), key=lambda row: -len(token_ids[row]))
        while rows:
            size = max(1, _CHUNK_TOKENS // len(token_ids[rows[0]]))
            chunk, rows = rows[:size], rows[size:]
            for row, mean in zip(chunk, self._chunk([token_ids[row] for row in chunk]).tolist(), strict=True):
                means[row] = mean
        return means

    def _chunk(self, token_ids: list[list[int]]) -> Tensor:
        """Mean log-probabilities of N rows of tokens, padded on the right, where causal attention never looks."""
        device, width = self._model.device, max(map(len, token_ids))
        labels = torch.tensor([ids + [-1] * (width - len(ids)) for ids in token_ids], device=device)  # (N, T)
        context = torch.tensor(self._context, device=device).expand(len(labels), -1)  # (N, C)
        inputs = torch.cat([context, labels.clamp(min=0)], dim=1)  # (N, C + T)
        mask = torch.cat([torch.ones_like(context), (labels >= 0).long()], dim=1)  # (N, C + T)
        logits = self._model(input_ids=inputs, attention_mask=mask, use_cache=False, logits_to_keep=width + 1).logits
        logits = logits[:, :-1].float()  # (N, T, vocabulary)
        chosen = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)  # (N, T)
        log_probs = (chosen - logits.logsumexp(-1)).masked_fill(labels < 0, 0.0)  # (N, T)
        means = log_probs.sum(1) / (labels >= 0).sum(1)  # (N,)
        if not means.isfinite().all():
            raise ModelError(
                f"fluency_model: expected finite log-probabilities, got {means.tolist()}; check the model's weights."
            )
        return means


def _guard(text: str) -> float:
    """What likelihood alone would overlook: repetition, and texts too short to judge."""
    words = _WORD.findall(text.lower())
    pairs = list(pairwise(words))
    variety = (len(set(pairs)) / len(pairs)) ** 2 if pairs else 1.0
    return variety * min(1.0, len(words) / MIN_WORDS)
