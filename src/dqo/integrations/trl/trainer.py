"""DQO on TRL's online trainers. Mixins override the smallest seams of GRPOTrainer and RLOOTrainer.

This one's seam: `_calculate_rewards`, whose super() returns the rewards of all processes, (N, F). Diversity needs
whole groups and the task reward beside it, and both are complete there. The credit enters through a reward column of
its own, put there by a placeholder that returns zeros, so that TRL's weights, logs and tables stay as they are. TRL
then forms sum_m w_m * column_m; our column has weight 1 and holds combined - sum_m w_m * r_m, whatever the rule.
Signals that act on advantages or in the loss have mixins of their own beside this one.

The contract that this rests on is pinned by tests/integrations/trl/test_trl_contract.py.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor
from trl import GRPOTrainer, RLOOTrainer

from dqo.core import blocks, effective_alpha, mean_error
from dqo.diversity.alpha import StepwiseAlpha
from dqo.diversity.credit import GroupCredit, shape_reward
from dqo.diversity.tricks import DriftOfRun
from dqo.embedders import Embedder, OwnEmbedder, load_embedder
from dqo.errors import RecipeError, RewardError
from dqo.integrations.trl.config import DQOConfig, DQORLOOConfig
from dqo.integrations.trl.fast.sharing import SharedPrefixMixin, SharedRolloutMixin
from dqo.integrations.trl.faults import OutweighedWarning, check_finite, failed_batch_kept
from dqo.integrations.trl.inputs import (
    COLUMN,
    TemplateWarning,
    check_named,
    check_one_device,
    check_rewards,
    check_task_rewards,
    check_trainable,
    checked,
    distinct,
    reserved_column,
    row_keys,
)
from dqo.integrations.trl.log import StepClock, batch_metrics, text_metrics
from dqo.integrations.trl.objective import AdvantageMixin
from dqo.integrations.trl.resume import HostCounters, Remembers, ResumeMixin, RolloutAlpha, RunMemory
from dqo.integrations.trl.rivals import EntropyMixin, EvidenceMixin
from dqo.models.response import ResponseReader, TraceMarkers, completion_text, prompt_text, with_response
from dqo.rewards.loading import checked_span


class DQOMixin:
    """Adds the diversity credit to the reward of a TRL online trainer.

    Args:
        model: policy, as the host takes it.
        reward_funcs: task rewards, as the host takes them. A completion that none of them can score (all None) is
            left out of its group's kernel.
        args: DQOConfig or DQORLOOConfig.
        embedder: callable list[str] -> (N, D); built from args.encoder where not given.
        answer_span: completion text -> the text that is embedded; the whole text where not given.
        **kwargs: anything else the host takes.

    Raises:
        RecipeError: settings of another trainer, no task reward or one named "diversity", something that is no reward,
            or another number of weights.
        ModelError: a policy, reference or reward model that TRL loads by name and that lacks weights.
    """

    _config_class: type  # of each trainer

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: Any = None,
        *,
        embedder: Embedder | None = None,
        answer_span: Callable[[str], str] | None = None,
        **kwargs: Any,
    ) -> None:
        wrong = not isinstance(args, self._config_class)  # the host's own would fail after the policy is loaded
        if wrong or args.centres_groups != self._config_class.centres_groups:  # PPO's settings are a kind of GRPO's
            wanted = self._config_class.__name__
            raise RecipeError(f"this trainer needs a {wanted}, got {type(args).__name__}; pass args={wanted}(...).")
        check_one_device(args)
        check_trainable(model, kwargs.get("peft_config"))
        if args.encoder == "policy":  # of the run's own starting point, frozen
            args = copy.copy(args)
            args.encoder = f"policy:{model if isinstance(model, str) else model.config._name_or_path}"
        self.spec = args.diversity_spec()  # its alpha is that of the newest batch
        self._alpha, self._drift = StepwiseAlpha(args.alpha_source()), DriftOfRun()
        self._clock = StepClock()
        self._answer_span = checked_span(answer_span)
        funcs = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs] if reward_funcs is not None else []
        check_rewards(funcs, args.reward_weights)
        if kwargs.get("environment_factory") is None:  # before anything is loaded
            check_task_rewards(len(funcs))
        if args.reward_weights is not None:
            args = copy.copy(args)  # the caller's settings stay the caller's
            args.reward_weights = [*args.reward_weights, 1.0]
        if (tokenizers := kwargs.get("reward_processing_classes")) is not None:
            tokenizers = tokenizers if isinstance(tokenizers, list) else [tokenizers]
            kwargs["reward_processing_classes"] = [*tokenizers, None]  # one a column
        check_named(model, funcs, args, kwargs.get("peft_config"))
        super().__init__(model, [*map(checked, funcs), reserved_column], args, **kwargs)
        check_task_rewards(len(self.reward_funcs) - 1)
        self.reward_funcs = [func if func is reserved_column else checked(func) for func in self.reward_funcs]
        self.reward_func_names = distinct(self.reward_func_names)  # one name would be one column of the log
        self._read = ResponseReader(self._tokenizer, TraceMarkers.parse(args.trace_markers))
        device = args.encoder_device or str(self.accelerator.device)
        own = None if embedder is None else OwnEmbedder(embedder)
        self._embed = own or load_embedder(
            args.encoder, device=device, dtype=args.encoder_dtype, batch_size=args.encoder_batch_size
        )
        self.fault_folder = Path(self.args.output_dir)  # for the batch that a reward function failed on
        self._losses: list[Tensor] = []  # of the optimizer step's micro-batches, () each
        self._template_warning = TemplateWarning(self.processing_class)
        self.add_callback(OutweighedWarning())
        self._rollout_alpha = RolloutAlpha(self.spec.alpha)
        self._memory = RunMemory(
            {
                "alpha": self._alpha,
                "drift": self._drift,
                "host": HostCounters(self),
                "rollout_alpha": self._rollout_alpha,
            }
        )
        self.add_callback(self._memory)

    def remember(self, name: str, part: Remembers) -> None:
        """Keep the memory of one more part of the run in its checkpoints, and give it back on a resume.

        Args:
            name: Of the part.
            part: Its `state` is plain data; its `load` may refuse what does not fit.
        """
        self._memory.parts[name] = part

    def _calculate_rewards(self, inputs: list, prompts: list, completions: list, completion_ids_list: list) -> Tensor:
        """Task rewards of all processes with our column filled in: (N, F)."""
        step, process = self.state.global_step, self.accelerator.process_index
        with self._clock.measure("time/reward"), failed_batch_kept(self.fault_folder, step, process):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # (N, F)
        ours = self.reward_func_names.index(COLUMN)
        texts = [completion_text(completion) for completion in completions]
        answers = [self._answer_span(text) for text in texts]
        E = self._gathered_embeddings(answers)  # (N, D)
        P = blocks(len(rewards), self._group_size())
        task = self._task_reward(rewards, ours).unflatten(0, (P, -1))  # (P, G)
        self.spec = replace(self.spec, alpha=self._alpha_now())
        evidence = self._evidence(answers, completion_ids_list, task)
        with self._clock.measure("time/credit"):
            combined, group = shape_reward(task, E.unflatten(0, (P, -1)), self.spec, evidence)  # (P, G)
        rewards[:, ours] = (combined - task).flatten().to(rewards.dtype)
        self._scored = (task, combined)
        self._log_diversity(task, combined, group)
        asked = [prompt_text(prompt) for prompt in prompts]
        signs, lengths = text_metrics(
            texts, asked, [len(ids) for ids in completion_ids_list], self._answer_span, E.device
        )
        self._log(signs)
        if self.model.training:
            if task.isnan().all():
                raise RewardError(
                    f"step {step + 1}: no reward function could score any of {task.numel()} responses (all None), so "
                    "there is nothing to learn; mend the reward or the data."
                )
            self._rollout_alpha.value = self.spec.alpha
            self._log(self._drift.observe(lengths, E.norm(dim=1)))
            quality, noise = float(task.nanmean()), mean_error(task)
            self._alpha.observe(quality, float(group.vendi.mean()), *self._progress(), noise)
            self._log(self._alpha.logs())
        return rewards

    def _task_reward(self, rewards: Tensor, ours: int) -> Tensor:
        """What the run is for, all columns but ours by their weights: (N,), NaN where nothing could score a row."""
        others = [column for column in range(rewards.shape[1]) if column != ours]
        weights = self.reward_weights.to(rewards.device)  # (F,)
        task = (rewards[:, others].double() * weights[others]).nansum(dim=1)  # (N,)
        return task.masked_fill(rewards[:, others].isnan().all(dim=1), torch.nan)

    def _progress(self) -> tuple[int, int]:
        """Optimizer steps done and steps of the run."""
        return self.state.global_step, self.state.max_steps

    def _alpha_now(self) -> float:
        return 0.0 if self.spec.signal.place == "none" else self._alpha.now(*self._progress())

    def _gathered_embeddings(self, texts: list[str]) -> Tensor:
        """Embeddings of every process's answers in the host's row order: (N, D)."""
        with self._clock.measure("time/embed"):
            E = self._embed(texts)  # (N_local, D)
        return gather(E.to(self.accelerator.device))

    def _group_size(self) -> int:
        return self.num_generations if self.model.training else self.num_generations_eval

    def _log_diversity(self, task: Tensor, combined: Tensor, group: GroupCredit) -> None:
        scaling = getattr(self, "scale_rewards", "centred" if getattr(self, "normalize_advantages", False) else "none")
        if not self.spec.signal.acts_on_reward:
            scaling = "none"  # what acts on advantages or in the loss is divided by nothing
        guards = {name: getattr(self.args, name, 0) for name in ("std_floor", "decouple_credit")}
        buys = effective_alpha(
            self.spec.alpha,
            combined,
            scaling,
            std_floor=guards["std_floor"],
            decoupled=bool(guards["decouple_credit"]),
        )
        self._log(batch_metrics(task, combined, group) | {"alpha": self.spec.alpha, "alpha_effective": buys})

    def _log(self, values: dict[str, float]) -> None:
        mode = "train" if self.model.training else "eval"
        for name, value in values.items():
            self._metrics[mode][name].append(value)

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        with self._clock.measure("time/generate"):
            generated = super()._generate(*args, **kwargs)
        prompt_ids, ids = generated[:2]
        place = 3 if len(generated) > 3 else 2  # RLOO's has no mask of tools before the completions
        masks = (generated[2] if place == 3 else None) or [None] * len(ids)
        read = [self._read(*row) for row in zip(prompt_ids, ids, masks, strict=True)]
        completions = [with_response(*pair) for pair in zip(generated[place], read, strict=True)]
        return (*generated[:place], completions, *generated[place + 1 :])

    def _generate_and_score_completions(self, inputs: list) -> dict:
        # Before environments write observations into the prompts: rows of a group may get different ones.
        keys = gather(row_keys(inputs, self.accelerator.device)).tolist()  # (N,)
        blocks(len(keys), self._group_size(), keys)
        self._template_warning.look(inputs)
        with self._clock.measure("time/rollout"):
            batch = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            self._clock.collect()  # an evaluation is no part of the next step
        return batch

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward; after the last of an optimizer step, its times go to the logs."""
        with self._clock.measure("time/step"):
            loss = super().training_step(*args, **kwargs)
        self._losses.append(loss)
        if self._step % self.current_gradient_accumulation_steps == 0:
            for name, seconds in self._clock.collect().items():
                self._metrics["train"][name].append(seconds)
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's norm, which comes before the optimizer step; stops where it or a loss of this step is no number."""
        norm = super()._get_grad_norm(*args, **kwargs)
        losses, self._losses = self._losses, []
        if not self.args.fp16:  # its loss scaler meets such gradients by design and skips their steps
            check_finite(losses, norm, self)
        return norm


