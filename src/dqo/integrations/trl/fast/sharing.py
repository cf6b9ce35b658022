"""Prompts that the rows of a group share, in the updates and rollouts of a trainer.

What the loss compares is computed on the micro-batches that it will see: in bf16 the same row in other company has
other log-probabilities, and a ratio of the two would be an importance weight before anything was learnt.
"""

import copy
from contextlib import nullcontext
from math import gcd
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from torch import Tensor, nn
from trl import RLOOTrainer
from trl.models import unwrap_model_for_generation
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer import utils
from trl.trainer.utils import split_tensor_dict, use_adapter

from dqo.integrations.trl.fast.attention import why_not_attended
from dqo.integrations.trl.fast.packing import IGNORED, shared_prefix_forward, shared_prefix_logps
from dqo.integrations.trl.seams import fused_head, why_unshared
from dqo.models.rollout import effective_sampling, full_float32, generate_shared, why_layers, why_not_in_groups
from dqo.models.weights import first_words

logger = get_logger(__name__)
# Sizes that a layout cannot depend on: each token has these to itself.
_ACROSS_NO_TOKENS = ("vocab_size", "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")


def attach(trainer: Any) -> None:
    """Shares prompts in a trainer where its model allows it, and warns once where it does not."""
    reason = why_unshared() or why_not_shared(trainer.model, trainer.accelerator.device)
    if trainer.aux_loss_enabled:
        reason = "its load-balancing loss over experts counts every token, the repeated prompt included."
    if reason is not None:
        logger.warning("dqo: every response is computed with its own copy of the prompt, because %s", reason)
        return
    trainer.fast, trainer.shares_prefix = SharedPrompts(trainer), True
    if fused_head() is None and trainer.accelerator.device.type == "cpu":
        logger.warning("dqo: log-probabilities are computed by TRL's own head, because it is not that of TRL 1.16.")
    # vLLM and continuous batching share prompts themselves.
    if trainer.use_vllm or trainer.use_transformers_continuous_batching:
        return
    reason = _why_trl_generates(trainer)
    trainer.shares_rollouts = reason is None
    if reason is not None:
        logger.warning("dqo: rollouts run the prompt once per response, because %s", reason)


def _why_trl_generates(trainer: Any) -> str | None:
    if trainer.args.generation_kwargs:
        return f"`generation_kwargs` {sorted(trainer.args.generation_kwargs)} are TRL's to apply."
    if beyond := effective_sampling(trainer.model, trainer.generation_config)[1]:
        return f"the model's `generation_config` sets {', '.join(beyond)}, which TRL applies."
    if trainer.args.cache_implementation:
        return f"`cache_implementation={trainer.args.cache_implementation!r}` is TRL's to apply."
    if trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return "sharded weights are gathered in step, and rows here leave the batch at different times."
    return why_not_in_groups(trainer.model)


