"""Adds the diversity credit to the rewards of verl's V1 trainers; GRPO, PPO, RLOO and the rest share one seam.

When verl calls `_compute_advantage`, the batch is final: every row of every prompt with its reward is in TransferQueue.
The mixin adds diversity's part there, lets verl compute advantages with the run's estimator, and puts the task rewards
back. So `critic/score/*` stays the task, and `critic/rewards/*` is what was optimised.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transfer_queue import KVBatchMeta
from verl.trainer.main_ppo import TaskRunnerV1
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSync, register_trainer
from verl.utils.debug import marked_timer

from dqo.core import effective_alpha, mean_error
from dqo.core.groups import by_id
from dqo.diversity.alpha import StepwiseAlpha
from dqo.errors import RecipeError, RewardError
from dqo.files.jsonio import parse_object, read_text
from dqo.files.records import write_json
from dqo.integrations.groups import NUMBERS, Group, GroupScorer, ScoredGroup
from dqo.integrations.verl.scoring import ActorScorer
from dqo.integrations.verl.settings import base_mode, divides_by_group_std, read_settings, warn_of_group_std
from dqo.models.chat import Response, ResponseReader, TraceMarkers

Session = list[int]  # rows of one response: one, unless an agent loop returns several outputs; the final one is last

# In a checkpoint: what `alpha=auto` has learned.
ALPHA_FILE = "dqo_alpha.json"
# Columns of TransferQueue that the credit is made from.
_COLUMNS = ["prompts", "responses", "response_mask", "rm_scores"]


class DQOMixin:
    """Adds the diversity credit to the rewards of a verl V1 trainer.

    Args:
        config: verl's configuration with the section `dqo`; `trainer.v1.trainer_mode` becomes verl's own name.

    Raises:
        DQOError: A setting that cannot be run.
    """

    def __init__(self, config: DictConfig) -> None:
        self.dqo = read_settings(config)
        with open_dict(config):
            # verl compares the mode with "sync" in many places and would take a new name for an asynchronous mode.
            config.trainer.v1.trainer_mode = base_mode(config)
            config.dqo = asdict(self.dqo)  # with defaults, for the logs
        warn_of_group_std(config)
        # In this process at once, so that a mistake is reported before minutes of loading policies.
        here = self.dqo.encoder_device or "cpu" if self.dqo.encoder_actors == 0 else "cpu"
        self._score: Callable[[list[Group], float], list[ScoredGroup]] = GroupScorer(self.dqo.group_settings(), here)
        # verl may ask for the advantages of one step in several pieces.
        self._alpha = StepwiseAlpha(self.dqo.alpha_source())
        super().__init__(config=config)

    def init(self) -> None:
        """Starts verl's workers, then the encoder's actors in what these leave: verl would wait for it without end."""
        super().init()
        if self.dqo.encoder_actors != 0:
            self._score = ActorScorer(self.dqo)

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps == 0 or not self._alpha.state():
            return
        trainer = self.config.trainer
        by_path = trainer.resume_mode == "resume_path"
        folder = trainer.resume_from_path if by_path else f"{trainer.default_local_dir}/global_step_{self.global_steps}"
        file = Path(folder) / ALPHA_FILE
        if not file.exists():
            raise RecipeError(
                f"{file}: expected what dqo.alpha=auto had learned, got no such file: the checkpoint was saved with "
                "another dqo.alpha; set that one, or train into another folder."
            )
        self._alpha.load(parse_object(read_text(file, "what alpha=auto had learned"), str(file)))

    def _save_checkpoint(self) -> None:
        # First, because verl's own files make the folder a checkpoint.
        if state := self._alpha.state():
            folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
            write_json(folder / ALPHA_FILE, state)
        super()._save_checkpoint()

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        with marked_timer("diversity", self.timing_raw):
            data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=_COLUMNS)
            columns = {name: list(data[name].unbind()) for name in _COLUMNS}  # name -> N times (T_row,)
            shaped = self._shape_scores(batch, columns, metrics)
        fields = {"rm_scores": shaped}
        if not self.config.algorithm.use_kl_in_reward:  # else verl writes it, with the penalty taken off
            fields["token_level_rewards"] = shaped
        _put(batch, fields)
        try:
            return super()._compute_advantage(batch, metrics)
        finally:
            _put(batch, {"rm_scores": columns["rm_scores"]})

    def _shape_scores(self, batch: KVBatchMeta, columns: dict[str, list[Tensor]], metrics: dict) -> list[Tensor]:
        """N rows of reward by token with diversity's part; the step's numbers go into the metrics."""
        groups = _group_rows(batch.keys, batch.tags)
        # What the policy wrote, by row; what tools and users wrote is masked and no merit of the policy.
        reader = ResponseReader(self.tokenizer, TraceMarkers.parse(self.dqo.trace_markers))
        parts = [columns[name] for name in ("prompts", "responses", "response_mask")]
        rows = [row for sessions in groups for session in sessions for row in session]
        texts = {row: reader(*(part[row].tolist() for part in parts)) for row in rows}
        read = []
        for sessions in groups:
            asked = self.tokenizer.decode(columns["prompts"][sessions[0][0]], skip_special_tokens=True)
            read.append(_read_group(sessions, batch.keys, texts, columns["rm_scores"], asked))
        # A response that is alone has nobody to differ from: a constant credit would be a reward for surviving.
        several = [p for p, group in enumerate(read) if len(group.texts) > 1]
        compared = [read[p] for p in several]
        done, last = self.global_steps - 1, self.total_training_steps  # verl counts the step that it is in
        alpha = self._alpha.now(done, last)
        found = self._score(compared, alpha)
        metrics.update(self._diversity_metrics(read, found, alpha))
        rewards = [torch.tensor(group.rewards, dtype=torch.float64) for group in read]
        noise = mean_error(pad_sequence(rewards, batch_first=True, padding_value=torch.nan))  # of (P, G)
        self._alpha.observe(metrics["quality"], metrics.get("diversity/vendi", math.nan), done, last, noise)
        metrics.update(self._alpha.logs())
        metrics["responses/traced"] = _mean([text.traced for text in texts.values()])
        metrics["responses/unclosed"] = _mean([text.unclosed for text in texts.values()])
        return _add_credit(
            columns["rm_scores"], columns["response_mask"], [groups[p] for p in several], found, compared
        )

    def _diversity_metrics(self, read: list[Group], found: list[ScoredGroup], alpha: float) -> dict[str, Any]:
        """Means over the batch, under the names that they have in TRL runs."""
        metrics = {
            "quality": _mean([reward for group in read for reward in group.rewards]),
            "alpha": alpha if self.dqo.diversity_spec().signal.acts_on_reward else 0.0,
            "diversity/rows": sum(len(group.texts) for group in read),
            "diversity/groups": len(read),
            "diversity/lone_rows": sum(len(group.texts) == 1 for group in read),
        }
        if not found:
            return metrics
        metrics["diversity/credit"] = _mean([credit for group in found for credit in group.credit])
        metrics["diversity/credit_std"] = _mean([torch.tensor(group.credit).std().item() for group in found])
        for name in NUMBERS:
            metrics[f"diversity/{name}"] = _mean([group.numbers[name] for group in found])
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


@ray.remote
class DQOTaskRunner(TaskRunnerV1.__ray_actor_class__):
    """verl's runner with `dqo_sync` and `dqo_colocate_async` among its trainer modes."""

    def run(self, config: DictConfig) -> None:
        """Runs the training that verl's configuration with the section `dqo` describes."""
        # Ray copies this class into the runner's process without its module, whose import registers the trainers.
        import dqo.integrations.verl.trainer  # noqa: F401

        super().run(config)


