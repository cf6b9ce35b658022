"""Log-probabilities with the prompt of a group computed once, plugged into a TRL online trainer.

Two seams. `_get_per_token_logps_and_entropies` serves policy, old policy and reference. `_prepare_inputs` knows the
micro-batches as the loss will see them, so what the loss compares is computed there: in bf16 the same row in other
company has other log-probabilities, and a ratio of the two would be an importance weight before anything was learnt.
"""

from contextlib import nullcontext
from math import gcd
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.logging import get_logger
from torch import Tensor, nn
from trl import RLOOTrainer
from trl.models import unwrap_model_for_generation
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import split_tensor_dict, use_adapter

from dqo.integrations.trl.fast.packing import IGNORED, shared_prefix_logps
from dqo.models.numerics import full_float32
from dqo.models.rollout import effective_sampling, generate_shared, why_layers, why_not_in_groups
from dqo.models.weights import first_words

logger = get_logger(__name__)
_LOSS_OVER_EXPERTS = "its load-balancing loss over experts counts every token, the repeated prompt included."


class SharedPrefixMixin:
    """Shares prompts between the rows of a micro-batch where the model allows it; says once where it does not."""

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
                    model, input_ids[rows], attention_mask[rows], logits_to_keep
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


# Rollouts that read the prompt of a group once, plugged into a TRL online trainer's default `generate` path.


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


# Brings rows of a group together again after TRL has shuffled a generation batch row by row.
#
# A prompt can only be shared inside a micro-batch, and the shuffle scatters a group over many of them. Which rows an
# optimizer step sees stays TRL's choice: rows move only between micro-batches of one optimizer step.

Batch = dict[str, Tensor | None]


def regroup(micro_batches: list[Batch], window: int = 1) -> list[Batch]:
    """The same rows in the same number of micro-batches, rows with equal prompts next to each other in each window.

    Args:
        micro_batches: what TRL cut from one generation batch: dicts with `prompt_ids` (N, P), `prompt_mask` (N, P) and
            other tensors of N rows; numbers and None are passed on.
        window: micro-batches among which rows may move: divides their number, and lies within one optimizer step.

    Returns:
        As many micro-batches of the same sizes; one that ends inside a group shares its part of it.
    """
    starts = range(0, len(micro_batches), window)
    return [batch for start in starts for batch in _regroup_all(micro_batches[start : start + window])]


def _regroup_all(micro_batches: list[Batch]) -> list[Batch]:
    """Groups in the order in which the shuffle brought each prompt first, which leaves that order random."""
    whole = {key: _joined([batch[key] for batch in micro_batches]) for key in micro_batches[0]}
    keys = whole["prompt_ids"].masked_fill(whole["prompt_mask"] == 0, -1)  # (N, P)
    _, group = torch.unique(keys, dim=0, return_inverse=True)  # (N,)
    first = torch.full((int(group.max()) + 1,), len(group), device=group.device)  # (U,)
    first = first.scatter_reduce(0, group, torch.arange(len(group), device=group.device), "amin")  # (U,)
    order = torch.argsort(first[group], stable=True)  # (N,)
    return split_tensor_dict({key: _permuted(value, order) for key, value in whole.items()}, len(micro_batches))


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    if parts[0] is None or parts[0].dim() == 0:
        return parts[0]
    return torch.cat(parts)


def _permuted(value: Tensor | None, order: Tensor) -> Tensor | None:
    return value if value is None or value.dim() == 0 else value[order]


# Which models may share a prompt between rows: those in which every token sees its whole past through attention alone.
#
# The check reads the configuration for what only shows on long sequences (windows) or in the loss (experts), then runs
# a made-up group through the model, packed and plain: layers that leak state from one response into the next, or
# positions that follow the column instead of `position_ids`, change the numbers at once.


def supports_shared_prefix(model: nn.Module) -> str | None:
    """Why `shared_prefix_logps` would not equal the plain computation on this model, or None where it does.

    Args:
        model: causal LM prepared by TRL's `add_fused_lm_head`, possibly wrapped by PEFT, not yet by DDP or FSDP; its
            mode and gradients are left as they were.

    Returns:
        None, or one sentence to show the user.
    """
    return _why_config(model) or why_layers(model) or _why_numbers(model)


def _why_config(model: nn.Module) -> str | None:
    config = model.config
    if config is not config.get_text_config():
        return f"{config.model_type} takes more than text, and image tokens cannot be shared between rows."
    if config._attn_implementation not in ("sdpa", "eager"):
        return (
            f"the attention backend {config._attn_implementation!r} takes no custom mask; "
            "load the model with attn_implementation='sdpa'."
        )
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        return f"the {adapter.peft_type.value} adapter puts tokens of its own before the prompt."
    return None


@torch.no_grad()
@full_float32()
def _why_numbers(model: nn.Module) -> str | None:
    """The packed rows against TRL's own call, on a made-up group of two and a single response."""
    weight = next(model.parameters())
    if weight.numel() == 0:
        return "its weights are not in memory (ZeRO-3), so packed rows cannot be checked against the plain computation."
    input_ids, attention_mask, T = _made_up_rows(model.config.vocab_size, weight.device)
    labels = input_ids.masked_fill(attention_mask == 0, IGNORED)  # (3, P+T)
    labels[:, :-T] = IGNORED
    tolerance = 1e-3 if weight.dtype == torch.float32 else 0.2  # rounding of bf16 is of order .01, a leak of order 1
    was_training = model.training
    model.eval()
    try:
        plain = model(input_ids=input_ids, attention_mask=attention_mask, labels=labels, fused_lm_head=True)
        logps, _ = shared_prefix_logps(model, input_ids, attention_mask, T, completions=2)  # (3, T)
        error = (logps - plain.log_probs[:, -T:]).abs().max().item()
        if not error < tolerance:
            return f"its log-probabilities change by {error:.1g} when responses share a prompt."
    except Exception as error:  # any failure of a foreign architecture is the answer, and is told
        return f"its forward does not take a shared prompt ({first_words(error)})."
    finally:
        model.train(was_training)
    return None


def _made_up_rows(vocabulary: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Rows of TRL's shape: prompts of 6, 6 and 5 tokens, completions of 4, 3 and 4; and the width 4 of the latter."""
    tokens = torch.arange(10, device=device) * 7 + torch.tensor([[1], [1], [2]], device=device)  # (3, 10)
    tokens[1, 6:] += 3
    attention_mask = torch.ones_like(tokens)  # (3, 10)
    attention_mask[1, 9] = attention_mask[2, 0] = 0
    return tokens % vocabulary, attention_mask, 4
