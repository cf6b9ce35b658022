"""What some signals need beside embeddings, computed only when the signal asks: log-probabilities, same answers."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from torch import Tensor
from trl import RLOOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import pad

from dqo.diversity.credit import Evidence, read_signal
from dqo.errors import RecipeError, RewardError
from dqo.rewards.loading import import_function

SameAnswer = Callable[[list[tuple[str, str]]], list[bool]]


class EvidenceMixin:
    """Gathers Evidence for the signal of `spec`, of DQOMixin.

    Args:
        model: policy, as the host takes it.
        reward_funcs: task rewards, as the host takes them.
        args: DQOConfig or DQORLOOConfig.
        **kwargs: anything else the host takes.

    Raises:
        RecipeError: a signal that reads log-probabilities of whole responses, and a policy with images or tools.
    """

    def __init__(self, model: Any, reward_funcs: Any = None, args: Any = None, **kwargs: Any) -> None:
        named = args.same_answer
        self._same_answer: SameAnswer | None = import_function(named, "same_answer", "pairs") if named else None
        self._prompt_ids: list[list[int]] = []
        super().__init__(model, reward_funcs, args, **kwargs)
        if "logp" in self.spec.needs and (self._is_vlm or getattr(self, "tools", None)):
            raise RecipeError(
                f"diversity={self.spec.diversity!r} needs a text policy that answers in one turn, got one with "
                "images or tools; choose a signal that reads embeddings."
            )

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        generated = super()._generate(*args, **kwargs)
        self._prompt_ids = generated[0]
        return generated

    def _evidence(self, texts: list[str], completion_ids: list[list[int]], task: Tensor) -> Evidence:
        """What the signal asks for, of all processes' rows; nothing is computed for the others.

        Args:
            texts: answers of this process's rows.
            completion_ids: their tokens.
            task: (P, G) task rewards of all rows; NaN takes a response out of the ranking.

        Returns:
            Evidence with the fields the signal reads.
        """
        logp = same = None
        if "logp" in self.spec.needs:
            logp = gather(self._sequence_logps(completion_ids)).view_as(task)  # (P, G)
            logp = logp.double().masked_fill(task.isnan(), torch.nan)
        if "same" in self.spec.needs:
            same = self._same_answers(gather_object(texts), *task.shape)  # (P, G, G)
        return Evidence(logp=logp, same=same)

    def _sequence_logps(self, completion_ids: list[list[int]]) -> Tensor:
        """Log-probability of each completion under the policy as it is: (N_local,) nats."""
        device, filler = self.accelerator.device, self._tokenizer.pad_token_id
        parts = []
        for rows, side in ((self._prompt_ids, "left"), (completion_ids, "right")):
            ids = [torch.tensor(row, dtype=torch.long) for row in rows]
            ones = [torch.ones_like(row) for row in ids]
            parts.append([pad(x, padding_value=fill, padding_side=side) for x, fill in ((ids, filler), (ones, 0))])
        (prompt, prompt_mask), (completion, mask) = parts  # (N_local, P) twice, (N_local, C) twice
        train, args = self.model.training, self.args
        with torch.no_grad(), disable_gradient_checkpointing(self.model, args.gradient_checkpointing_kwargs):
            logps, _, _ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([prompt, completion], dim=1).to(device),
                torch.cat([prompt_mask, mask], dim=1).to(device),
                completion.shape[1],
                batch_size=args.per_device_train_batch_size if train else args.per_device_eval_batch_size,
            )  # (N_local, C)
        return (logps * mask.to(device)).sum(dim=1)

    def _same_answers(self, texts: list[str], P: int, G: int) -> Tensor:
        """(P, G, G) bool above the diagonal; each process asks about its share of the groups."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        same = torch.zeros(P, G, G, device=self.accelerator.device)
        asked = []
        for p in range(rank, P, world):
            for i in range(G):
                for j in range(i + 1, G):
                    if texts[p * G + i] == texts[p * G + j]:
                        same[p, i, j] = 1.0
                    else:
                        asked.append((p, i, j))
        pairs = [(texts[p * G + i], texts[p * G + j]) for p, i, j in asked]
        answers = list(self._same_answer(pairs)) if pairs else []
        if len(answers) != len(pairs):
            raise RewardError(
                f"`same_answer` function {self.args.same_answer!r}: expected one boolean a pair, got {len(answers)} "
                f"for {len(pairs)} pairs; return a list as long as the one it is given."
            )
        for place, answer in zip(asked, answers, strict=True):
            same[place] = float(bool(answer))
        return self.accelerator.reduce(same, reduction="sum") > 0


# Entropy terms in the loss, from the log-probabilities and entropies that the host computes for it anyway.
#
# Seam: `_compute_loss`; the forward pass inside it goes through `_get_per_token_logps_and_entropies`, where its results
# are kept until the term is added, so no second forward is run.


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
        old = inputs.get("old_per_token_logps")
        old = logps.detach() if old is None else old  # (N, T)
        correct = inputs["correct"].to(torch.bool) if "correct" in inputs else None  # (N,)
        seen = Evidence(logps=logps, old_logps=old, entropies=entropies, mask=mask, correct=correct)
        return read_signal(seen, self.spec)
