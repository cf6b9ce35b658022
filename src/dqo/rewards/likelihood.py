"""How likely a frozen language model finds a response to its prompt: a second opinion that no arm was trained on."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dqo.chat import chat_text, rendered
from dqo.errors import ModelError, RewardError
from dqo.models import DEFAULT_POLICY, best_device, load_policy
from dqo.response import completion_text, prompt_text

_BATCH_TOKENS = 2048  # prompts and responses of a batch, padding included


class LikelihoodReward:
    """Log-probability of a response per token, in nats, under a frozen model; a reward in TRL's convention.

        (1/T) sum_t log p(y_t | x, y_<t)

    The prompt is rendered as the policy gets it; white space around a response and its end do not count, so that one
    that was cut off is judged by what it says. Nonsense that a rule lets pass is unlikely; so is a good answer that few
    would give, which makes this a check against babble and no measure of quality by itself.

    Args:
        model: Name or folder, as for `dqo.models.load_policy`; the base of what is judged, say.

    Raises:
        ModelError: A model that cannot be loaded, or whose log-probabilities are not finite.
        RewardError: When called: a prompt without tokens, or more tokens than the model reads.
    """

    def __init__(self, model: str = DEFAULT_POLICY):
        self.__name__ = "likelihood"
        self._model, self._tokenizer = load_policy(model, device=best_device())
        self._model.requires_grad_(False)

    def __call__(self, *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """N numbers of nats, at most 0; equal pairs are judged once.

        Args:
            prompts: Strings, or lists of chat messages.
            completions: Strings, or lists of chat messages.
            **columns: Whatever else TRL passes.

        Returns:
            Log-probability per token; None for an empty response, which has no tokens to judge.
        """
        pairs = [
            (self._asked(prompt), completion_text(completion).strip())
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        known: dict[tuple[str, str], float] = {}
        rows = [(pair, *self._encode(*pair)) for pair in dict.fromkeys(pairs)]
        rows = [row for row in rows if row[2]]
        rows.sort(key=lambda row: -len(row[1]) - len(row[2]))  # little padding in a batch
        while rows:
            size = max(1, _BATCH_TOKENS // (len(rows[0][1]) + len(rows[0][2])))
            batch, rows = rows[:size], rows[size:]
            values = self._per_token([row[1:] for row in batch]).tolist()
            known |= {pair: value for (pair, *_), value in zip(batch, values, strict=True)}
        return [known.get(pair) for pair in pairs]

    def _encode(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        ids = self._tokenizer(prompt, add_special_tokens=not self._tokenizer.chat_template).input_ids
        answer = self._tokenizer(response, add_special_tokens=False).input_ids
        room = getattr(self._model.config, "max_position_embeddings", None)
        if not ids or (room and len(ids) + len(answer) > room):
            raise RewardError(
                f"reward 'likelihood': expected a prompt of at least one token and no more than {room} with its "
                f"response, got {len(ids)} and {len(ids) + len(answer)}; shorten them, or use another model."
            )
        return ids, answer

    def _asked(self, prompt: Any) -> str:
        if isinstance(prompt, str):
            return rendered(prompt, self._tokenizer)
        return chat_text(self._tokenizer, prompt) if self._tokenizer.chat_template else prompt_text(prompt)

    @torch.no_grad()
    def _per_token(self, rows: list[tuple[list[int], list[int]]]) -> Tensor:
        """(N,) mean log-probabilities; rows are padded on the right, where causal attention never looks."""
        width = max(len(prompt) + len(response) for prompt, response in rows)  # L + T
        ids = torch.zeros(len(rows), width, dtype=torch.long)  # (N, L+T)
        mask = torch.zeros(len(rows), width, dtype=torch.long)  # (N, L+T)
        labels = torch.full((len(rows), width), -1)  # (N, L+T)
        for row, (prompt, response) in enumerate(rows):
            stop = len(prompt) + len(response)
            ids[row, :stop], mask[row, :stop] = torch.tensor(prompt + response), 1
            labels[row, len(prompt) : stop] = torch.tensor(response)
        keep = min(width, width - min(len(prompt) for prompt, _ in rows) + 1)  # from the last token of a prompt on
        device = self._model.device
        logits = (
            self._model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, logits_to_keep=keep)
            .logits[:, :-1]
            .float()
        )  # (N, keep-1, V)
        labels = labels[:, 1 - keep :].to(device)  # (N, keep-1)
        chosen = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)  # (N, keep-1)
        log_probs = (chosen - logits.logsumexp(-1)).masked_fill(labels < 0, 0.0)  # (N, keep-1)
        values = log_probs.sum(1) / (labels >= 0).sum(1)  # (N,)
        if not values.isfinite().all():
            raise ModelError(
                f"likelihood: expected finite log-probabilities, got {values.tolist()}; check the weights."
            )
        return values
