"""The frozen starting policy as encoder: its last hidden states, averaged over the tokens of a text."""

from typing import Any

import torch
from torch import Tensor

from dqo.embedders.chunking import check_batch_size, embed_in_chunks, token_limit
from dqo.embedders.vocabulary import digest
from dqo.models import best_device, load_policy


class HiddenStateEmbedder:
    """Mean of a causal language model's last hidden states, normalised; the weights never change.

    The current policy would be a moving judge, which training can talk into seeing differences, so the copy is frozen.
    Hidden states of language models all point roughly one way: unrelated sentences have cosines far above those of a
    sentence encoder, so credits lie closer together and the same alpha weighs less.

    Attributes:
        name: What the user called it.
        dimension: D, the width of the model.
        vocabulary: Digest of its tokens.
    """

    def __init__(
        self, model: str, *, name: str | None = None, device: Any = None, dtype: str = "float32", batch_size: int = 64
    ) -> None:
        """Load the model.

        Args:
            model: Name or folder, as for `dqo.models.load_policy`.
            name: Name to go by; "policy:<model>" where not given.
            device: Device of torch; None takes the accelerator where there is one.
            dtype: "float32", "bfloat16" or "float16" inside the model.
            batch_size: Most texts at once.

        Raises:
            ModelError: No such model.
            EncoderError: A batch size below 1.
        """
        self.name = name or f"policy:{model}"
        self.batch_size = check_batch_size(batch_size)
        whole, self._tokenizer = load_policy(model, device=device or best_device(), dtype=dtype)
        self.vocabulary = digest(self._tokenizer.get_vocab())
        self._model = whole.base_model.requires_grad_(False)  # without the head, whose logits nobody reads
        config = whole.config.get_text_config()
        self.dimension: int = config.hidden_size
        self._limit = token_limit(getattr(config, "max_position_embeddings", None), 0)

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, D) float32 rows of norm 1 on the CPU; a zero row for a text of no tokens."""
        return embed_in_chunks(
            texts,
            name=self.name,
            dimension=self.dimension,
            batch_size=self.batch_size,
            limit=self._limit,
            count_tokens=lambda rows: [len(ids) for ids in self._ids(rows)],
            encode=self._encode,
        )

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> Tensor:
        """(B, D) mean states; padding stands on the right, where causal attention never looks."""
        rows = self._ids(texts)
        width = max(map(len, rows))
        device = next(self._model.parameters()).device
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)  # (B, T)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)  # (B, T)
        states = self._model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state  # (B, T, D)
        weights = mask.unsqueeze(-1).float()  # (B, T, 1)
        return (states.float() * weights).sum(1) / weights.sum(1)  # (B, D)
