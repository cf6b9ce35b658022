"""DQO on TRL's online trainers: every method of TRL that is overridden, once, in the order of a run.

The credit enters through a reward column of its own, put there by a placeholder that returns zeros, so that TRL's
weights, logs and tables stay as they are. TRL forms sum_m w_m * column_m; our column has weight 1 and holds
combined - sum_m w_m * r_m, whatever the rule. Prompts that a group shares and signals that need more than embeddings
are optional parts (`fast`, `rivals`), imported where the settings ask for them.

The contract that this rests on is pinned by tests/integrations/trl/test_trl_contract.py.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather
from torch import Tensor
from torch.utils.data import Sampler
from trl import GRPOTrainer, RLOOTrainer

from dqo.core import blocks, effective_alpha, mean_error, scaled_advantage, tied_groups
from dqo.diversity.alpha import StepwiseAlpha
from dqo.diversity.credit import Evidence, GroupCredit, shape_reward
from dqo.diversity.tricks import DriftOfRun
from dqo.embedders import Embedder, OwnEmbedder, load_embedder
from dqo.errors import RewardError, refuse
from dqo.files.jsonio import writing
from dqo.integrations.trl import faults, seams, step
from dqo.integrations.trl.config import DQOConfig, DQORLOOConfig
from dqo.integrations.trl.log import measure_batch, measure_texts
from dqo.integrations.trl.resume import RunMemory, TrlCounters, resume_rollout, save_memory
from dqo.models.chat import ResponseReader, TraceMarkers, completion_text, prompt_text, with_response
from dqo.rewards.loading import checked_span

logger = get_logger(__name__)
# Optional parts, each with a function `attach(trainer)`: prompts that a group shares, and signals beyond embeddings.
FAST, RIVALS = (f"{__package__}.{name}" for name in ("fast", "rivals"))


class DQOMixin:
    """The class of seams: adds the diversity credit to the reward of a TRL online trainer.

    Args:
        model: policy, as TRL takes it.
        reward_funcs: task rewards, as TRL takes them. A completion that none of them can score (all None) is left out
            of its group's kernel.
        args: DQOConfig or DQORLOOConfig.
        *rest: TRL's further positional arguments, in its order.
        embedder: callable list[str] -> (N, D); built from args.encoder where not given.
        answer_span: completion text -> the text that is embedded; the whole text where not given.
        **kwargs: anything else that TRL takes.

    Raises:
        RecipeError: settings of another trainer, no task reward or one named "diversity", something that is no reward,
            or another number of weights.
        ModelError: a policy, reference or reward model that TRL loads by name and that lacks weights.
    """

    _config_class: type  # of each trainer
    fast: Any = None  # the optional part that shares prompts
    rival: Any = None  # the optional part behind signals that need more than embeddings
    shares_prefix = False  # whether updates compute the prompt of a group once
    shares_rollouts = False  # whether rollouts do
    _sampler: Sampler | None = None  # of the prompts; streamed data sets have none

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: Any = None,
        *rest: Any,
        embedder: Embedder | None = None,
        answer_span: Callable[[str], str] | None = None,
        **kwargs: Any,
    ) -> None:
        # Everything that can be refused is refused before TRL loads the policy.
        seams.check(super())
        # Positional arguments behind `args`, too, get the names that TRL has for them.
        given = signature(super().__init__).bind_partial(*[None] * 3, *rest, **kwargs)
        kwargs = dict(list(given.arguments.items())[3:])
        args = copy.copy(self._config_class("dqo-output") if args is None else args)  # the caller's stays the caller's
        refuse(faults.list_misfits(args, self._config_class, model, kwargs.get("peft_config")))
        if args.encoder == "policy":  # of the run's own starting point, frozen
            args.encoder = f"policy:{model if isinstance(model, str) else model.config._name_or_path}"
        self.spec = args.diversity_spec()  # its alpha is that of the newest batch
        self._alpha, self._drift = StepwiseAlpha(args.alpha_source()), DriftOfRun()
        self.notes = step.Step()
        self._answer_span = checked_span(answer_span)
        funcs = step.list_rewards(reward_funcs, args, environments=kwargs.get("environment_factory") is not None)
        if (tokenizers := kwargs.get("reward_processing_classes")) is not None:
            tokenizers = tokenizers if isinstance(tokenizers, list) else [tokenizers]
            kwargs["reward_processing_classes"] = [*tokenizers, None]  # one a column
        faults.check_named(model, funcs, args, kwargs.get("peft_config"))
        super().__init__(model, [*funcs, step.reserved_column], args, **kwargs)
        # Environments may have brought rewards of their own, behind our column.
        refuse([(len(self.reward_funcs) < 2, step.NO_GOAL)])
        self.reward_funcs = [func if func is step.reserved_column else step.checked(func) for func in self.reward_funcs]
        self.reward_func_names = step.number_repeats(self.reward_func_names)  # one name would be one column of the log
        self._read = ResponseReader(self._tokenizer, TraceMarkers.parse(args.trace_markers))
        options = args.encoder_options(str(self.accelerator.device))
        self._embed = load_embedder(args.encoder, **options) if embedder is None else OwnEmbedder(embedder)
        self._set_up()

    def _set_up(self) -> None:
        """Builds what a run needs beside TRL's trainer: memory, warnings and the optional parts."""
        self.fault_folder = Path(self.args.output_dir)  # for the batch that a reward function failed on
        self._template_warning = faults.TemplateWarning(self.processing_class)
        self.add_callback(faults.OutweighedWarning())
        self.add_callback(faults.TiedWarning())
        # Of the newest rollout of training, for updates from it after an evaluation or in a resumed run.
        self.rollout_alpha = self.spec.alpha
        self.memory = RunMemory({"alpha": self._alpha, "drift": self._drift, "host": TrlCounters(self)})
        self.add_callback(self.memory)
        if self.args.shared_prefix and find_spec(FAST):
            import_module(FAST).attach(self)
        elif self.args.shared_prefix:
            logger.warning("dqo: every response is computed with its own prompt, because %s is missing", FAST)
        if self.spec.needs or self.spec.signal.place in ("advantage", "loss"):
            import_module(RIVALS).attach(self)

    # Before the first step, of a run or of its continuation.

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler:
        # TRL draws the first epoch's order of prompts again after a resume; `resume_rollout` turns this sampler.
        self._sampler = super()._get_train_sampler(*args, **kwargs)
        return self._sampler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._buffered_inputs = resume_rollout(self, checkpoint)
            self._load_more(checkpoint)

    def _load_more(self, checkpoint: str) -> None:
        """Hook: an algorithm's own files of a checkpoint."""

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # TRL looks after a step only: a run that is done would take one more.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    # A step: rollout, rewards, advantages, loss, gradient.

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run one forward and backward; after the last of an optimizer step, log its times."""
        with self.notes.measuring("time/step"):
            loss = super().training_step(*args, **kwargs)
        self.notes.losses.append(loss)
        if self._step % self.current_gradient_accumulation_steps == 0:
            self._log(self.notes.collect())
        return loss

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        # TRL has shuffled and cut a new rollout where the buffer is another one: now micro-batches are as the loss sees
        # them.
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self.fast is None or self._buffered_inputs is before:
            return inputs
        self._buffered_inputs = self.fast.lay_out(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _generate_and_score_completions(self, inputs: list) -> dict[str, Any]:
        # Before environments write observations into the prompts: rows of a group may get different ones.
        keys = gather(step.hash_rows(inputs, self.accelerator.device)).tolist()  # (N,)
        size = self.num_generations if self.model.training else self.num_generations_eval
        self.notes.groups = blocks(len(keys), size, keys)
        self._template_warning.look(inputs)
        self.notes.sampling = True
        with self.notes.measuring("time/rollout"):
            batch = super()._generate_and_score_completions(inputs)
            seams.check_called(not self.notes.sampling)
            self._replace_advantages(batch)
        batch = self._finish_batch(batch)
        if not self.model.training:
            self.notes.collect()  # an evaluation is no part of the next step
        return batch

    def _finish_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Hook: an algorithm's own columns of a scored batch."""
        return batch

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        with self.notes.measuring("time/generate"):
            generated = super()._generate(*args, **kwargs)
        # What is judged and embedded comes from tokens and mask: all turns of the assistant, no trace, no tool output.
        self.notes.prompt_ids, ids = generated[:2]
        place = 3 if len(generated) > 3 else 2  # RLOO's has no mask of tools before the completions
        masks = (generated[2] if place == 3 else None) or [None] * len(ids)
        read = [self._read(*row) for row in zip(self.notes.prompt_ids, ids, masks, strict=True)]
        completions = [with_response(*pair) for pair in zip(generated[place], read, strict=True)]
        return (*generated[:place], completions, *generated[place + 1 :])

    def _generate_single_turn(self, prompt_ids: list, images: Any, multimodal_fields: dict, *args: Any, **kwargs: Any):
        if self.shares_rollouts and images is None and not multimodal_fields:
            return self.fast.sample(prompt_ids)
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None, Any]:
        score = super()._get_per_token_logps_and_entropies if self.fast is None else self.fast.score
        forward = score(*args, **kwargs)
        if self.notes.forwards is not None:
            self.notes.forwards.append(forward)
        return forward

    def _calculate_rewards(self, inputs: list, prompts: list, completions: list, completion_ids_list: list) -> Tensor:
        # -> (N, F) rewards of all processes, our column filled in. Whole groups and the task reward are complete here.
        self.notes.sampling = False  # TRL asks for old policy and reference before the rewards, for nothing after
        done, process = self.state.global_step, self.accelerator.process_index
        with self.notes.measuring("time/reward"), faults.keeping_failed_batch(self.fault_folder, done, process):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # (N, F)
        asked = [prompt_text(prompt) for prompt in prompts]
        texts = [completion_text(completion) for completion in completions]
        answers = [self._answer_span(text) for text in texts]
        with self.notes.measuring("time/embed"):
            E = self._embed(answers)  # (N_local, D)
        E = gather(E.to(self.accelerator.device))  # (N, D) in TRL's order of rows
        P = self.notes.groups
        # By name: TRL appends the rewards of environments behind ours.
        ours = self.reward_func_names.index(step.COLUMN)
        task = self._task_reward(rewards, ours).unflatten(0, (P, -1))  # (P, G)
        alpha = 0.0 if self.spec.signal.place == "none" else self._alpha.now(done, self.state.max_steps)
        self.spec = replace(self.spec, alpha=alpha)
        evidence = Evidence() if self.rival is None else self.rival.evidence(asked, answers, completion_ids_list, task)
        with self.notes.measuring("time/credit"):
            combined, group = shape_reward(task, E.unflatten(0, (P, -1)), self.spec, evidence)  # (P, G)
        # TRL adds up the columns by their weights, and ours has weight 1.
        rewards[:, ours] = (combined - task).flatten().to(rewards.dtype)
        self.notes.task, self.notes.combined = task, combined
        self._log_diversity(task, combined, group)
        lengths = [len(ids) for ids in completion_ids_list]
        signs, lengths = measure_texts(texts, asked, lengths, self._answer_span, E.device)  # (N,) lengths
        self._log(signs)
        if self.model.training:
            self._observe(task, group, lengths, E)
        return rewards

    def _compute_loss(self, model: Any, inputs: dict) -> Tensor:
        # The signal's term reads TRL's own forward; what an algorithm adds stands around both.
        policy_loss = super()._compute_loss
        if self.rival is not None and self.model.training:
            policy_loss = partial(self.rival.loss, policy_loss)
        return self._joined_loss(policy_loss, model, inputs)

    def _joined_loss(self, policy_loss: Callable[[Any, dict], Tensor], model: Any, inputs: dict) -> Tensor:
        """Hook: what an algorithm minimises beside the policy's loss."""
        return policy_loss(model, inputs)

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        # Comes before the optimizer step, which a loss or gradient that is not finite must not reach.
        norm = super()._get_grad_norm(*args, **kwargs)
        losses, self.notes.losses = self.notes.losses, []
        if not self.args.fp16:  # its loss scaler meets such gradients by design and skips their steps
            faults.stop_before_nan(losses, norm, self)
        self._step_more()
        return norm

    def _step_more(self) -> None:
        """Hook: steps what an algorithm trains beside the policy."""

    # A checkpoint.

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with writing(self.args.output_dir, "add --resume"):  # a full disk is reported in a sentence
            super()._save_checkpoint(*args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)  # comes last before trainer_state.json
        save_memory(self, output_dir)

    # What the methods above are made of.

    def _task_reward(self, rewards: Tensor, ours: int) -> Tensor:
        """The weighted sum of all columns but ours: (N,), NaN where nothing could score a row."""
        others = [column for column in range(rewards.shape[1]) if column != ours]
        weights = self.reward_weights.to(rewards.device)  # (F,)
        task = (rewards[:, others].double() * weights[others]).nansum(dim=1)  # (N,)
        return task.masked_fill(rewards[:, others].isnan().all(dim=1), torch.nan)

    def _observe(self, task: Tensor, group: GroupCredit, lengths: Tensor, E: Tensor) -> None:
        """Updates what follows the run: alpha for the next rollout, and the drift of lengths and norms."""
        if task.isnan().all():
            raise RewardError(
                f"step {self.state.global_step + 1}: no reward function could score any of {task.numel()} responses "
                "(all None), so there is nothing to learn; fix the reward or the data."
            )
        self.rollout_alpha = self.spec.alpha
        self._log(self._drift.observe(lengths, E.norm(dim=1)))
        quality, noise = float(task.nanmean()), mean_error(task)
        done, last = self.state.global_step, self.state.max_steps
        self._alpha.observe(quality, float(group.vendi.mean()), done, last, noise)
        self._log(self._alpha.logs())

    def _log_diversity(self, task: Tensor, combined: Tensor, group: GroupCredit) -> None:
        scaling = getattr(self, "scale_rewards", "centred" if getattr(self, "normalize_advantages", False) else "none")
        if not self.spec.signal.acts_on_reward:
            scaling = "none"  # what acts on advantages or in the loss is divided by nothing
        guards = {"std_floor": self.args.std_floor, "decoupled": self.args.decouple_credit}
        buys = effective_alpha(self.spec.alpha, combined, scaling, **guards)
        self._log(measure_batch(task, combined, group) | {"alpha": self.spec.alpha, "alpha_effective": buys})

    def _replace_advantages(self, batch: dict[str, Any]) -> None:
        """Puts advantages in the place of TRL's where a setting or the signal asks for others."""
        task, shaped = self.notes.task, self.notes.combined  # (P, G) each
        here = self._own_rows(len(batch["advantages"]))
        floor, decoupled = self.args.std_floor, self.args.decouple_credit
        set_by_signal = self.rival is not None and self.rival.sets_advantages
        if floor or decoupled or set_by_signal or self.args.skip_tied_groups:
            trls = gather(batch["advantages"])  # (N,)
            advantages = trls.view_as(task).double()  # (P, G)
            if floor or decoupled:
                advantages = scaled_advantage(task, shaped, self.scale_rewards, std_floor=floor, decoupled=decoupled)
            if set_by_signal:
                advantages = self.rival.advantages(advantages, task)
            if self.args.skip_tied_groups:
                advantages = advantages.masked_fill(tied_groups(task).unsqueeze(1), 0.0)
            ours = advantages.flatten().to(trls.dtype)  # (N,)
            batch["advantages"] = ours[here]
            self._replace_logged_advantages(ours)
        if self.rival is not None:
            batch |= self.rival.columns(task, here)

    def completion_logps(self, model: Any, batch: dict[str, Any], batch_size: int | None = None) -> Tensor:
        """Compute log-probabilities of a batch's completions by the call that the loss makes: (N, C) nats."""
        columns = batch["completion_ids"].shape[1]
        score = self._get_per_token_logps_and_entropies
        return score(model, *step.join_rows(batch), columns, batch_size=batch_size)[0]

    def _own_rows(self, count: int) -> slice:
        """Where this process's rows lie in those of all."""
        return slice(self.accelerator.process_index * count, (self.accelerator.process_index + 1) * count)

    def _replace_logged_advantages(self, advantages: Tensor) -> None:
        """Puts (N,) of all processes into TRL's table of completions."""
        logged = self._logs["advantages"]  # holds a batch of training, which one of evaluation may exceed
        for _ in range(min(len(advantages), len(logged))):
            logged.pop()
        logged.extend(advantages.tolist())

    def _log(self, values: dict[str, float]) -> None:
        mode = "train" if self.model.training else "eval"
        for name, value in values.items():
            self._metrics[mode][name].append(value)


class DQOTrainer(DQOMixin, GRPOTrainer):
    """GRPO and its relatives (Dr. GRPO, DAPO, GSPO through TRL's own settings) with the diversity credit.

        trainer = DQOTrainer(
            model, reward_funcs=quality, args=DQOConfig("out", alpha=1.0, num_generations=8), train_dataset=dataset
        )
        trainer.train()

    Arguments are DQOMixin's, in TRL's order.
    """

    _config_class = DQOConfig


class DQORLOOTrainer(DQOMixin, RLOOTrainer):
    """RLOO with the diversity credit. Arguments are DQOTrainer's, with a DQORLOOConfig."""

    _config_class = DQORLOOConfig
