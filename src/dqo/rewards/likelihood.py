"""How likely a frozen language model finds a response: after its prompt, or by itself, as fluency."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from dqo.errors import ModelError, RecipeError, RewardError
from dqo.models.chat import chat_text, completion_text, conversation, prompt_text
from dqo.models.policy import DEFAULT_POLICY, best_device, load_policy, native_bf16

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Nats per word, see `FluencyReward`.
LOW = -10.0
HIGH = -5.9
MIN_WORDS = 4
# Padding included; over a vocabulary of 49,152 their logits take 200 MB.
_BATCH_TOKENS = 1024
# Label of a token that is not scored.
_IGNORED = -100
_WORD = re.compile(r"\w+(?:['’]\w+)*")

Row = tuple[list[int], list[int]]  # token ids of a context, and of what follows it


@torch.no_grad()
def log_likelihoods(model: "PreTrainedModel", rows: Sequence[Row], *, mixed: bool = False) -> list[float]:
    """Sums the log-probabilities of each row's tokens, given its context; N numbers of nats, at most 0."""
    totals = [0.0] * len(rows)
    # Little padding in a batch.
    order = sorted(range(len(rows)), key=lambda row: -sum(map(len, rows[row])))
    while order:
        size = max(1, _BATCH_TOKENS // sum(map(len, rows[order[0]])))
        batch, order = order[:size], order[size:]
        for row, total in zip(batch, _batch_totals(model, [rows[row] for row in batch], mixed), strict=True):
            totals[row] = total
    return totals


def _batch_totals(model: "PreTrainedModel", rows: Sequence[Row], mixed: bool) -> list[float]:
    """One batch, padded on the right, where causal attention never looks."""
    whole = [torch.tensor(context + tokens) for context, tokens in rows]
    ids = pad_sequence(whole, batch_first=True).to(model.device)  # (N, L+T)
    mask = pad_sequence([torch.ones_like(row) for row in whole], batch_first=True).to(model.device)  # (N, L+T)
    scored = [torch.tensor([_IGNORED] * len(context) + tokens) for context, tokens in rows]
    labels = pad_sequence(scored, batch_first=True, padding_value=_IGNORED).to(model.device)  # (N, L+T)
    # From the last token of a context on.
    width = ids.shape[1]
    keep = min(width, width - min(len(context) for context, _ in rows) + 1)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=keep).logits  # (N, keep, V)
    logits = logits[:, :-1].float().mT  # (N, V, keep-1)
    totals = -cross_entropy(logits, labels[:, width - keep + 1 :], ignore_index=_IGNORED, reduction="none").sum(
        1
    )  # (N,)
    if not totals.isfinite().all():
        found = f"from {model.name_or_path!r}, got {totals.tolist()}"
        raise ModelError(f"expected finite log-probabilities {found}; check its weights.")
    return totals.tolist()


