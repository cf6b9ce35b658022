"""A user's function as an encoder: numpy or lists become a tensor, and what fits no batch is told by its shape."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dqo.embedders.protocol import Embedder
from dqo.errors import EncoderError


class OwnEmbedder:
    """Texts -> (N, D) by a function of the user.

    Attributes:
        name: The function's.

    Args:
        encode: list[str] -> N rows of D numbers, as tensor, array or lists.

    Raises:
        EncoderError: Nothing that can be called. When called: not one row of numbers a text.
    """

    def __init__(self, encode: Callable[[list[str]], Any]) -> None:
        model = isinstance(encode, torch.nn.Module) and hasattr(encode, "encode")  # its call is a forward of features
        if not callable(encode) or model:
            raise EncoderError(
                f"Expected a function list[str] -> (N, D) as encoder, got a {type(encode).__name__}; pass "
                + ("its method `encode`." if model else "one, or for a name what `load_embedder` returns.")
            )
        self._encode = encode
        self.name = str(getattr(encode, "name", None) or getattr(encode, "__name__", type(encode).__name__))

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, D) on whatever device the function returns."""
        found = self._encode(texts)
        try:
            rows = found if isinstance(found, Tensor) else torch.as_tensor(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise EncoderError(
                f"Expected encoder {self.name!r} to return rows of numbers, got a {type(found).__name__} ({error}); "
                "return a (N, D) tensor or array."
            ) from error
        if rows.dim() != 2 or len(rows) != len(texts):
            raise EncoderError(
                f"Expected the encoder to return one vector a text, got shape {tuple(rows.shape)} for {len(texts)} "
                "texts; return a (N, D) tensor."
            )
        return rows if rows.is_floating_point() else rows.to(torch.get_default_dtype())


def chosen_embedder(encoder: str | Embedder | Callable[[list[str]], Any], **options: Any) -> Embedder | OwnEmbedder:
    """The encoder of a name, or a user's function.

    Args:
        encoder: Name or folder, or a function list[str] -> (N, D).
        **options: Of `load_embedder`, for a name.

    Returns:
        A callable list[str] -> (N, D).

    Raises:
        EncoderError: No such encoder.
    """
    from dqo.embedders.loading import load_embedder

    return load_embedder(encoder, **options) if isinstance(encoder, str) else OwnEmbedder(encoder)