def _group_rows(keys: Sequence[str], tags: Sequence[dict[str, Any]]) -> list[list[Session]]:
    """P groups of sessions, from N row keys `{uid}_{session}_{output}` in any order; padding rows are left out."""
    real = [row for row, tag in enumerate(tags) if not tag.get("is_padding", False)]
    parts = {row: keys[row].rsplit("_", 2) for row in real}
    groups = []
    for members in by_id([parts[row][0] for row in real]).values():
        rows = [real[member] for member in members]
        sessions = by_id([parts[row][1] for row in rows]).values()
        groups.append([sorted((rows[i] for i in session), key=lambda row: int(parts[row][2])) for session in sessions])
    return groups


def _read_group(
    sessions: list[Session], keys: Sequence[str], texts: Mapping[int, Response], scores: list[Tensor], asked: str
) -> Group:
    """A session's text is that of all its rows; its reward is the sum over the tokens of its final row."""
    names = [keys[session[-1]] for session in sessions]
    rewards = [scores[session[-1]].double().sum() for session in sessions]
    for name, reward in zip(names, rewards, strict=True):
        if not reward.isfinite():
            raise RewardError(
                f"Expected a finite task reward for every response, row {name} has {reward.item()}, which would "
                "spoil the advantages of its whole group; fix the reward function."
            )
    written = ["\n".join(str(texts[row]) for row in session if texts[row].strip()) for session in sessions]
    return Group(written, [reward.item() for reward in rewards], names, asked)


def _add_credit(
    scores: list[Tensor],
    masks: list[Tensor],
    groups: list[list[Session]],
    found: list[ScoredGroup],
    read: list[Group],
) -> list[Tensor]:
    """N rows (T_row,) float32 of reward by token; all rows of a session get its part, as verl does with its reward."""
    shaped = [row.clone().float() for row in scores]
    for sessions, after, before in zip(groups, found, read, strict=True):
        for session, new, old in zip(sessions, after.shaped, before.rewards, strict=True):
            for row in session:
                written = masks[row].nonzero()
                # GAE drops what lies on masked tokens, as of a response that ends in a tool's output.
                if len(written):
                    shaped[row][written[-1, 0]] += new - old
    return shaped


def _put(batch: KVBatchMeta, fields: dict[str, list[Tensor]]) -> None:
    """Writes ragged rows to TransferQueue."""
    nested = {name: torch.nested.as_nested_tensor(rows, layout=torch.jagged) for name, rows in fields.items()}
    data = TensorDict(nested, batch_size=len(batch.keys))
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=data)


def _mean(values: list[float]) -> float:
    """The mean of what is defined; NaN where nothing is."""
    return torch.tensor(values, dtype=torch.float64).nanmean().item()
