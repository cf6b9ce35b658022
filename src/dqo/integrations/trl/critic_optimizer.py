"""The critic's own optimizer: steps with the policy's, averages over processes itself, and resumes exactly."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from dqo.errors import ModelError, TrainingError
from dqo.hub import first_words
from dqo.integrations.trl.faults import way_back

FOLDER = "critic"  # in a checkpoint, apart from the policy's files, which loaders of the policy look for at its top


class CriticOptimizer:
    """AdamW over a replica of the critic in every process.

    No wrapper of the host is needed around the critic: replicas start from process 0's weights and step on the mean
    of all gradients, so they stay equal, whatever the policy is wrapped by.

    Args:
        critic: on its device.
        args: the host's settings; read are adam_beta1, adam_beta2, adam_epsilon, max_grad_norm, output_dir and
            critic_learning_rate.
    """

    def __init__(self, critic: nn.Module, args: Any) -> None:
        self.critic = critic
        self.learning_rate, self.max_norm = args.critic_learning_rate, args.max_grad_norm
        self.folder = args.output_dir
        betas = (args.adam_beta1, args.adam_beta2)
        self.adam = torch.optim.AdamW(
            critic.parameters(), lr=args.critic_learning_rate, betas=betas, eps=args.adam_epsilon, weight_decay=0.0
        )
        if _processes() > 1:
            for weight in critic.parameters():
                dist.broadcast(weight.data, src=0)

    def step(self, schedule: float) -> float:
        """One step on the gradients that have come together, which it clears.

        Args:
            schedule: the policy's learning rate as a share of its peak; the critic follows the same course.

        Returns:
            Norm of the gradient before clipping.

        Raises:
            TrainingError: NaN or infinity in the gradient; no weight has changed then.
        """
        for weight in self.critic.parameters():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            if _processes() > 1:
                dist.all_reduce(weight.grad)
                weight.grad /= _processes()
        limit = self.max_norm if self.max_norm and self.max_norm > 0 else float("inf")
        norm = nn.utils.clip_grad_norm_(self.critic.parameters(), limit)  # ()
        if not norm.isfinite():
            raise TrainingError(
                f"expected a finite gradient of the critic, got a norm of {norm.item()}; no weight has changed yet, so "
                f"lower critic_learning_rate or set bf16=false, and {way_back(self.folder)}."
            )
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate * schedule
        self.adam.step()
        self.adam.zero_grad()
        return norm.item()

    def save(self, checkpoint: str | Path) -> None:
        """Write <checkpoint>/critic/critic.safetensors and optimizer.safetensors; for one process to call."""
        folder = Path(checkpoint) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.detach().contiguous() for name, tensor in self.critic.state_dict().items()}
        save_file(weights, folder / "critic.safetensors")
        state = self.adam.state_dict()["state"]
        flat = {f"{i}.{name}": tensor.contiguous() for i, slot in state.items() for name, tensor in slot.items()}
        save_file(flat, folder / "optimizer.safetensors")

    def load(self, checkpoint: str | Path) -> None:
        """Weights and moments as they were saved, on every process.

        Args:
            checkpoint: Folder of a checkpoint.

        Raises:
            ModelError: No critic in it, or another one than this run's.
        """
        folder = Path(checkpoint) / FOLDER
        try:
            weights, flat = (load_file(folder / f"{name}.safetensors") for name in ("critic", "optimizer"))
            self.critic.load_state_dict(weights)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(
                f"{folder}: expected the critic of the run that is continued, but loading failed "
                f"({first_words(error)}); resume from another checkpoint of the same settings, or start anew."
            ) from error
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in flat.items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = tensor
        self.adam.load_state_dict(self.adam.state_dict() | {"state": state})


class CriticStep(TrainerCallback):
    """Steps the critic whenever the host steps the policy.

    Args:
        step: called without arguments, before the policy's step.
    """

    def __init__(self, step: Any) -> None:
        self._step = step

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The host's seam: gradients are complete and clipped, the learning rate is this step's."""
        self._step()


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