class SharedPrompts:
    """The part of a trainer that computes the prompt of a group once."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def score(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """Compute log-probabilities (N, C), entropies (N, C) or None, and no auxiliary loss, as TRL returns them."""
        if self._postpones():
            return input_ids.new_zeros(len(input_ids), logits_to_keep, dtype=torch.float32), None, None  # (N, C)
        parts = zip(*(x.split(batch_size or len(x)) for x in (input_ids, attention_mask)), strict=True)
        with self._trainer.accelerator.autocast():
            scored = [shared_prefix_logps(model, ids, seen, logits_to_keep) for ids, seen in parts]  # (n, C) each
        logps, entropies = zip(*scored, strict=True)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def hidden_states(self, backbone: nn.Module, input_ids: Tensor, attention_mask: Tensor, columns: int) -> Tensor:
        """Hidden states from which each of the last `columns` tokens of every row was predicted: (N, columns, D)."""

        def read(shift_labels: Tensor, **inputs: Tensor) -> Any:
            return backbone(use_cache=False, **inputs)

        outputs, pick = shared_prefix_forward(read, (input_ids, attention_mask, columns))
        return pick(outputs.last_hidden_state)

    def lay_out(self, micro_batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Bring groups together in TRL's micro-batches, and compute what the loss compares with."""
        trainer, args = self._trainer, self._trainer.args
        if not self._loss_depends_on_micro_batch():
            # Optimizer steps begin and rollouts change at multiples of this many micro-batches, in every epoch.
            window = gcd(args.steps_per_generation, args.gradient_accumulation_steps)
            micro_batches = regroup(micro_batches, window)
        with torch.no_grad(), disable_gradient_checkpointing(trainer.model, args.gradient_checkpointing_kwargs):
            for batch in micro_batches:
                self._compute_compared_logps(batch)
        return micro_batches

    def sample(self, prompt_ids: list[list[int]]) -> Any:
        """Sample completions of this process's rows, in the form of TRL's default path."""
        trainer = self._trainer
        sampling, _ = effective_sampling(trainer.model, trainer.generation_config)
        with (
            unwrap_model_for_generation(
                trainer.model_wrapped,
                trainer.accelerator,
                gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
            ) as policy,
            torch.no_grad(),
            # One context for all steps casts the weights once, not once per token.
            trainer.accelerator.autocast(),
        ):
            completion_ids, logprobs = generate_shared(
                # As `generate` does: a compiled module would compile anew for every step's new length.
                getattr(policy, "_orig_mod", policy),
                prompt_ids,
                sampling=sampling,
                max_new_tokens=trainer.max_completion_length,
                eos_token_ids=trainer.eos_token_ids,
                pad_token_id=trainer._tokenizer.pad_token_id,
            )
        if isinstance(trainer, RLOOTrainer):
            return completion_ids
        # GRPOTrainer takes log-probabilities beside them where it corrects for how far the policy has moved since.
        return completion_ids, None if trainer.off_policy_mask_threshold is None else logprobs

    def _postpones(self) -> bool:
        """Whether what TRL asks for is computed later, when the micro-batches are known."""
        trainer = self._trainer
        if not (trainer.notes.sampling and trainer.model.training):
            return False
        # Not where log-probabilities of old policy or reference enter the reward or its correction.
        if isinstance(trainer, RLOOTrainer):
            return trainer.beta == 0.0
        corrects = trainer.use_vllm and trainer.vllm_importance_sampling_correction
        return not corrects and getattr(trainer.args, "kl_in", "loss") == "loss"

    def _loss_depends_on_micro_batch(self) -> bool:
        """Whether the loss divides by what its micro-batch holds, so that moving rows between two changes it."""
        trainer = self._trainer
        # Rows then stay where TRL put them.
        return (
            getattr(trainer, "loss_type", None) == "bnpo"
            or getattr(trainer, "top_entropy_quantile", 1.0) < 1.0
            or getattr(trainer, "_entropy_bonus_enabled", False)
            or trainer.spec.signal.place == "loss"
        )

    def _compute_compared_logps(self, batch: dict[str, Any]) -> None:
        """Puts old policy and reference into a micro-batch, where TRL has them, by the call that the loss makes."""
        trainer = self._trainer
        if batch.get("old_per_token_logps") is not None:
            batch["old_per_token_logps"] = trainer.completion_logps(trainer.model, batch)
        if batch.get("old_logps") is not None:
            logps = trainer.completion_logps(trainer.model, batch)  # (N, C)
            batch["old_logps"] = (logps * batch["completion_mask"]).sum(1)  # (N,)
        if batch.get("ref_per_token_logps") is not None:
            if trainer.ref_model is not None:
                model, adapter = trainer.ref_model, nullcontext()
            else:
                # As TRL: an adapter that is trained on has a copy "ref", a new one is switched off.
                model, policy = trainer.model, trainer.accelerator.unwrap_model(trainer.model)
                adapter = use_adapter(policy, "ref" if "ref" in policy.peft_config else None)
            with adapter:
                batch["ref_per_token_logps"] = trainer.completion_logps(model, batch)


Batch = dict[str, Tensor | None]


def regroup(micro_batches: list[Batch], window: int = 1) -> list[Batch]:
    """Puts rows with equal prompts next to each other, in the same number of micro-batches.

    Args:
        micro_batches: what TRL cut from one generation batch: dicts with `prompt_ids` (N, P), `prompt_mask` (N, P) and
            other tensors of N rows; numbers and None are passed on.
        window: micro-batches among which rows may move: divides their number, and lies within one optimizer step.

    Returns:
        As many micro-batches of the same sizes; one that ends inside a group shares its part of it.
    """
    # TRL's shuffle scatters a group over many micro-batches. Which rows an optimizer step sees stays TRL's choice.
    starts = range(0, len(micro_batches), window)
    return [batch for start in starts for batch in _regroup_all(micro_batches[start : start + window])]


