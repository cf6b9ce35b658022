"""DQO on verl's V1 trainers. One seam, `_compute_advantage`, serves GRPO, PPO with a critic, RLOO and the rest.

At that point the batch is final: every row of every prompt with its reward is in TransferQueue. The mixin adds
diversity's part to the rewards there, lets verl compute advantages with the estimator of the run, and puts the task
rewards back, so that `critic/score/*` stays the task and `critic/rewards/*` is what was optimised.

The contract that this rests on is pinned by tests/verl/test_contract.py.
"""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSync, register_trainer
from verl.utils.debug import marked_timer

from dqo.core import effective_alpha
from dqo.integrations.verl.scoring import (
    ActorScorer,
    Group,
    GroupScorer,
    ScoredGroup,
    add_credit,
    group_rows,
    read_group,
)
from dqo.integrations.verl.settings import base_mode, divides_by_group_std, read_settings, warn_of_group_std
from dqo.models.chat import Response, ResponseReader, TraceMarkers


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
        warn_of_group_std(config)
        # In this process at once, so that a mistake is told before minutes of loading policies.
        here = "cpu" if self.dqo.encoder_actors else self.dqo.encoder_device or "cpu"
        self._score: Callable[[list[Group]], list[ScoredGroup]] = GroupScorer(self.dqo, here)
        super().__init__(config=config)

    def init(self) -> None:
        """The workers of verl, then the encoder's actors in what these leave: verl would wait for it without end."""
        super().init()
        if self.dqo.encoder_actors:
            self._score = ActorScorer(self.dqo)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Advantages by verl, of shaped rewards."""
        with marked_timer("diversity", self.timing_raw):
            data = tq.kv_batch_get(
                keys=batch.keys,
                partition_id=batch.partition_id,
                select_fields=["prompts", "responses", "response_mask", "rm_scores"],
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
        groups = group_rows(batch.keys, batch.tags)
        texts = self._texts(data, [row for sessions in groups for session in sessions for row in session])
        read = [read_group(sessions, batch.keys, texts, scores) for sessions in groups]
        # A response that is alone has nobody to differ from: a constant credit would be a reward for surviving.
        several = [p for p, group in enumerate(read) if len(group.texts) > 1]
        found = self._score([read[p] for p in several])
        metrics.update(self._diversity_metrics(read, found))
        metrics["responses/traced"] = _mean([float(text.traced) for text in texts.values()])
        metrics["responses/unclosed"] = _mean([float(text.unclosed) for text in texts.values()])
        kept = [groups[p] for p in several]
        return add_credit(scores, masks, kept, found, [read[p] for p in several])

    def _texts(self, data: TensorDict, rows: list[int]) -> dict[int, Response]:
        """What the policy wrote by row; what tools and users wrote is masked and no merit of the policy."""
        reader = ResponseReader(self.tokenizer, TraceMarkers.parse(self.dqo.trace_markers))
        prompts, ids, masks = (list(data[name].unbind()) for name in ("prompts", "responses", "response_mask"))
        return {row: reader(prompts[row].tolist(), ids[row].tolist(), masks[row].tolist()) for row in rows}

    def _diversity_metrics(self, read: list[Group], found: list[ScoredGroup]) -> dict[str, Any]:
        """Means over the batch, under the names that DQO has in every host."""
        metrics = {
            "quality": _mean([reward for group in read for reward in group.rewards]),
            "alpha": 0.0 if self.dqo.signal.place == "none" else self.dqo.alpha,
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
            if self.config.algorithm.adv_estimator in ("grpo", "grpo_vectorized"):
                shaped = [torch.tensor(group.shaped, dtype=torch.float64) for group in found]
                rows = pad_sequence(shaped, batch_first=True, padding_value=torch.nan)  # (P, G)
                scaling = "group" if divides_by_group_std(self.config) else "none"
                metrics["alpha_effective"] = effective_alpha(metrics["alpha"], rows, scaling)
        return metrics


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
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
