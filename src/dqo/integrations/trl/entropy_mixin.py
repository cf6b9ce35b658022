"""Entropy terms in the loss, from the log-probabilities and entropies that the host computes for it anyway.

Seam: `_compute_loss`; the forward pass inside it goes through `_get_per_token_logps_and_entropies`, where its results
are kept until the term is added, so no second forward is run.
"""

from typing import Any

import torch
from torch import Tensor
from trl import RLOOTrainer

from dqo.signals import correct_entropy, mean_entropy


class EntropyMixin:
    """Adds -alpha times an entropy to the loss where it is the signal; reads DQOMixin's `spec` and `_rollout_alpha`."""

    _keeps_forward = False
    _forward: tuple | None = None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple:
        forward = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._keeps_forward:
            self._forward = forward
        return forward

    def _compute_loss(self, model: Any, inputs: dict) -> Tensor:
        if self.spec.signal.place != "loss" or not self.model.training:
            return super()._compute_loss(model, inputs)
        self._keeps_forward = True
        try:
            loss = super()._compute_loss(model, inputs)
            term = self._entropy_term(inputs)
        finally:
            self._keeps_forward, self._forward = False, None
        self._metrics["train"]["diversity/entropy_term"].append(self.accelerator.gather(term.detach()).mean().item())
        # GRPOTrainer scales its loss for accumulated micro-batches itself; RLOOTrainer leaves that to the Trainer.
        steps = 1 if isinstance(self, RLOOTrainer) else self.current_gradient_accumulation_steps
        return loss - self._rollout_alpha.value * term / steps

    def _entropy_term(self, inputs: dict) -> Tensor:
        """The entropy that is raised: () nats."""
        assert self._forward is not None, "the host's loss runs the policy through the seam"
        logps, entropies, _ = self._forward  # (N, T) each
        mask = inputs["completion_mask"]  # (N, T)
        if inputs.get("tool_mask") is not None:
            mask = mask * inputs["tool_mask"]
        if self.spec.diversity == "entropy":
            return mean_entropy(entropies, mask)
        old = inputs.get("old_per_token_logps")
        old = logps.detach() if old is None else old  # (N, T)
        return correct_entropy(logps, old, mask, inputs["correct"].to(torch.bool))
