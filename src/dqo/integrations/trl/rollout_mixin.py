"""Rollouts that read the prompt of a group once, plugged into a TRL online trainer's default `generate` path."""

from typing import Any

import torch
from accelerate import DistributedType
from accelerate.logging import get_logger
from trl import RLOOTrainer
from trl.models import unwrap_model_for_generation

from dqo.generation.effective import effective_sampling
from dqo.generation.shared import generate_shared, why_not_in_groups

logger = get_logger(__name__)


class SharedRolloutMixin:
    """Samples with `generate_shared` where the prompt may be shared and nothing asks for the host's own path.

    vLLM and continuous batching share prompts themselves and stay in charge where they are switched on. Stands before
    SharedPrefixMixin, whose `shares_prefix` it reads.
    """

    def __init__(self, model: Any, reward_funcs: Any = None, args: Any = None, **kwargs: Any) -> None:
        super().__init__(model, reward_funcs, args, **kwargs)
        self.shares_rollouts = self.shares_prefix and not (self.use_vllm or self.use_transformers_continuous_batching)
        reason = self._why_host_generates() if self.shares_rollouts else None
        if reason is not None:
            self.shares_rollouts = False
            logger.warning("dqo: rollouts run the prompt once a response, because %s", reason)

    def _why_host_generates(self) -> str | None:
        if self.args.generation_kwargs:
            return f"`generation_kwargs` {sorted(self.args.generation_kwargs)} are the host's to apply."
        if beyond := effective_sampling(self.model, self.generation_config)[1]:
            return f"the model's `generation_config` sets {', '.join(beyond)}, which TRL applies."
        if self.args.cache_implementation:
            return f"`cache_implementation={self.args.cache_implementation!r}` is the host's to apply."
        if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            return "sharded weights are gathered in step, and rows here leave the batch at different times."
        return why_not_in_groups(self.model)

    def _generate_single_turn(self, prompt_ids: list, images: Any, multimodal_fields: dict, *args: Any, **kwargs: Any):
        """Completions of this process's rows, in the form of the host's default path."""
        if not self.shares_rollouts or images is not None or multimodal_fields:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)
        sampling, _ = effective_sampling(self.model, self.generation_config)
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as policy,
            torch.no_grad(),
            self.accelerator.autocast(),  # one context for all steps casts the weights once, not once a token
        ):
            completion_ids, logprobs = generate_shared(
                getattr(policy, "_orig_mod", policy),  # as `generate` does: every step's new length would compile anew
                prompt_ids,
                sampling=sampling,
                max_new_tokens=self.max_completion_length,
                eos_token_ids=self.eos_token_ids,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        if isinstance(self, RLOOTrainer):
            return completion_ids
        # GRPOTrainer takes log-probabilities beside them where it corrects for how far the policy has moved since.
        return completion_ids, None if self.off_policy_mask_threshold is None else logprobs
