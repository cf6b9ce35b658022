"""Rollouts that read the prompt of a group once, plugged into a TRL online trainer's default `generate` path."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.logging import get_logger
from torch import Tensor
from trl import RLOOTrainer
from trl.models import unwrap_model_for_generation

from dqo.generation.shared import Sampling, generate_shared, reads_columns, why_not_in_groups

logger = get_logger(__name__)


class DrawnTokens:
    """The tokens of the last rollout and the log-probabilities they were drawn with.

    Args:
        completion_ids: N token lists.
        logprobs: N lists of nats, one a token.
    """

    def __init__(self, completion_ids: Sequence[Sequence[int]], logprobs: Sequence[Sequence[float]]) -> None:
        self.completion_ids, self.logprobs = [list(ids) for ids in completion_ids], logprobs

    def of(self, completion_ids: Tensor, mask: Tensor) -> Tensor | None:
        """Log-probabilities of these very completions, zero on padding, or None where they are others.

        Args:
            completion_ids: (N, C) right-padded.
            mask: (N, C) zero on padding.

        Returns:
            (N, C) float32 nats, or None.
        """
        lengths = mask.sum(1).tolist()
        if [ids[:n] for ids, n in zip(completion_ids.tolist(), lengths, strict=True)] != self.completion_ids:
            return None
        logps = torch.zeros(completion_ids.shape, device=completion_ids.device)  # (N, C)
        for row, values in enumerate(self.logprobs):
            logps[row, : len(values)] = torch.tensor(values, device=logps.device)
        return logps


class SharedRolloutMixin:
    """Samples with `generate_shared` where the prompt may be shared and nothing asks for the host's own path.

    vLLM and continuous batching share prompts themselves and stay in charge where they are switched on. Stands before
    SharedPrefixMixin, whose `shares_prefix` it reads.
    """

    def __init__(self, model: Any, reward_funcs: Any = None, args: Any = None, **kwargs: Any) -> None:
        self._drawn: DrawnTokens | None = None
        super().__init__(model, reward_funcs, args, **kwargs)
        self.shares_rollouts = self.shares_prefix and not (self.use_vllm or self.use_transformers_continuous_batching)
        reason = self._why_host_generates() if self.shares_rollouts else None
        if reason is not None:
            self.shares_rollouts = False
            logger.warning("dqo: rollouts run the prompt once a response, because %s", reason)
        self._reads_columns = self.shares_rollouts and reads_columns(self.model)

    def _why_host_generates(self) -> str | None:
        if self.args.generation_kwargs:
            return f"`generation_kwargs` {sorted(self.args.generation_kwargs)} are the host's to apply."
        if self.args.cache_implementation:
            return f"`cache_implementation={self.args.cache_implementation!r}` is the host's to apply."
        if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            return "sharded weights are gathered in step, and rows here leave the batch at different times."
        return why_not_in_groups(self.model)

    def _draws_exactly(self, sampling: Sampling) -> bool:
        """Whether the log-probabilities of sampling are those that the host would compute for the old policy.

        Not with filters, under which tokens are drawn from another distribution; not in reduced precision, where two
        ways to compute a number differ by more than rounding should; not with adapters, which the reference turns off
        on the same model; not where the host's padding moves positions, from which sampling is free.
        """
        plain = Sampling(temperature=sampling.temperature)
        whole = self.accelerator.mixed_precision == "no" and self.model.dtype == torch.float32
        if hasattr(self.model, "peft_config") or self._reads_columns:
            return False
        return sampling == plain and sampling.temperature > 0 and whole

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The host's call; the first one for the old policy after a rollout is answered by the rollout itself.

        One that wants entropies or router losses too is the loss, in an evaluation without gradients.
        """
        drawn, self._drawn = self._drawn, None
        alone = not (kwargs.get("compute_entropy") or kwargs.get("compute_aux_loss"))
        if drawn is not None and alone and model is self.model and not torch.is_grad_enabled():
            logps = drawn.of(input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:])  # (N, C)
            if logps is not None:
                return logps, None, None
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )

    def _generate_single_turn(self, prompt_ids: list, images: Any, multimodal_fields: dict, *args: Any, **kwargs: Any):
        """Completions of this process's rows, in the form of the host's default path."""
        if not self.shares_rollouts or images is not None or multimodal_fields:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)
        sampling = Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
        )
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
                policy,
                prompt_ids,
                sampling=sampling,
                max_new_tokens=self.max_completion_length,
                eos_token_ids=self.eos_token_ids,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        if self._draws_exactly(sampling):
            self._drawn = DrawnTokens(completion_ids, logprobs)
        # GRPOTrainer returns log-probabilities beside them, None where the trainer shall compute its own.
        return completion_ids if isinstance(self, RLOOTrainer) else (completion_ids, None)
