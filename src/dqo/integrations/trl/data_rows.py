"""Checks the rows that a batch was drawn from: whole groups, and prompts that skip the model's chat template."""

from typing import Any

import torch
from accelerate.logging import get_logger
from torch import Tensor

from dqo.rewards import prompt_key

logger = get_logger(__name__)


def row_keys(rows: list[dict[str, Any]], device: torch.device) -> Tensor:
    """Digest of each row of the data set, so that processes can compare them: (N_local,) int64.

    The prompt tells groups apart. Where environments bring the prompt, a row may have none, and its other columns do.
    """
    keys = [int(prompt_key(row.get("prompt", row)), 16) >> 1 for row in rows]
    return torch.tensor(keys, dtype=torch.int64, device=device)  # (N_local,)


class TemplateWarning:
    """Warns once of prompts that reach a chat model as plain text, without the template that it was tuned with.

    Args:
        tokenizer: the policy's tokenizer or processor.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer if getattr(tokenizer, "chat_template", None) else None

    def look(self, rows: list[dict[str, Any]]) -> None:
        """Looks at the rows of a batch, until one was warned of."""
        plain = [row["prompt"] for row in rows if isinstance(row.get("prompt"), str)]
        if self._tokenizer is None or all(map(self._is_rendered, plain)):
            return
        self._tokenizer = None
        logger.warning(
            "dqo: the prompts are strings, so the model reads them without its chat template; pass them as messages, "
            '[{"role": "user", "content": ...}], unless the model shall continue plain text.'
        )

    def _is_rendered(self, prompt: str) -> bool:
        """Whether a prompt holds tokens that only a template writes, so that somebody has applied it already."""
        tokenizer = getattr(self._tokenizer, "tokenizer", self._tokenizer)  # of a processor
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return bool(set(ids) & set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})
