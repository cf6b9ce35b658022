"""Log-probabilities with the prompt of a group computed once, plugged into a TRL online trainer.

Two seams: `_get_per_token_logps_and_entropies`, which policy, old policy and reference all go through, and
`_prepare_inputs`, whose row shuffle would scatter groups over micro-batches.
"""

from typing import Any

import torch
from accelerate.logging import get_logger
from torch import Tensor, nn

from dqo.integrations.trl.hidden_tap import HiddenTap
from dqo.integrations.trl.prefix_support import supports_shared_prefix
from dqo.integrations.trl.shared_prefix import shared_prefix_logps
from dqo.integrations.trl.whole_groups import regroup

logger = get_logger(__name__)
_LOSS_OVER_EXPERTS = "its load-balancing loss over experts counts every token, the repeated prompt included."


class SharedPrefixMixin:
    """Shares prompts between the rows of a micro-batch where the model allows it; says once where it does not."""

    hidden_tap: HiddenTap | None = None  # told where hidden states go, for who reads more of a forward than its head

    def __init__(self, model: Any, reward_funcs: Any = None, args: Any = None, **kwargs: Any) -> None:
        super().__init__(model, reward_funcs, args, **kwargs)
        self.shares_prefix = args.shared_prefix
        if args.shared_prefix:
            reason = _LOSS_OVER_EXPERTS if self.aux_loss_enabled else supports_shared_prefix(self.model)
            self.shares_prefix = reason is None
            if reason is not None:
                logger.warning("dqo: every response is computed with its own copy of the prompt, because %s", reason)

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities (N, C), entropies (N, C) or None, and no auxiliary loss, as the host returns them."""
        if not self.shares_prefix:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
        logps, entropies = [], []
        for start in range(0, len(input_ids), batch_size or len(input_ids)):
            rows = slice(start, start + (batch_size or len(input_ids)))
            with self.accelerator.autocast():
                some_logps, some_entropies = shared_prefix_logps(
                    model, input_ids[rows], attention_mask[rows], logits_to_keep, tap=self.hidden_tap
                )
            logps.append(some_logps)
            entropies.append(some_entropies)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """The host's micro-batches, with the rows of a group together."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if not self.shares_prefix or self._buffered_inputs is before:
            return inputs
        self._buffered_inputs = regroup(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]