class LikelihoodReward:
    """Log-probability of a response per token, in nats, under a frozen model; a reward in TRL's convention.

        (1/T) sum_t log p(y_t | x, y_<t)

    The prompt is rendered as the policy gets it; white space around a response and its end do not count, so that one
    that was cut off is judged by what it says. Nonsense that a rule lets pass is unlikely; so is a good answer that few
    would give, which makes this a check against babble and no measure of quality by itself.

    Args:
        model: Name or folder, as for `dqo.models.policy.load_policy`; the base of what is judged, say.

    Raises:
        ModelError: A model that cannot be loaded, or whose log-probabilities are not finite.
        RewardError: When called: a prompt without tokens, or more tokens than the model reads.
    """

    def __init__(self, model: str = DEFAULT_POLICY):
        self.__name__ = "likelihood"
        self._model, self._tokenizer = load_policy(model, device=best_device())
        self._model.requires_grad_(False)

    def __call__(self, *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Scores N responses; N numbers of nats, at most 0, None for an empty response."""
        asked = [self._asked(prompt) for prompt in prompts]
        answers = [completion_text(completion).strip() for completion in completions]
        rows = [self._encode(*row) for row in zip(asked, answers, strict=True)]
        totals = log_likelihoods(self._model, rows)
        return [total / len(ids) if ids else None for total, (_, ids) in zip(totals, rows, strict=True)]

    def _encode(self, prompt: str, response: str) -> Row:
        ids = self._tokenizer(prompt, add_special_tokens=not self._tokenizer.chat_template).input_ids
        answer = self._tokenizer(response, add_special_tokens=False).input_ids
        room = getattr(self._model.config, "max_position_embeddings", None)
        if not ids or (room and len(ids) + len(answer) > room):
            expected = f"expected a prompt of at least one token and no more than {room} with its response"
            got = f"got {len(ids)} and {len(ids) + len(answer)}"
            raise RewardError(f"reward 'likelihood': {expected}, {got}; shorten them.")
        return ids, answer

    def _asked(self, prompt: Any) -> str:
        if not self._tokenizer.chat_template:
            return prompt_text(prompt)
        return chat_text(self._tokenizer, conversation(prompt) if isinstance(prompt, str) else prompt)


class FluencyReward:
    """How likely a frozen model finds a response by itself; a reward in TRL's convention.

    It is linear between word salad (0) and a person's sentence (1).

        fluency = clip((log p / words − low) / (high − low), 0, 1) · variety · length

    The text stands alone, after a line break (or the end-of-sequence token, for a tokenizer without line breaks): given
    the task's prompt, the model finds sentences about the task likely, which is what a policy would exploit. Above
    `high` nothing more is paid, so that the likeliest cliché earns what an ordinary sentence does. A model also finds
    repetition likely; `variety` is the square of the share of distinct word triples. `length` is 1 from `MIN_WORDS`
    words on, and the words' number over it below.

    Measured with SmolLM2-135M-Instruct on human sentences of CommonGen's training data (the first reference where it
    has a capital, a full stop and 6 to 25 words) and the same sentences with their words shuffled; nats, median [10th,
    90th percentile], and the share of pairs in which the human sentence is the likelier:

        divided by  context of the text            n    human                  shuffled                share
        words       line break                     165  -5.89 [-7.71, -4.67]   -9.99 [-11.64, -8.99]   .991
        tokens      line break                     165  -4.77 [-6.03, -3.80]   -8.07 [-8.99, -6.91]    .986
        tokens      line break                     120  -4.89 [-6.00, -3.78]   -8.05 [-8.93, -6.86]    .982
        tokens      request for an everyday scene  120  -4.69 [-6.03, -3.56]   -8.07 [-9.12, -6.71]    .979

    `LOW` and `HIGH` are the medians of the first row. Dividing by tokens pays invented words, whose many pieces follow
    from each other: "Scenadillazabaggabrojo jokes on …" had -5.5 a token, near human, but -13.7 a word. The request as
    context raised text about the task ("Here is one sentence … that uses all of these words") from -4.7 to -3.7.
    Words are what blanks separate, so other bounds are needed for languages written without them.

    Args:
        model: Name or folder, as for `dqo.models.policy.load_policy`.
        low: Log-probability per word, nats, worth 0.
        high: The one worth 1, above `low`.

    Raises:
        RecipeError: `low` not below `high`.
        ModelError: A model that cannot be loaded.
    """

    def __init__(self, model: str = DEFAULT_POLICY, low: float = LOW, high: float = HIGH):
        if not low < high:
            raise RecipeError(f"fluency_low: expected a number below fluency_high={high}, got {low}.")
        self.__name__ = "fluency"
        self.low, self.high = low, high
        self._model, self._tokenizer = load_policy(model, device=best_device())
        self._model.requires_grad_(False)
        self._context = self._tokenizer("\n").input_ids or [self._tokenizer.eos_token_id]

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        """Scores N responses; N numbers in [0, 1], 0 for a response without words."""
        texts = [completion_text(completion) for completion in completions]
        spans = [(value - self.low) / (self.high - self.low) for value in self.log_probs_per_word(texts)]
        return [min(1.0, max(0.0, span)) * _guard(text) for span, text in zip(spans, texts, strict=True)]

    def log_probs_per_word(self, texts: Sequence[str]) -> list[float]:
        """Divides each text's log-probability by its number of words; N of nats, `low` for a text without words."""
        words = [len(_WORD.findall(text)) for text in texts]
        rows = [(self._context, self._tokenizer(text.strip(), add_special_tokens=False).input_ids) for text in texts]
        # Where bf16 is native it takes half the time; over 96 sentences it moved a fluency by 0.005 at most.
        totals = log_likelihoods(self._model, rows, mixed=native_bf16(cpu=self._model.device.type == "cpu"))
        return [total / n if n else self.low for total, n in zip(totals, words, strict=True)]


def _guard(text: str) -> float:
    """What likelihood alone would overlook: repetition, and texts too short to judge."""
    words = _WORD.findall(text.lower())
    triples = list(zip(words, words[1:], words[2:], strict=False))
    variety = (len(set(triples)) / len(triples)) ** 2 if triples else 1.0
    return variety * min(1.0, len(words) / MIN_WORDS)
