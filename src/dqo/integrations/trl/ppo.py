"""PPO with a critic on TRL's GRPOTrainer, whose loss takes an advantage a token.

Three seams. `_generate_and_score_completions`: values of every state, rewards a token (the combined reward of task and
diversity on the last one), GAE, and (N, C) advantages in the place of TRL's (N,) ones. `_compute_loss`: the value error
beside the policy's loss. `_save_optimizer_and_scheduler` and its counterpart: the critic, apart from the policy.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather
from torch import Tensor, nn
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from dqo.core import clipped_value_error, explained_variance, gae
from dqo.errors import RecipeError
from dqo.integrations.trl.critic import CriticOptimizer, CriticStep, build_critic
from dqo.integrations.trl.ppo_config import DQOPPOConfig
from dqo.integrations.trl.trainer import DQOExtensions, by_name

# What PPO pays each token: the response's score at its end, the KL on the way, and a value where it was cut off.


@dataclass(frozen=True)
class TokenRewards:
    """Input of `gae`.

    Attributes:
        rewards: (N, C) reward of each token.
        mask: (N, C) float, 1 on tokens the policy chose in rows that have a score.
        bootstrap: (N,) value of the state behind a response that was cut off; 0 for one that ended.
        kl: (N, C) estimate of the KL to the reference a token, or None where the reward holds none.
    """

    rewards: Tensor
    mask: Tensor
    bootstrap: Tensor
    kl: Tensor | None


def token_rewards(
    batch: Mapping[str, Tensor],
    scores: Tensor,
    values: Tensor,
    *,
    ends: Collection[int],
    bootstrap: bool,
    logps: Tensor | None = None,
    beta: float = 0.0,
) -> TokenRewards:
    """Spreads one score a response over its tokens.

    The score stands at the last token under the mask. With `bootstrap`, a response that was cut off has no outcome
    yet: the value of its last state stands for it, *in the place of* its score. Both together would pay it twice, and
    without bound, because that value is itself fitted to what such responses are paid.

    The KL in the reward is −β·(log π − log π_ref) a token; logged is the estimate e^d − d − 1, d = log π_ref − log π.

    Args:
        batch: TRL's: `completion_ids`, `completion_mask` and, where logps are given, `ref_per_token_logps`, (N, C)
            each; `tool_mask` (N, C), zero on tokens that a tool wrote.
        scores: (N,) combined reward; NaN leaves the row out.
        values: (N, C+1) value of the state before each token and behind the last.
        ends: token ids that end a response.
        bootstrap: whether the value of the last state replaces the score of a response that was cut off.
        logps: (N, C) of the policy that sampled; None pays no KL.
        beta: weight of the KL.

    Returns:
        TokenRewards.
    """
    real, device = batch["completion_mask"], values.device
    lengths = real.sum(1, keepdim=True)  # (N, 1)
    last = batch["completion_ids"].gather(1, (lengths - 1).clamp(min=0))  # (N, 1)
    cut_off = ~torch.isin(last, torch.tensor(sorted(ends), device=device)).squeeze(1)  # (N,)
    mask = (real * batch.get("tool_mask", 1)).bool() & ~scores.isnan()[:, None]  # (N, C)
    columns = torch.arange(mask.shape[1], device=device)  # (C,)
    at = (columns * mask).argmax(1, keepdim=True)  # (N, 1) last token under the mask
    waits = cut_off & bootstrap  # (N,)
    paid = scores.nan_to_num().masked_fill(waits, 0).to(values.dtype)  # (N,)
    rewards = torch.zeros_like(values[:, :-1]).scatter(1, at, paid[:, None])  # (N, C)
    behind = values.gather(1, lengths).squeeze(1) * waits  # (N,)
    kl = None
    if logps is not None:
        d = batch["ref_per_token_logps"] - logps  # (N, C)
        rewards, kl = rewards + beta * d, d.exp() - d - 1
    return TokenRewards(rewards, mask.to(values.dtype), behind, kl)


logger = get_logger(__name__)


class PPOMixin:
    """Replaces the group mean of a GRPO trainer by a critic.

    Args:
        model: policy, as DQOMixin takes it.
        reward_funcs: task rewards, as DQOMixin takes them.
        args: DQOPPOConfig.
        **kwargs: anything else that DQOMixin takes.

    Raises:
        RecipeError: a model that takes images.
    """

    def __init__(self, model: Any, reward_funcs: Any = None, args: Any = None, **kwargs: Any) -> None:
        super().__init__(model, reward_funcs, args, **kwargs)
        if self._is_vlm:
            raise RecipeError("PPO's critic reads text only, got a model that takes images; use grpo or rloo.")
        self.critic = build_critic(self.model, args.critic_model, self.shares_prefix)
        self.critic.to(self.accelerator.device)
        if self.shares_prefix and not self.critic.shares_prefix:
            logger.warning("dqo: the critic computes a prompt once a response, because it is not a copy of the policy")
        if args.gradient_checkpointing:
            self.critic.backbone.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        self.critic_optimizer = CriticOptimizer(self.critic, args)
        self.add_callback(CriticStep(self._step_critic))

    def _generate_and_score_completions(self, inputs: list) -> dict:
        """The host's batch with `advantages`, `returns`, `old_values` and `value_mask`, (N_local, C) each."""
        batch = super()._generate_and_score_completions(inputs)
        with (
            self._clock.measure("time/values"),
            torch.no_grad(),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
        ):
            values = self._state_values(batch)  # (N_local, C+1)
            logps = None
            if self.args.kl_in == "reward":  # by the call that TRL makes for the reference, or bf16 rounding is a KL
                logps = batch.get("old_per_token_logps")
                logps = self._policy_logps(batch) if logps is None else logps  # (N_local, C)
        _, combined = self._scored  # (P, G) of all processes
        paid = token_rewards(
            batch,
            combined.flatten()[self._own_rows(len(values))],
            values,
            ends=(*self.eos_token_ids, self._tokenizer.pad_token_id),
            bootstrap=self.args.truncated == "bootstrap",
            logps=logps,
            beta=self.beta,
        )
        old_values, mask = values[:, :-1], paid.mask  # (N_local, C) each
        advantages, returns = gae(
            paid.rewards, old_values, mask, gamma=self.args.gamma, lam=self.args.gae_lambda, bootstrap=paid.bootstrap
        )
        self._log_values(paid, old_values, returns)
        advantages = self._whitened(advantages, mask)
        # in the host's table the mean over a row's tokens stands for its advantage
        self._replace_logged_advantages(gather(advantages.sum(1) / mask.sum(1).clamp(min=1)))
        return batch | {"advantages": advantages, "returns": returns, "old_values": old_values, "value_mask": mask}

    def _scores_by_logps(self) -> bool:
        return self.args.kl_in == "reward" or super()._scores_by_logps()

    def _state_values(self, batch: dict) -> Tensor:
        """Values of the state before each token and behind the last: (N, C+1).

        The state behind the last token is read as the one before a token that is made up: nothing looks at it.
        """
        prompts, completions, mask = batch["prompt_ids"], batch["completion_ids"], batch["completion_mask"]
        longer = nn.functional.pad(mask, (0, 1)).scatter(1, mask.sum(1, keepdim=True), 1)  # (N, C+1)
        ids = torch.cat([prompts, nn.functional.pad(completions, (0, 1))], dim=1)  # (N, P+C+1)
        seen, C = torch.cat([batch["prompt_mask"], longer], dim=1), completions.shape[1]  # (N, P+C+1)
        self.critic.eval()
        with self.accelerator.autocast():
            return self.critic.values(ids, seen, C + 1, self.args.per_device_train_batch_size)

    def _policy_logps(self, batch: dict) -> Tensor:
        """Log-probabilities (N, C) of the policy as it sampled, where the host had no use for them."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)  # (N, P+C)
        seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)  # (N, P+C)
        size, C = self.args.per_device_train_batch_size, batch["completion_ids"].shape[1]
        return self._get_per_token_logps_and_entropies(self.model, ids, seen, C, batch_size=size)[0]

    def _whitened(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """Advantages of mean 0 and std 1 over the tokens of all processes; (N, C) as given where that is off."""
        count, total = self._sums(mask, advantages)
        mean = total / count.clamp(min=1)  # ()
        count, square = self._sums(mask, (advantages - mean).square())
        std = (square / (count - 1).clamp(min=1)).sqrt()  # ()
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["critic/advantage_std"].append(std.item())
        if not self.args.whiten_advantages:
            return advantages
        if self._metrics[mode]["alpha_effective"]:  # what a unit of credit buys is known only now
            self._metrics[mode]["alpha_effective"][-1] /= std.item() + 1e-8
        return ((advantages - mean) / (std + 1e-8)).to(advantages.dtype) * mask

    def _compute_loss(self, model: Any, inputs: dict) -> Tensor:
        """TRL's policy loss; the critic's error goes backward on its own."""
        C = inputs["completion_ids"].shape[1]
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)  # (N, P+C)
        seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)  # (N, P+C)
        self.critic.train(self.model.training)
        with self.accelerator.autocast():
            values = self.critic.values(ids, seen, C)  # (N, C)
        error = self._value_loss(values, inputs)
        if torch.is_grad_enabled():
            error.backward()  # before the policy's forward, so that the two graphs never share the memory
        return self._policy_loss(model, inputs)

    def _policy_loss(self, model: Any, inputs: dict) -> Tensor:
        """The host's loss, without its KL term where the reward holds it already."""
        if self.args.kl_in == "loss":
            return super()._compute_loss(model, inputs)
        beta, self.beta = self.beta, 0.0
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self.beta = beta

    def _value_loss(self, values: Tensor, inputs: dict) -> Tensor:
        """Mean error over the tokens of the optimizer step, whatever the micro-batches and processes it is cut into."""
        mask = inputs["value_mask"]  # (N, C)
        error, clipped = clipped_value_error(values, inputs["old_values"], inputs["returns"], self.args.value_clip)
        tokens = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if self.model.training:  # tokens of the rollout, rescaled to those of one optimizer step
            tokens = tokens * self.current_gradient_accumulation_steps / self.args.steps_per_generation
        mode = "train" if self.model.training else "eval"
        count, *sums = self._sums(mask, error.detach(), clipped)
        for name, total in zip(("critic/value_loss", "critic/clip_share"), sums, strict=True):
            self._metrics[mode][name].append((total / count.clamp(min=1)).item())
        return (error * mask).sum() / tokens

    def _step_critic(self) -> None:
        peak, now = self.args.learning_rate, self.lr_scheduler.get_last_lr()[0]
        norm = self.critic_optimizer.step(now / peak if peak else 1.0)
        self._metrics["train"]["critic/grad_norm"].append(norm)

    def _sums(self, mask: Tensor, *values: Tensor) -> Tensor:
        """Number of tokens under the mask, then the sum of each (N, C) over them, of all processes: (1 + len,)."""
        masked = [mask.double(), *((value * mask).double() for value in values)]
        return self.accelerator.reduce(torch.stack([value.sum() for value in masked]), reduction="sum")

    def _log_values(self, paid: TokenRewards, old_values: Tensor, returns: Tensor) -> None:
        error = returns - old_values  # (N, C)
        columns = (returns, returns.square(), error, error.square(), old_values)
        count, *sums = self._sums(paid.mask, *columns, *([] if paid.kl is None else [paid.kl]))
        mean = [total / count.clamp(min=1) for total in sums]
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["critic/explained_variance"].append(explained_variance(count, torch.stack(sums[:4])).item())
        metrics["critic/return"].append(mean[0].item())
        metrics["critic/value"].append(mean[4].item())
        if paid.kl is not None:
            metrics["kl"].append(mean[5].item())

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            self.critic_optimizer.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.critic_optimizer.load(checkpoint)


class DQOPPOTrainer(PPOMixin, DQOExtensions, GRPOTrainer):
    """PPO with a critic and the diversity credit, which enters at each response's last token.

        trainer = DQOPPOTrainer(
            model, reward_funcs=quality, args=DQOPPOConfig("out", alpha=1.0, num_generations=4), train_dataset=dataset
        )
        trainer.train()

    Arguments are DQOMixin's, in TRL's order.
    """

    _config_class = DQOPPOConfig

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: DQOPPOConfig | None = None, *rest: Any, **kwargs: Any
    ) -> None:
        args = DQOPPOConfig("dqo-output") if args is None else args
        super().__init__(model, reward_funcs, args, **by_name(GRPOTrainer, rest), **kwargs)
