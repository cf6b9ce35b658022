"""Embeddings of every response, group by group, with an encoder's mistakes told by prompt."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dqo.errors import EncoderError
from dqo.records import Group

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
