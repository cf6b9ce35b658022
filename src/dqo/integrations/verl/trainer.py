"""DQO on verl's V1 trainers. One override, `_compute_advantage`, serves GRPO, PPO with a critic, RLOO and the rest.

At that point the batch is final: every row of every prompt with its reward is in TransferQueue. The mixin adds
diversity's part to the rewards there, lets verl compute advantages with the estimator of the run, and puts the task
rewards back, so that `critic/score/*` stays the task and `critic/rewards/*` is what was optimised.

The contract that this rests on is pinned by tests/verl/test_contract.py.
"""

import logging
from dataclasses import asdict
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSync, register_trainer
from verl.utils.debug import marked_timer

from dqo.integrations.verl.scoring import Group, ScoredGroup, make_scorer
from dqo.integrations.verl.sessions import add_credit, group_rows, read_group
from dqo.integrations.verl.settings import base_mode, read_settings

logger = logging.getLogger(__name__)


class DQOMixin:
    """Adds the diversity credit to the rewards of a verl V1 trainer.

    Args:
        config: verl's configuration with the section `dqo`; `trainer.v1.trainer_mode` becomes verl's own name, since
            verl compares it with "sync" in many places and would take a new name for an asynchronous mode.

    Raises:
        DQOError: a setting that cannot be run.
    """

    def __init__(self, config: DictConfig) -> None:
        self.dqo = read_settings(config)
        with open_dict(config):
            config.trainer.v1.trainer_mode = base_mode(config)
            config.dqo = asdict(self.dqo)  # with defaults, for the logs
        if config.algorithm.adv_estimator == "grpo" and config.algorithm.get("norm_adv_by_std_in_grpo", True):
            logger.warning(
                "algorithm.norm_adv_by_std_in_grpo=true divides each group by its own std: where task rewards tie, "
                "alpha loses its meaning; false keeps it."
            )
        self._score = make_scorer(self.dqo)
        super().__init__(config=config)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Advantages by verl, of shaped rewards."""
        with marked_timer("diversity", self.timing_raw):
            data = tq.kv_batch_get(
                keys=batch.keys,
                partition_id=batch.partition_id,
                select_fields=["responses", "response_mask", "rm_scores"],
            )
            scores = list(data["rm_scores"].unbind())  # N times (T_row,)
            shaped = self._shaped_scores(batch, data, scores, metrics)
        fields = {"rm_scores": shaped}
        if not self.config.algorithm.use_kl_in_reward:  # else verl writes it, the penalty taken off
            fields["token_level_rewards"] = shaped
        _put(batch, fields)
        try:
            return super()._compute_advantage(batch, metrics)
        finally:
            _put(batch, {"rm_scores": scores})

    def _shaped_scores(self, batch: KVBatchMeta, data: TensorDict, scores: list[Tensor], metrics: dict) -> list[Tensor]:
        """N rows of reward by token with diversity's part, and the step's numbers into the metrics."""
        masks = list(data["response_mask"].unbind())  # N times (T_row,)
        responses = list(data["responses"].unbind())  # N times (T_row,)
        groups = group_rows(batch.keys, batch.tags)
        finals = [session[-1] for sessions in groups for session in sessions]
        texts = {row: self._text(responses[row], masks[row]) for row in finals}
        read = [read_group(sessions, batch.keys, texts, scores) for sessions in groups]
        # A response that is alone has nobody to differ from: a constant credit would be a reward for surviving.
        several = [p for p, group in enumerate(read) if len(group.texts) > 1]
        found = self._score([read[p] for p in several])
        metrics.update(self._diversity_metrics(read, found))
        kept = [groups[p] for p in several]
        return add_credit(scores, masks, kept, found, [read[p] for p in several])

    def _text(self, response: Tensor, mask: Tensor) -> str:
        """What the policy wrote; what tools and users wrote into the response is masked and no merit of the policy."""
        return self.tokenizer.decode(response[mask.bool()].tolist(), skip_special_tokens=True)

    def _diversity_metrics(self, read: list[Group], found: list[ScoredGroup]) -> dict[str, Any]:
        """Means over the batch, under the names that DQO has in every host."""
        metrics = {
            "quality": _mean([reward for group in read for reward in group.rewards]),
            "alpha": self.dqo.alpha,
            "diversity/rows": sum(len(group.texts) for group in read),
            "diversity/groups": len(read),
            "diversity/lone_rows": sum(len(group.texts) == 1 for group in read),
        }
        if found:
            metrics |= {
                "diversity/credit": _mean([credit for group in found for credit in group.credit]),
                "diversity/credit_std": _mean([torch.tensor(group.credit).std().item() for group in found]),
            }
            for name in ("log_volume", "quality_volume", "vendi", "cosine_distance"):
                metrics[f"diversity/{name}"] = _mean([getattr(group, name) for group in found])
            if self.config.algorithm.adv_estimator == "grpo":
                metrics["alpha_effective"] = self._effective_alpha(found)
        return metrics

    def _effective_alpha(self, found: list[ScoredGroup]) -> float:
        """Advantage that one unit of credit buys: alpha over the std that GRPO divides a group by, if it does."""
        if not self.config.algorithm.get("norm_adv_by_std_in_grpo", True):
            return self.dqo.alpha
        return _mean([self.dqo.alpha / (torch.tensor(group.shaped).std().item() + 1e-6) for group in found])


@register_trainer("dqo_sync")
class DQOTrainerSync(DQOMixin, PPOTrainerSync):
    """verl's synchronous trainer with the diversity credit: `trainer.v1.trainer_mode=dqo_sync`."""


@register_trainer("dqo_colocate_async")
class DQOTrainerColocateAsync(DQOMixin, PPOTrainerColocateAsync):
    """verl's colocated asynchronous trainer with the diversity credit: `trainer.v1.trainer_mode=dqo_colocate_async`."""


def _put(batch: KVBatchMeta, fields: dict[str, list[Tensor]]) -> None:
    """Write ragged rows to TransferQueue."""
    nested = {name: torch.nested.as_nested_tensor(rows, layout=torch.jagged) for name, rows in fields.items()}
    tq.kv_batch_put(
        keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(nested, batch_size=len(batch.keys))
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
