"""Are two encoders independent judges? Not where they read by one vocabulary: what it cannot spell, neither can see."""

import hashlib
from collections.abc import Iterable
from typing import Any

from dqo.models import DEFAULT_POLICY


def digest(tokens: Iterable[str]) -> str:
    """What tells one vocabulary from another.

    Args:
        tokens: Every token, in any order.

    Returns:
        Hexadecimal digits.
    """
    return hashlib.sha256("\n".join(sorted(tokens)).encode("utf-8", "surrogatepass")).hexdigest()


def kinship(encoder: Any, heldout: Any) -> list[str]:
    """What a reader should know of a second judge that is of the first one's family.

    Args:
        encoder: What `load_embedder` returns, or any function.
        heldout: Another, or None.

    Returns:
        One sentence, or none: where there is no second judge, the vocabularies differ, or one of them is not known.
    """
    known = getattr(encoder, "vocabulary", None)
    if heldout is None or known is None or getattr(heldout, "vocabulary", None) != known:
        return []
    other = f"policy:{DEFAULT_POLICY}"
    remedy = f"; {other!r} reads another vocabulary" if other not in (encoder.name, heldout.name) else ""
    return [
        f"the held-out encoder {heldout.name!r} is no independent judge: it reads the vocabulary of {encoder.name!r}, "
        f"so that both are blind to the same words{remedy}."
    ]
