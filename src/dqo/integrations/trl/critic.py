"""The critic of PPO: a network of its own with a linear head that reads the value of a state off its hidden states.

It is never a part of the policy's module, so checkpoints of the policy hold no key of it.
"""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import is_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from dqo.errors import ModelError, RecipeError, TrainingError
from dqo.integrations.trl.fast.packing import shared_prefix_forward
from dqo.integrations.trl.faults import way_back
from dqo.models.policy import load_backbone
from dqo.models.weights import first_words


class Critic(nn.Module):
    """Backbone and value head.

    The head starts at zero, so that the first advantages are the rewards themselves and not noise of a random layer.

    Args:
        backbone: transformer without head.
        shares_prefix: whether the backbone may compute the prompt of a group once.
    """

    def __init__(self, backbone: nn.Module, shares_prefix: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.get_text_config().hidden_size, 1)
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

    def read(self, hidden: Tensor) -> Tensor:
        """Values (N, C) of hidden states (N, C, D): float32 in reward units, outside autocast."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden.float()).squeeze(-1)  # (N, C)

    def values(self, input_ids: Tensor, attention_mask: Tensor, columns: int, batch_size: int | None = None) -> Tensor:
        """Value of the state before each of the last tokens of every row, by the backbone.

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
            "a critic that starts as a copy of the policy needs weights that can learn, got quantised ones; set "
            "critic_model to an unquantised model."
        )
    whole = copy.deepcopy(policy)
    base = whole.unload() if is_peft_model(policy) else whole
    return base.base_model.float().requires_grad_(True)


def build_critic(policy: nn.Module, model: str | None, shares_prefix: bool) -> Critic:
    """The critic of a run.

    Args:
        policy: causal LM, possibly wrapped by PEFT, not yet by DDP or FSDP.
        model: what the critic is loaded from; a copy of the policy where None.
        shares_prefix: whether the policy may compute the prompt of a group once; so may a copy of it.

    Returns:
        The critic, on the CPU or where the policy is.

    Raises:
        RecipeError: quantised weights to copy.
        ModelError: a model that cannot be loaded, or that has fewer tokens than the policy.
    """
    if model is None:
        return Critic(copied_backbone(policy), shares_prefix)
    backbone = load_backbone(model)
    ours, theirs = (m.config.get_text_config().vocab_size for m in (policy, backbone))
    if theirs < ours:
        raise ModelError(
            f"critic_model {model!r}: expected the policy's tokenizer, so at least {ours} tokens, got {theirs}; choose "
            "a model of the policy's family."
        )
    return Critic(backbone)


# The critic's own optimizer: steps with the policy's, averages over processes itself, and resumes exactly.

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
