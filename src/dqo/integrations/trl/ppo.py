"""PPO with a critic on TRL's GRPOTrainer, whose loss takes an advantage per token.

Values of every state, a reward per token (the combined reward of task and diversity on the last one) and GAE give
(N, C) advantages in the place of TRL's (N,) ones. The critic is never a part of the policy's module, so checkpoints of
the policy hold no key of it.
"""

import copy
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast, gather, is_peft_model, reduce
from torch import Tensor, nn
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from dqo.core import clipped_value_error, explained_variance, gae
from dqo.errors import RecipeError, TrainingError
from dqo.integrations.trl.config import DQOPPOConfig
from dqo.integrations.trl.faults import describe_way_back
from dqo.integrations.trl.resume import reading_part, save_part
from dqo.integrations.trl.seams import ending_tokens
from dqo.integrations.trl.step import join_rows
from dqo.integrations.trl.trainer import DQOMixin

FILE = "critic/critic.safetensors"  # in a checkpoint, apart from the policy's files, all of which some loaders read


def spread_scores(
    batch: Mapping[str, Tensor],
    scores: Tensor,
    values: Tensor,
    *,
    ends: Collection[int],
    bootstrap: bool,
    logps: Tensor | None = None,
    beta: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Spreads one score per response over its tokens: the score on the last token under the mask, the KL on the way.

    Args:
        batch: of TRL: `completion_ids`, `completion_mask` and, where logps are given, `ref_per_token_logps`, (N, C)
            each; `tool_mask` (N, C), zero on tokens that a tool wrote.
        scores: (N,) combined reward; NaN leaves the row out.
        values: (N, C+1) value of the state before each token and behind the last.
        ends: token ids that end a response.
        bootstrap: whether the value of the last state replaces the score of a response that was cut off.
        logps: (N, C) of the policy that sampled; None pays no KL.
        beta: weight of the KL.

    Returns:
        (N, C) reward of each token; (N, C) float mask, 1 on tokens that the policy chose in rows with a score; (N,)
        value behind a response that was cut off, 0 for one that ended; (N, C) estimate of the KL to the reference per
        token, or None where the reward holds none.
    """
    real, device = batch["completion_mask"], values.device
    lengths = real.sum(1, keepdim=True)  # (N, 1)
    last = batch["completion_ids"].gather(1, (lengths - 1).clamp(min=0))  # (N, 1)
    cut_off = ~torch.isin(last, torch.tensor(sorted(ends), device=device)).squeeze(1)  # (N,)
    mask = (real * batch.get("tool_mask", 1)).bool() & ~scores.isnan()[:, None]  # (N, C)
    columns = torch.arange(mask.shape[1], device=device)  # (C,)
    at = (columns * mask).argmax(1, keepdim=True)  # (N, 1) last token under the mask
    # A response that was cut off has no outcome yet. The value of its last state stands in the place of its score: both
    # together would pay it twice, and without bound, because that value is fitted to what such responses are paid.
    waits = cut_off & bootstrap  # (N,)
    paid = scores.nan_to_num().masked_fill(waits, 0).to(values.dtype)  # (N,)
    rewards = torch.zeros_like(values[:, :-1]).scatter(1, at, paid[:, None])  # (N, C)
    behind = values.gather(1, lengths).squeeze(1) * waits  # (N,)
    kl = None
    if logps is not None:
        # Paid is −β·(log π − log π_ref), logged the estimate e^d − d − 1.
        d = batch["ref_per_token_logps"] - logps  # (N, C)
        rewards, kl = rewards + beta * d, d.exp() - d - 1
    return rewards, mask.to(values.dtype), behind, kl


class Critic(nn.Module):
    """Reads the value of a state off the hidden states of a network of its own, a replica in every process.

    Args:
        backbone: transformer without head.
        args: settings of the trainer.
        share: (backbone, ids, mask, columns) -> (N, columns, D) hidden states, the prompt of a group computed once;
            None computes it once per response.
    """

    def __init__(self, backbone: nn.Module, args: Any, share: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.get_text_config().hidden_size, 1)
        for weight in self.head.parameters():  # so that the first advantages are the rewards and no noise
            nn.init.zeros_(weight)
        self._args, self._share = args, share
        # Replicas start from process 0's weights and step on the mean of all gradients, so they stay equal.
        for weight in self.to(args.device).parameters():
            weight.data = broadcast(weight.data)
        betas, rate = (args.adam_beta1, args.adam_beta2), args.critic_learning_rate
        self.adam = torch.optim.AdamW(self.parameters(), rate, betas, args.adam_epsilon, weight_decay=0.0)

    def read(self, hidden: Tensor) -> Tensor:
        """Values (N, C) of hidden states (N, C, D): float32 in reward units, outside autocast."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden.float()).squeeze(-1)  # (N, C)

    def values(self, input_ids: Tensor, attention_mask: Tensor, columns: int, batch_size: int | None = None) -> Tensor:
        """Estimate the value of the state before each of the last `columns` tokens of TRL's rows: (N, C) float32."""
        parts = []
        for ids, seen in zip(*(x.split(batch_size or len(x)) for x in (input_ids, attention_mask)), strict=True):
            if self._share is not None:
                hidden = self._share(self.backbone, ids, seen, columns)  # (n, C, D)
            else:
                outputs = self.backbone(input_ids=ids, attention_mask=seen, use_cache=False)
                hidden = outputs.last_hidden_state[:, -columns - 1 : -1]  # (n, C, D)
            parts.append(self.read(hidden))
        return torch.cat(parts)

    def step(self, schedule: float) -> float:
        """Step on the accumulated gradients at a share of the learning rate; return their norm before clipping."""
        for weight in self.parameters():
            weight.grad = reduce(torch.zeros_like(weight) if weight.grad is None else weight.grad, "mean")
        limit = self._args.max_grad_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.parameters(), limit).item()
        if not math.isfinite(norm):
            raise TrainingError(
                f"expected a finite gradient of the critic, got a norm of {norm}; no weight has changed yet, so lower "
                f"critic_learning_rate or set bf16=false, and {describe_way_back(self._args.output_dir)}."
            )
        for group in self.adam.param_groups:
            group["lr"] = self._args.critic_learning_rate * schedule
        self.adam.step()
        self.adam.zero_grad()
        return norm

    def save(self, checkpoint: str | Path) -> None:
        """Write weights and moments into a checkpoint; one process calls it."""
        save_part(Path(checkpoint) / FILE, [self.state_dict(), *self.adam.state_dict()["state"].values()])

    def load(self, checkpoint: str | Path) -> None:
        """Read weights and moments of a checkpoint; a ModelError where it holds none, or those of another critic."""
        with reading_part(Path(checkpoint) / FILE, "critic", self._args.device) as (weights, *moments):
            self.load_state_dict(weights)
            self.adam.load_state_dict(self.adam.state_dict() | {"state": dict(enumerate(moments))})