class DQOExtensions(
    DQOMixin,
    ResumeMixin,
    AdvantageMixin,
    EntropyMixin,
    EvidenceMixin,
    SharedRolloutMixin,
    SharedPrefixMixin,
):
    """All that is added to a host's trainer, the outermost first; the host's class stands behind it."""


class DQOTrainer(DQOExtensions, GRPOTrainer):
    """GRPO and its relatives (Dr. GRPO, DAPO, GSPO through TRL's own settings) with the diversity credit.

        trainer = DQOTrainer(
            model, reward_funcs=quality, args=DQOConfig("out", alpha=1.0, num_generations=8), train_dataset=dataset
        )
        trainer.train()

    Arguments are DQOMixin's, in TRL's order.
    """

    _config_class = DQOConfig

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: DQOConfig | None = None, *rest: Any, **kwargs: Any
    ) -> None:
        args = DQOConfig("dqo-output") if args is None else args
        super().__init__(model, reward_funcs, args, **by_name(GRPOTrainer, rest), **kwargs)


class DQORLOOTrainer(DQOExtensions, RLOOTrainer):
    """RLOO with the diversity credit; same arguments as DQOTrainer with a DQORLOOConfig."""

    _config_class = DQORLOOConfig

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: DQORLOOConfig | None = None, *rest: Any, **kwargs: Any
    ) -> None:
        args = DQORLOOConfig("dqo-output") if args is None else args
        super().__init__(model, reward_funcs, args, **by_name(RLOOTrainer, rest), **kwargs)


def by_name(trainer: type, rest: tuple) -> dict[str, Any]:
    """Positional arguments after `args`, by the names and in the order of a trainer of TRL."""
    given = signature(trainer.__init__).bind_partial(*[None] * 4, *rest).arguments  # self, model, reward_funcs, args
    return dict(list(given.items())[4:])