def _regroup_all(micro_batches: list[Batch]) -> list[Batch]:
    whole = {
        name: value if value is None or value.dim() == 0 else torch.cat([batch[name] for batch in micro_batches])
        for name, value in micro_batches[0].items()
    }
    keys = whole["prompt_ids"].masked_fill(whole["prompt_mask"] == 0, -1)  # (N, P)
    _, group = torch.unique(keys, dim=0, return_inverse=True)  # (N,)
    # In the order in which the shuffle brought each prompt first, which leaves that order random.
    first = torch.full((int(group.max()) + 1,), len(group), device=group.device)  # (U,)
    first = first.scatter_reduce(0, group, torch.arange(len(group), device=group.device), "amin")  # (U,)
    order = torch.argsort(first[group], stable=True)  # (N,)
    rows = {name: value if value is None or value.dim() == 0 else value[order] for name, value in whole.items()}
    return split_tensor_dict(rows, len(micro_batches))


def why_not_shared(model: nn.Module, device: torch.device | None = None) -> str | None:
    """Says why `shared_prefix_logps` would not equal the plain computation on a model.

    Args:
        model: causal LM of transformers, possibly wrapped by PEFT, not yet by DDP or FSDP; its weights are not looked
            at, so that they may be anywhere.
        device: where it will run; by default where its weights are.

    Returns:
        One sentence to show the user; None where the two are equal.
    """
    config, adapter = model.config, getattr(model, "active_peft_config", None)
    device = device or next(model.parameters()).device
    if config is not config.get_text_config():
        return f"{config.model_type} takes more than text, and image tokens cannot be shared between rows."
    if (reason := why_not_attended(config, device)) is not None:
        return reason
    if adapter is not None and (adapter.is_prompt_learning or getattr(adapter, "is_adaption_prompt", False)):
        return f"the {adapter.peft_type.value} adapter puts tokens of its own before the prompt."
    # The configuration tells what shows on long sequences only. Layers that leak state from one response into the next,
    # or positions that follow the column instead of `position_ids`, change the numbers at once.
    return why_layers(model) or _why_numbers(model, device)


@torch.no_grad()
@full_float32()
def _why_numbers(model: nn.Module, device: torch.device) -> str | None:
    """Compares packed rows with TRL's own call, on a made-up group of two and a single response."""
    try:
        small = _in_small(model).to(device)
        # Long enough for several blocks of attention, where the positions suffice.
        L = T = min(300, getattr(small.config, "max_position_embeddings", None) or 300) // 2
        ids = torch.arange(L + T, device=device) * 7 + torch.tensor([[1], [1], [2]], device=device)  # (3, L+T)
        ids[1, L:] += 3
        ids %= small.config.vocab_size
        mask = torch.ones_like(ids)  # (3, L+T)
        mask[1, -1] = mask[2, 0] = 0
        labels = ids.masked_fill(mask == 0, IGNORED)  # (3, L+T)
        labels[:, :L] = IGNORED
        plain = small(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        logps, _ = shared_prefix_logps(small, ids, mask, T, completions=2)  # (3, T)
        error = (logps - plain.log_probs[:, -T:]).abs().max().item()
    except Exception as error:  # any failure of a foreign architecture is the answer
        return f"its forward does not take a shared prompt ({first_words(error)})."
    return None if error < 1e-3 else f"its log-probabilities change by {error:.1g} when responses share a prompt."


@torch.no_grad()
def _in_small(model: nn.Module) -> nn.Module:
    """A layer of every kind that a model has, in its width, with a small vocabulary and random float32 weights."""
    # A layout is right or wrong by the architecture. The model's own weights may be sharded, quantised, or so coarse
    # that rounding hides an error.
    base = model.get_base_model() if is_peft_model(model) else model
    config = copy.deepcopy(base.config)
    per_layer = {
        name: value
        for name, value in vars(config).items()
        if isinstance(value, list) and len(value) == config.num_hidden_layers
    }
    kinds = list(zip(*per_layer.values(), strict=True)) or [()]
    config.num_hidden_layers = 1 + max(map(kinds.index, kinds))
    for name, value in per_layer.items():
        setattr(config, name, value[: config.num_hidden_layers])
    for name in _ACROSS_NO_TOKENS:
        if isinstance(getattr(config, name, None), int):
            setattr(config, name, 128)
    config.pad_token_id = 0
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        small = type(base)(config).float().eval()
    generator = torch.Generator().manual_seed(0)
    for weight in small.parameters():
        if weight.dim() > 1:  # states of size 1, so that attention is far from uniform
            weight.normal_(std=weight.shape[-1] ** -0.5, generator=generator)
    utils.add_fused_lm_head(small)
    return small