class DQOPPOTrainer(DQOMixin, GRPOTrainer):
    """PPO with a critic; the diversity credit enters at each response's last token.

        trainer = DQOPPOTrainer(
            model, reward_funcs=quality, args=DQOPPOConfig("out", alpha=1.0, num_generations=4), train_dataset=dataset
        )
        trainer.train()

    Arguments are DQOMixin's, in TRL's order.

    Raises:
        RecipeError: a model that takes images, or quantised weights that the critic cannot copy.
    """

    _config_class = DQOPPOConfig

    def _set_up(self) -> None:
        super()._set_up()
        if self._is_vlm:
            raise RecipeError("PPO's critic reads text only, got a model that takes images; use grpo or rloo.")
        if getattr(self.model.config, "quantization_config", None) is not None:
            raise RecipeError(
                "PPO's critic is a copy of the policy and needs weights that can learn, got quantised ones; load the "
                "policy unquantised, or use grpo or rloo."
            )
        # As the policy starts, without head and adapters.
        whole = copy.deepcopy(self.model)
        base = whole.unload() if is_peft_model(whole) else whole
        backbone = base.base_model.float().requires_grad_(True)
        if self.args.gradient_checkpointing:
            backbone.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
        self.critic = Critic(backbone, self.args, self.fast.hidden_states if self.shares_prefix else None)

    def _finish_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """TRL's batch with `advantages`, `returns`, `old_values` and `value_mask`, (N_local, C) each."""
        with (
            self.notes.measuring("time/values"),
            torch.no_grad(),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
        ):
            values = self._state_values(batch)  # (N_local, C+1)
            logps = None
            if self.args.kl_in == "reward":
                # By the call that TRL makes for the reference, or bf16 rounding is a KL.
                logps = batch.get("old_per_token_logps")
                if logps is None:
                    logps = self.completion_logps(self.model, batch, self.args.per_device_train_batch_size)
        rewards, mask, behind, kl = spread_scores(
            batch,
            self.notes.combined.flatten()[self._own_rows(len(values))],
            values,
            ends=(*ending_tokens(self), self._tokenizer.pad_token_id),
            bootstrap=self.args.truncated == "bootstrap",
            logps=logps,
            beta=self.beta,
        )
        old_values = values[:, :-1]  # (N_local, C)
        advantages, returns = gae(
            rewards, old_values, mask, gamma=self.args.gamma, lam=self.args.gae_lambda, bootstrap=behind
        )
        self._log_values(mask, kl, old_values, returns)
        advantages = self._whitened(advantages, mask)
        # In TRL's table the mean over a row's tokens stands for its advantage.
        self._replace_logged_advantages(gather(advantages.sum(1) / mask.sum(1).clamp(min=1)))
        return batch | {"advantages": advantages, "returns": returns, "old_values": old_values, "value_mask": mask}

    def _state_values(self, batch: dict) -> Tensor:
        """Values of the state before each token and behind the last: (N, C+1)."""
        mask = batch["completion_mask"]  # (N, C)
        # The state behind the last token is read as the one before a token that is made up: nothing looks at it.
        longer = nn.functional.pad(mask, (0, 1)).scatter(1, mask.sum(1, keepdim=True), 1)  # (N, C+1)
        ids = nn.functional.pad(batch["completion_ids"], (0, 1))  # (N, C+1)
        # Without dropout: these values are what clipping compares with.
        self.critic.eval()
        with self.accelerator.autocast():
            rows = join_rows(batch | {"completion_ids": ids, "completion_mask": longer})  # (N, P+C+1) twice
            return self.critic.values(*rows, ids.shape[1], self.args.per_device_train_batch_size)

    def _whitened(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """Advantages of mean 0 and std 1 over the tokens of all processes; (N, C) as given where that is off."""
        count, total = self._sums(mask, advantages)
        mean = total / count.clamp(min=1)  # ()
        count, square = self._sums(mask, (advantages - mean).square())
        std = (square / (count - 1).clamp(min=1)).sqrt()  # ()
        self._log({"critic/advantage_std": std.item()})
        if not self.args.whiten_advantages:
            return advantages
        # What a unit of credit buys is known only now.
        if bought := self._metrics["train" if self.model.training else "eval"]["alpha_effective"]:
            bought[-1] /= std.item() + 1e-8
        return ((advantages - mean) / (std + 1e-8)).to(advantages.dtype) * mask

    def _joined_loss(self, policy_loss: Callable[[Any, dict], Tensor], model: Any, inputs: dict) -> Tensor:
        """TRL's policy loss, without its KL term where the reward holds it; the critic's error goes backward here."""
        self.critic.train(self.model.training)
        with self.accelerator.autocast():
            values = self.critic.values(*join_rows(inputs), inputs["completion_ids"].shape[1])  # (N, C)
        error = self._value_loss(values, inputs)
        if torch.is_grad_enabled():
            # Before the policy's forward, so that the two graphs never share the memory.
            error.backward()
        beta = self.beta
        self.beta = beta if self.args.kl_in == "loss" else 0.0
        try:
            return policy_loss(model, inputs)
        finally:
            self.beta = beta

    def _value_loss(self, values: Tensor, inputs: dict) -> Tensor:
        """Mean error over the tokens of the optimizer step, whatever the micro-batches and processes it is cut into."""
        mask = inputs["value_mask"]  # (N, C)
        error, clipped = clipped_value_error(values, inputs["old_values"], inputs["returns"], self.args.value_clip)
        tokens = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if self.model.training:
            # Tokens of the rollout, rescaled to those of one optimizer step.
            tokens = tokens * self.current_gradient_accumulation_steps / self.args.steps_per_generation
        count, *sums = self._sums(mask, error.detach(), clipped)
        names = ("critic/value_loss", "critic/clip_share")
        self._log({name: (total / count.clamp(min=1)).item() for name, total in zip(names, sums, strict=True)})
        return (error * mask).sum() / tokens

    def _step_more(self) -> None:
        """Steps the critic with the policy, on the same course of the learning rate."""
        peak, now = self.args.learning_rate, self.lr_scheduler.get_last_lr()[0]
        norm = self.critic.step(now / peak if peak else 1.0)
        self._metrics["train"]["critic/grad_norm"].append(norm)

    def _sums(self, mask: Tensor, *values: Tensor) -> Tensor:
        """Number of tokens under the mask, then the sum of each (N, C) over them, of all processes: (1 + len,)."""
        masked = [mask.double(), *((value * mask).double() for value in values)]
        return self.accelerator.reduce(torch.stack([value.sum() for value in masked]), reduction="sum")

    def _log_values(self, mask: Tensor, kl: Tensor | None, old_values: Tensor, returns: Tensor) -> None:
        error = returns - old_values  # (N, C)
        columns = (returns, returns.square(), error, error.square(), old_values)
        count, *sums = self._sums(mask, *columns, *([] if kl is None else [kl]))
        mean = [(total / count.clamp(min=1)).item() for total in sums]
        explained = explained_variance(count, torch.stack(sums[:4])).item()
        self._log({"critic/explained_variance": explained, "critic/return": mean[0], "critic/value": mean[4]})
        if kl is not None:
            self._log({"kl": mean[5]})

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            self.critic.save(output_dir)

    def _load_more(self, checkpoint: str) -> None:
        self.critic.load(checkpoint)
