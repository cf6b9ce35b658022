"""Log-probabilities with the prompt of a group computed once, plugged into a TRL online trainer.

Two seams. `_get_per_token_logps_and_entropies` serves policy, old policy and reference. `_prepare_inputs` knows the
micro-batches as the loss will see them, so what the loss compares is computed there: in bf16 the same row in other
company has other log-probabilities, and a ratio of the two would be an importance weight before anything was learnt.
"""

from contextlib import nullcontext
from math import gcd
from typing import Any

import torch
from accelerate.logging import get_logger
from torch import Tensor, nn
from trl import RLOOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from dqo.integrations.trl.hidden_tap import HiddenTap
from dqo.integrations.trl.prefix_support import supports_shared_prefix
from dqo.integrations.trl.shared_prefix import shared_prefix_logps
from dqo.integrations.trl.whole_groups import regroup

logger = get_logger(__name__)
_LOSS_OVER_EXPERTS = "its load-balancing loss over experts counts every token, the repeated prompt included."


class SharedPrefixMixin:
    """Shares prompts between the rows of a micro-batch where the model allows it; says once where it does not."""

    hidden_tap: HiddenTap | None = None  # is given hidden states, for who reads more of a forward than its head
    _postpones_logps = False  # while a rollout is scored whose micro-batches are not known yet

    def __init__(self, model: Any, reward_funcs: Any = None, args: Any = None, **kwargs: Any) -> None:
        super().__init__(model, reward_funcs, args, **kwargs)
        self.shares_prefix = args.shared_prefix
        if args.shared_prefix:
            reason = _LOSS_OVER_EXPERTS if self.aux_loss_enabled else supports_shared_prefix(self.model)
            self.shares_prefix = reason is None
            if reason is not None:
                logger.warning("dqo: every response is computed with its own copy of the prompt, because %s", reason)

    def _generate_and_score_completions(self, inputs: list) -> dict[str, Any]:
        self._postpones_logps = self.shares_prefix and self.model.training and not self._scores_by_logps()
        return super()._generate_and_score_completions(inputs)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        self._postpones_logps = False  # TRL asks for old policy and reference before the rewards, for nothing after
        return super()._calculate_rewards(*args, **kwargs)

    def _scores_by_logps(self) -> bool:
        """Whether log-probabilities of old policy or reference enter the reward or its correction."""
        if isinstance(self, RLOOTrainer):
            return self.beta != 0.0
        return self.use_vllm and self.vllm_importance_sampling_correction

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
        """Log-probabilities (N, C), entropies (N, C) or None, and no auxiliary loss, as TRL returns them."""
        if not self.shares_prefix:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
        if self._postpones_logps:
            return input_ids.new_zeros(len(input_ids), logits_to_keep, dtype=torch.float32), None, None  # (N, C)
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
        """TRL's micro-batches, groups together, with the log-probabilities that the loss compares with."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if not self.shares_prefix or self._buffered_inputs is before:
            return inputs
        if not self._loss_depends_on_micro_batch():
            # Optimizer steps begin and rollouts change at multiples of this many micro-batches, in every epoch.
            window = gcd(self.args.steps_per_generation, self.args.gradient_accumulation_steps)
            self._buffered_inputs = regroup(self._buffered_inputs, window)
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            for batch in self._buffered_inputs:
                self._compute_compared_logps(batch)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _loss_depends_on_micro_batch(self) -> bool:
        """Whether the loss divides by what its micro-batch holds, so that moving rows between two changes it."""
        return (
            getattr(self, "loss_type", None) == "bnpo"
            or getattr(self, "top_entropy_quantile", 1.0) < 1.0
            or getattr(self, "_entropy_bonus_enabled", False)
            or self.spec.signal.place == "loss"
        )

    def _compute_compared_logps(self, batch: dict[str, Any]) -> None:
        """Put old policy and reference into a micro-batch, where TRL has them, by the very call that the loss makes."""
        if batch.get("old_per_token_logps") is not None:
            batch["old_per_token_logps"] = self._micro_batch_logps(self.model, batch)
        if batch.get("old_logps") is not None:
            batch["old_logps"] = (self._micro_batch_logps(self.model, batch) * batch["completion_mask"]).sum(1)  # (N,)
        if batch.get("ref_per_token_logps") is not None:
            if self.ref_model is not None:
                model, adapter = self.ref_model, nullcontext()
            else:  # as TRL: an adapter that is trained on has a copy "ref", a new one is switched off
                model, policy = self.model, self.accelerator.unwrap_model(self.model)
                adapter = use_adapter(policy, "ref" if "ref" in policy.peft_config else None)
            with adapter:
                batch["ref_per_token_logps"] = self._micro_batch_logps(model, batch)

    def _micro_batch_logps(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Log-probabilities of a micro-batch's completions: (N, C) nats."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)  # (N, P+C)
        seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)  # (N, P+C)
        return self._get_per_token_logps_and_entropies(model, ids, seen, batch["completion_ids"].shape[1])[0]
