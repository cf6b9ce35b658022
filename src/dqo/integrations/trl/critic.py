"""The critic of PPO: a linear head that reads the value of a state off hidden states.

It is never a part of the policy's module, so checkpoints of the policy hold no key of it.
"""

import copy
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor, nn

from dqo.errors import ModelError, RecipeError
from dqo.integrations.trl.hidden_tap import backbone_of
from dqo.integrations.trl.shared_prefix import shared_prefix_forward
from dqo.models import load_backbone


class Critic(nn.Module):
    """Value head, with a backbone of its own or (None) for hidden states of the policy's.

    The head starts at zero, so that the first advantages are the rewards themselves and not noise of a random layer.

    Args:
        width: D, width of the hidden states.
        backbone: transformer without head, or None.
        shares_prefix: whether the backbone may compute the prompt of a group once.
    """

    def __init__(self, width: int, backbone: nn.Module | None = None, shares_prefix: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.shares_prefix = shares_prefix

    @property
    def config(self) -> Any:
        """The backbone's."""
        return self.backbone.config

    def forward(self, shift_labels: Tensor | None = None, **inputs: Any) -> Any:
        """The backbone's outputs, in a call made for a causal LM with TRL's fused head."""
        return self.backbone(use_cache=False, **inputs)

    def read(self, hidden: Tensor, gradient: float = 1.0) -> Tensor:
        """Values of states, in float32 outside autocast.

        Args:
            hidden: (N, C, D) hidden states of the policy or of the own backbone.
            gradient: share of the gradient that goes on into `hidden`, 0 to 1; the head learns at the whole.

        Returns:
            (N, C) float32 in reward units.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            passed = gradient * hidden + (1 - gradient) * hidden.detach() if gradient < 1 else hidden  # (N, C, D)
            return self.head(passed).squeeze(-1)  # (N, C)

    def values(self, input_ids: Tensor, attention_mask: Tensor, columns: int, batch_size: int | None = None) -> Tensor:
        """Value of the state before each of the last tokens of every row, by the own backbone.

        Args:
            input_ids: (N, P+C) long, prompts left-padded, completions right-padded.
            attention_mask: (N, P+C), zero on padding.
            columns: C, completion columns.
            batch_size: rows at once; all where not given.

        Returns:
            (N, C) float32; without meaning on padding.
        """
        size, parts = batch_size or len(input_ids), []
        for start in range(0, len(input_ids), size):
            rows = slice(start, start + size)
            if self.shares_prefix:
                outputs, pick = shared_prefix_forward(self, input_ids[rows], attention_mask[rows], columns)
                hidden = pick(outputs.last_hidden_state)  # (n, C, D)
            else:
                outputs = self(input_ids=input_ids[rows], attention_mask=attention_mask[rows])
                hidden = outputs.last_hidden_state[:, -columns - 1 : -1]  # (n, C, D)
            parts.append(self.read(hidden))
        return torch.cat(parts)


def copied_backbone(policy: nn.Module) -> nn.Module:
    """The policy as it starts, without head and adapters, as a network that learns in float32.

    Args:
        policy: causal LM, possibly wrapped by PEFT, not yet by DDP or FSDP.

    Returns:
        A deep copy of its backbone, every weight trainable.

    Raises:
        RecipeError: quantised weights, which cannot learn.
    """
    if getattr(policy, "is_quantized", False) or getattr(policy.config, "quantization_config", None) is not None:
        raise RecipeError(
            "a separate critic that starts as a copy of the policy needs weights that can learn, got quantised ones; "
            "set critic='shared', or critic_model to an unquantised model."
        )
    whole = copy.deepcopy(policy)
    base = whole.unload() if is_peft_model(policy) else whole
    return base.base_model.float().requires_grad_(True)


def build_critic(policy: nn.Module, kind: str, model: str | None, shares_prefix: bool) -> Critic:
    """The critic of a run.

    Args:
        policy: causal LM, possibly wrapped by PEFT, not yet by DDP or FSDP.
        kind: "separate" or "shared".
        model: what a separate critic is loaded from; a copy of the policy where None.
        shares_prefix: whether the policy may compute the prompt of a group once; so may a copy of it.

    Returns:
        The critic, on the CPU or where the policy is.

    Raises:
        RecipeError: quantised weights to copy.
        ModelError: a model that cannot be loaded, or that has fewer tokens than the policy.
    """
    if kind == "shared":
        return Critic(backbone_of(policy).config.get_text_config().hidden_size)
    if model is None:
        backbone = copied_backbone(policy)
        return Critic(backbone.config.get_text_config().hidden_size, backbone, shares_prefix)
    backbone = load_backbone(model)
    ours, theirs = (m.config.get_text_config().vocab_size for m in (policy, backbone))
    if theirs < ours:
        raise ModelError(
            f"critic_model {model!r}: expected the policy's tokenizer, so at least {ours} tokens, got {theirs}; choose "
            "a model of the policy's family."
        )
    return Critic(backbone.config.get_text_config().hidden_size, backbone)
